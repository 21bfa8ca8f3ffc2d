"""Cluster profiles: what to ask SLURM for, as a TOML file, checked key by key; studies/profiles has one.

partition = "gpu"
gres = "gpu:8"
time = "24:00:00"

[scores]            # a table named after a stage kind replaces settings for it
gres = "gpu:1"
packing = 8         # eight of them in one job,
side_by_side = 4    # four at once on its one GPU

[readability]
cluster = "local"   # not in SLURM, but on the driver's machine
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fvar.config import STAGE_CONFIGS
from fvar.errors import UserError, unknown
from fvar.plain import Checked, from_dict

FOLDER = Path(__file__).resolve().parents[1] / "profiles"  # of those that come with fvar
DEFAULT = Path("a100")
AUTO = "auto"
OURS = ("job-name", "array", "dependency", "signal", "requeue", "chdir", "output", "open-mode", "kill-on-invalid-dep")
COUNTS = ("nodes", "tasks_per_node", "cpus_per_task", "array_parallelism", "array_size", "packing", "side_by_side")


@dataclass(frozen=True)
class Resources(Checked):
    """What one job asks for. Empty text and 0 leave a setting to the cluster."""

    cluster: Literal["slurm", "local"] = "slurm"  # local: on the driver's machine, as many at once as --jobs says
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""  # per node, e.g. "gpu:8"
    nodes: int = 1
    tasks_per_node: int = 1  # processes; with several, one per GPU
    cpus_per_task: int = 1
    memory: str = ""  # per node, e.g. "64G"
    time: str = "24:00:00"  # D-HH:MM:SS, HH:MM:SS, MM:SS, minutes; "auto": half more than stages before it suggest
    reservation: str = ""
    nice: int = 0  # the larger, the later in the queue
    extra: tuple[str, ...] = ()  # any other options of sbatch, such as "exclude=n7" or "exclusive"
    setup: tuple[str, ...] = ()  # shell lines before the stage
    array_parallelism: int = 64  # jobs that may run at once, of a study; for one kind: of that kind
    array_size: int = 1000  # jobs per array; also kept below the cluster's MaxArraySize
    packing: int = 1  # stages that one job runs, one after another; for short ones
    side_by_side: int = 1  # of these at once, on the GPUs, cores and memory of the one job
    gather: float = 60.0  # seconds for which a stage waits until there are enough for a whole pack
    requeues: int = 100  # restarts after preemption or the time limit that one job gets
    warning: int = 90  # seconds before the limit at which a stage is told to write its checkpoint
    poll: float = 5.0  # seconds between two questions to the cluster

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes * 60 < 2 * self.warning:
            raise UserError(
                f"slurm.time {self.time!r} is too short: stages must stop {self.warning} s before it (slurm.warning)"
            )
        for option in self.extra:
            if not re.fullmatch(r"[a-z][a-z-]*(=[^\n]*)?", option):
                raise UserError(
                    f'slurm.extra {option!r} is not an option; write for example ["exclude=n7", "exclusive"]'
                )
            if option.partition("=")[0] in OURS:
                raise UserError(
                    f"slurm.extra must not set --{option.partition('=')[0]}: the driver finds its jobs by it"
                )
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"slurm.{name} must be at least 1, got {getattr(self, name)}")
        if self.packing > 1 and self.nodes * self.tasks_per_node > 1:
            raise UserError(
                f"slurm.packing = {self.packing} is for stages of one process, and these have "
                f"{self.nodes * self.tasks_per_node}; set nodes = 1 and tasks_per_node = 1, or packing = 1"
            )
        if self.side_by_side > self.packing:
            raise UserError(
                f"slurm.side_by_side = {self.side_by_side} needs a job of as many stages; set packing to that, or more"
            )
        if self.gather < 0:
            raise UserError(f"slurm.gather must not be negative, got {self.gather:g}")

    @property
    def minutes(self) -> int:
        """The time limit; the default where it is to be predicted and nothing is known yet."""
        if self.time == AUTO:
            return 24 * 60
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time)
        if not match:
            raise UserError(f"slurm.time {self.time!r} is not a time; write for example 24:00:00 or 2-12:00:00")
        days, first, second, third = (int(group or 0) for group in match.groups())
        if match[1] or match[4]:  # D-HH[:MM[:SS]] or HH:MM:SS
            return days * 1440 + first * 60 + second + (third > 0)
        return first  # MM or MM:SS


@dataclass(frozen=True)
class Profile:
    """A cluster: settings for all stages, and what differs for some kinds."""

    name: str
    common: Resources
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, changes: Iterable[tuple[str, Any]] = ()) -> Profile:
        """Read a profile, a file or the name of one that comes with fvar, and apply `--set slurm.…`.

        Raises `UserError`, which lists the valid keys for a wrong one.
        """
        shipped = {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}
        file = shipped.get(str(path), path)
        try:
            body = tomllib.loads(file.read_text())
        except OSError as error:
            raise UserError(
                f"--profile {path} cannot be read ({error.strerror}); name a file, or one that comes with fvar: "
                f"{', '.join(shipped)}"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"--profile {path} is not valid TOML ({error})") from None
        for dotted, value in changes:
            kind, _, key = dotted.rpartition(".")
            (body.setdefault(kind, {}) if kind else body)[key] = value
        keys = [item.name for item in dataclasses.fields(Resources)]
        for kind in STAGE_CONFIGS.keys() & set(keys):
            raise UserError(f"a plugin's stage kind is named {kind!r}, which profiles call a setting; give it another")
        for key in body:
            if key not in keys and key not in STAGE_CONFIGS:
                raise unknown(f"key in profile {path.stem}", key, [*keys, *STAGE_CONFIGS])
        kinds = {key: value for key, value in body.items() if key in STAGE_CONFIGS}
        profile = cls(file.stem, _resources(body.keys() - kinds.keys(), body, file.stem), kinds)
        for kind in kinds:
            profile.of(kind)
        return profile

    def of(self, kind: str) -> Resources:
        """What jobs of this stage kind ask for."""
        own = self.kinds.get(kind, {})
        if not isinstance(own, Mapping):
            raise UserError(f"profile {self.name}: [{kind}] must be a table of settings, got {own!r}")
        return _resources(
            own.keys() | dataclasses.asdict(self.common).keys(),
            {**dataclasses.asdict(self.common), **own},
            f"{self.name}.{kind}",
        )


def _resources(keys: Iterable[str], body: Mapping[str, Any], where: str) -> Resources:
    return from_dict(Resources, {key: body[key] for key in keys}, f"profile {where}")
