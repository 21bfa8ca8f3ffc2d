"""Stage kinds of one's own: a module beside fvar that says what is configured, what is computed, and of what.

    @dataclass(frozen=True)
    class DigitsConfig(StageConfig):
        kind: ClassVar[str] = "digits"
        REVISION: ClassVar[int] = 1  # 1: first
        hidden: int = 32

    def run(run: RunDir) -> Mapping[str, float]:
        ...

    STAGES = (StageKind(DigitsConfig, run, numbers=("accuracy",)),)
    STUDY = Study("digits", "...", cells, columns=(Metric("accuracy", "Accuracy", 3, "higher"),))

`--plugin MODULE` of every command loads it, and so does the variable FVAR_PLUGINS (names with commas between them); a
package that is installed names its modules by the entry point group `fvar.stages`. Its stages then are run, named,
resumed, recomputed and shown like fvar's own. docs/examples has a whole one.

A run directory names the module it needs, but nothing is imported because a file says so: whoever reads it says which
plugins to load. Processes that are started from here, jobs on a cluster among them, load the same.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType

from fvar.config import PLUGINS, STAGE_CONFIGS, Stage, StageConfig
from fvar.errors import UserError, not_loaded, one_line
from fvar.machine import atomic
from fvar.machine.names import plain
from fvar.rundir import RunDir

VARIABLE = "FVAR_PLUGINS"
GROUP = "fvar.stages"  # of entry points
RESERVED = ("train", "data", "runtime", "slurm")  # what `--set` calls something else
SCORES = "scores.json"

KINDS: dict[str, StageKind] = {}
MODULES: dict[str, ModuleType] = {}  # by name, in the order in which they were loaded


@dataclass(frozen=True)
class StageKind:
    """A kind of stage that a plugin adds.

    Parameters
    ----------
    config
        What it is configured by: a frozen dataclass that extends `fvar.config.StageConfig`, of plain values.
    run
        Does the work in a run directory, and returns the stage's numbers by name, or None where it has none. Whatever
        it leaves in the directory is kept; `run.input(role)` is the directory of a stage that it reads.
    needs
        The stages it reads: kind by role. fvar's own kinds are as good as a plugin's.
    numbers
        The names of what `run` returns, kept in scores.json. A study's columns show them.

    Raises
    ------
    UserError
        Where one of these is not what it must be.
    """

    config: type[StageConfig]
    run: Callable[[RunDir], Mapping[str, float] | None]
    needs: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = getattr(self.config, "__name__", repr(self.config))
        parameters = getattr(self.config, "__dataclass_params__", None)
        if not (isinstance(self.config, type) and issubclass(self.config, StageConfig)):
            raise UserError(f"{name} must extend fvar.config.StageConfig")
        if parameters is None or not parameters.frozen or "__dataclass_params__" not in vars(self.config):
            raise UserError(f"{name} must be a frozen dataclass; write @dataclass(frozen=True) above it")
        kind, revision = getattr(self.config, "kind", None), getattr(self.config, "REVISION", None)
        if not isinstance(kind, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", kind) or kind in RESERVED:
            raise UserError(
                f'{name} must name its kind, in small letters: kind: ClassVar[str] = "..." ({", ".join(RESERVED)} are '
                "taken)"
            )
        if not isinstance(revision, int) or revision < 1:
            raise UserError(f"{name} must say which revision of it this is: REVISION: ClassVar[int] = 1")
        if not callable(self.run):
            raise UserError(f"stage kind {kind!r} has no run, a function that takes its run directory")


# ------------------------------------------------------------------------------------------------------------- loading


def load(names: Sequence[str] = ()) -> None:
    """Import what is installed, what FVAR_PLUGINS names and these modules, and add their stage kinds.

    Processes started from here on find and load the same. Raises `UserError` for a module that does not import, that
    declares nothing or something wrong, or a kind that exists already.
    """
    before = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    asked = list(dict.fromkeys(filter(None, [*before, *names])))
    for name in dict.fromkeys([*(entry.module for entry in metadata.entry_points(group=GROUP)), *asked]):
        if name not in MODULES:
            _add(name, _imported(name))
    if asked:
        os.environ[VARIABLE] = ",".join(asked)
        known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        missing = [folder for folder in folders() if folder not in known]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*known, *missing]))


def _imported(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        module = name.removesuffix(".py").replace("/", ".")
        raise UserError(f"--plugin {name} is not the name of a module; write it as Python imports it: {module}")
    try:
        return importlib.import_module(name)
    except UserError as error:
        raise UserError(f"plugin {name}: {error}") from None
    except (Exception, SystemExit) as error:
        where = "" if not isinstance(error, ModuleNotFoundError) else "; it must be found from here, or on PYTHONPATH"
        raise UserError(f"plugin {name} does not import: {one_line(error)}{where}") from error


def _add(name: str, module: ModuleType) -> None:
    kinds = getattr(module, "STAGES", ())
    if not isinstance(kinds, tuple | list) or not all(isinstance(kind, StageKind) for kind in kinds):
        raise UserError(f"plugin {name}: STAGES must hold what it adds, (StageKind(CONFIG, run), ...); found {kinds!r}")
    if not kinds and not hasattr(module, "STUDY"):
        raise UserError(f"plugin {name} declares neither STAGES nor a STUDY")
    for kind in kinds:
        own = kind.config.kind
        if PLUGINS.get(own, name) != name:
            raise UserError(f"plugins {PLUGINS[own]} and {name} both declare the stage kind {own!r}; leave one out")
        if own in STAGE_CONFIGS:
            raise UserError(f"plugin {name}: the stage kind {own!r} exists already; give it another name")
        KINDS[own], PLUGINS[own], STAGE_CONFIGS[own] = kind, name, kind.config
    MODULES[name] = module


def require(module: str, what: str) -> None:
    """Raise `UserError` where `what` is of a plugin that is not loaded; "" is none."""
    if module and module not in MODULES:
        raise not_loaded(what, module)


# --------------------------------------------------------------------------------------------------------- for the jobs


def asked() -> list[str]:
    """The plugins that were named, not installed: what a job must be told to load."""
    return list(filter(None, os.environ.get(VARIABLE, "").split(",")))


def folders() -> list[str]:
    """Where these are found, as entries of PYTHONPATH."""
    return list(dict.fromkeys(plain(root, os.pathsep).as_posix() for root, _ in _places()))


def sources() -> dict[Path, Path]:
    """The files of these by their place below such a folder: the module, or the whole package that it is part of."""
    found: dict[Path, Path] = {}
    for root, file in _places():
        inside = file.relative_to(root)
        packages = (root / parent for parent in reversed(inside.parents) if (root / parent / "__init__.py").exists())
        package = next(packages, None)
        files = [file] if package is None else package.rglob("*")
        found |= {path.relative_to(root): path for path in files if path.is_file() and "__pycache__" not in path.parts}
    return found


def _places() -> Iterator[tuple[Path, Path]]:
    """Of every plugin that is not installed: the folder its name starts from, and its file."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}
    for name in asked():
        file = Path(MODULES[name].__file__ or "").resolve()
        depth = name.count(".") + (file.name == "__init__.py")
        root = file.parents[depth]
        if root not in installed:
            yield root, file


# ----------------------------------------------------------------------------------------------------------- the stages


def compute(run: RunDir) -> None:
    """Do a stage's work: by its file in `fvar.stages`, or by its plugin, whose numbers become scores.json.

    Raises `UserError` where a plugin's numbers are not those it declares.
    """
    kind = KINDS.get(run.kind)
    if kind is None:
        importlib.import_module(f"fvar.stages.{run.kind}").run(run)
        return
    numbers = {name: float(value) for name, value in (kind.run(run) or {}).items()}
    if set(numbers) != set(kind.numbers):
        told, declared = (", ".join(sorted(names)) or "none" for names in (numbers, kind.numbers))
        raise UserError(f"stage kind {run.kind!r} declares the numbers {declared}, and its run returned {told}")
    scores = {
        name: {"value": value, "reason": ""} if math.isfinite(value) else {"value": None, "reason": f"it is {value}"}
        for name, value in numbers.items()
    }
    atomic.write_json(run.path / SCORES, scores)


def require_inputs(stage: Stage) -> None:
    """Raise `UserError` where a plugin's stage, or one above it, reads other stages than its kind needs."""
    if not KINDS:
        return
    for part in stage.chain():
        if kind := KINDS.get(part.kind):
            given = {role: upstream.kind for role, upstream in part.inputs.items()}
            if given != dict(kind.needs):
                wanted, found = (
                    ", ".join(f"{role} ({of})" for role, of in sorted(roles.items())) or "nothing"
                    for roles in (kind.needs, given)
                )
                raise UserError(f"a stage of kind {part.kind!r} needs {wanted}, and a cell gives it {found}")


def provenance(kind: str) -> Mapping[str, str]:
    """Which module computes a plugin's stages, and the hash of its file; empty for fvar's own."""
    if kind not in KINDS:
        return {}
    module = MODULES[PLUGINS[kind]]
    content = Path(module.__file__ or "").read_bytes()
    return {"plugin": module.__name__, "plugin_sha256": hashlib.sha256(content).hexdigest()}
