"""`--set KIND.PATH=VALUE`: settings changed on the command line, for a stage kind, the runtime or the cluster profile.

    --set var.train.steps=50           one setting of one kind of stage
    --set train.steps=50               both networks; `data.` likewise reaches every stage that reads images
    --set scores.reference=adm:/f.npz  statistics that ADM published, in place of the preset's images; adds sFID
    --set preset.alias_vocab=128       a field of the preset, for what is not one setting of one kind of stage
    --set runtime.compile=true         how stages run, not what they compute
    --set slurm.time=12:00:00          the cluster profile

Changed stages are other stages: they have directories of their own, and so has the table of a study made of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fvar.config import STAGE_CONFIGS, DataConfig, PublishedConfig, RuntimeConfig, ScoresConfig, Stage, StageConfig
from fvar.errors import UserError, unknown
from fvar.plain import from_dict, replace_path, to_dict
from studies.presets import Preset
from studies.study import Cell

# What a shorthand means for each kind of stage.
SHORTHANDS: dict[str, dict[str, str]] = {
    "train": {"tokenizer": "train", "var": "train"},
    "data": {"tokenizer": "data", "tokens": "data", "scores": "reference", "var": "curve.scores.reference"},
}
ELSEWHERE = ("runtime", "slurm")
PRESET = "preset"
T = TypeVar("T", bound=StageConfig | DataConfig)


@dataclass(frozen=True)
class Change:
    """One `--set`, as typed and taken apart."""

    text: str
    head: str  # stage kind, shorthand, "runtime", "slurm" or "preset"
    path: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> Change:
        """Values are JSON where they can be (numbers, true, lists), otherwise text. Raises `UserError`."""
        target, equals, raw = text.partition("=")
        head, dot, path = target.strip().partition(".")
        if not (equals and dot and path):
            raise UserError(f"--set {text}: write KIND.PATH=VALUE, for example --set var.train.steps=50")
        valid = [*STAGE_CONFIGS, *SHORTHANDS, *ELSEWHERE, PRESET]
        if head not in valid:
            raise unknown("first part of --set", head, valid)
        try:
            value = json.loads(raw)
        except json.JSONDecodeError:
            value = raw
        return cls(text, head, path, value)

    def path_in(self, kind: str) -> str:
        """Where the change applies in the configuration of a stage kind; empty if it does not."""
        if self.head in SHORTHANDS:
            prefix = SHORTHANDS[self.head].get(kind)
            return f"{prefix}.{self.path}" if prefix else ""
        return self.path if self.head == kind else ""


@dataclass(frozen=True)
class Settings:
    """All `--set` of a command."""

    changes: tuple[Change, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Settings:
        return cls(tuple(map(Change.parse, texts)))

    @property
    def science(self) -> list[str]:
        """The changes that make other results, as typed."""
        return [change.text for change in self.changes if change.head not in ELSEWHERE]

    def label(self, preset: str) -> str:
        """The preset's name, with a hash of the changed settings where there are any: "smoke-1f0c3a"."""
        if not self.science:
            return preset
        return f"{preset}-{hashlib.sha256(json.dumps(sorted(self.science)).encode()).hexdigest()[:6]}"

    def on_data(self, preset: Preset, verify: bool = False) -> Preset:
        """The preset on the data set that `data.` settings name, identified by its content.

        A root of one kind of stage alone is left to `apply`. Raises `UserError` where its files cannot be read.
        """
        changed = {
            change.path: change.value
            for change in self.changes
            if change.head == "data" and change.path in ("dataset", "root")
        }
        if not changed:
            return preset
        return dataclasses.replace(preset, data=_replace_all(preset.data, changed).found(verify))

    def on_preset(self, preset: Preset) -> Preset:
        """The preset with its own fields changed, as `preset.` settings say. Raises `UserError` for an unknown one."""
        for change in self.changes:
            if change.head == PRESET:
                preset = replace_path(preset, change.path, change.value)
        return preset

    def runtime(self) -> RuntimeConfig:
        config = RuntimeConfig()
        for change in self.changes:
            if change.head == "runtime":
                config = replace_path(config, change.path, change.value)
        return config

    def slurm(self) -> list[tuple[str, Any]]:
        """Changes of the cluster profile: dotted path and value."""
        return [(change.path, change.value) for change in self.changes if change.head == "slurm"]

    def apply(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells with their stages changed. Raises `UserError` for a setting that no stage has."""
        if not self.science:
            return list(cells)
        memo: dict[str, Stage] = {}
        used: set[str] = set()
        changed = [dataclasses.replace(cell, stage=self._stage(cell.stage, memo, used)) for cell in cells]
        for change in self.changes:
            if cells and change.head not in (*ELSEWHERE, PRESET) and change.text not in used:
                raise UserError(f"--set {change.text}: no stage of this study has this setting")
        return changed

    def _stage(self, stage: Stage, memo: dict[str, Stage], used: set[str]) -> Stage:
        if stage.name not in memo:
            inputs = {role: self._stage(upstream, memo, used) for role, upstream in stage.inputs.items()}
            memo[stage.name] = Stage(self._config(stage.config, used), inputs)
        return memo[stage.name]

    def _config(self, config: StageConfig, used: set[str]) -> StageConfig:
        values: dict[str, Any] = {}
        for change in self.changes:
            path = change.path_in(config.kind)
            if path and not _absent(config, path):
                used.add(change.text)
                values[path] = change.value
        if isinstance(config, ScoresConfig) and "reference" in values:
            values["published"] = to_dict(_published(values.pop("reference")))
        made = _replace_all(config, values)
        for path in values:
            *parents, leaf = path.split(".")
            if leaf in ("dataset", "root"):  # other files: what identifies them is known once all settings are
                data = functools.reduce(getattr, parents, made)
                if isinstance(data, DataConfig):
                    made = replace_path(made, ".".join(parents), data.found())
        return made


def option(path: str, value: Any) -> str:
    """What follows `--set` for a value: "var.train.lr=0.0003"."""
    return f"{path}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"


def _published(value: Any) -> PublishedConfig:
    """What `scores.reference` names as a whole: "adm:/path.npz"."""
    kind, _, path = str(value).partition(":")
    if kind != "adm" or not path:
        raise UserError(
            f"scores.reference {value!r} names no statistics; write scores.reference=adm:/path.npz, or set "
            "scores.reference.dataset and .root for images"
        )
    return PublishedConfig.of(path)


def _absent(config: Any, path: str) -> bool:
    """Whether the path leads through a part this configuration was made without, such as a teacher."""
    *parents, _ = path.split(".")
    for name in parents:
        config = getattr(config, name, config)
    return config is None


def _replace_all(config: T, values: Mapping[str, Any]) -> T:
    """Change several settings at once, since some (image size and patch_nums) are only valid together."""
    body = to_dict(config)
    for path, value in values.items():
        *parents, leaf = path.split(".")
        place = body
        for name in parents:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise UserError(f"{type(config).__name__}.{path}: {name} has no settings of its own")
        place[leaf] = value
    return from_dict(type(config), body)
