"""Results outlive the code that made them: names of stages last, and a change of the science makes new ones."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fvar.config import STAGE_CONFIGS, RuntimeConfig, Stage, TokenizerConfig, TokensConfig, VarConfig, signature
from fvar.errors import UserError
from fvar.plain import Checked, from_dict, from_record, identity, identity_text, since, to_dict
from fvar.run import execute, git_commit
from fvar.rundir import RunDir

RECORDED = Path(__file__).parent / "golden" / "signatures.jsonl.gz"


def recorded() -> Iterator[dict[str, Any]]:
    """Every stage of every study as it was before fields and revisions were added."""
    yield from map(json.loads, gzip.decompress(RECORDED.read_bytes()).decode().splitlines())


def write_as_then(root: Path, stage: dict[str, Any]) -> Path:
    """A run directory as it was written then: nothing in it knows of revisions or of later fields."""
    body = {"format": 1, **{key: stage[key] for key in ("kind", "config", "inputs")}}
    path = root / str(stage["name"])
    path.mkdir(parents=True)
    (path / "provenance.json").write_text(json.dumps(body))
    (path / "config.json").write_text(json.dumps({**body, "runtime": {"threads": 1}}))
    return path


# ------------------------------------------------------------------------------------------------------ names that last


def test_stages_recorded_before_this_code_keep_their_names() -> None:
    stages = list(recorded())
    assert len(stages) == 420
    for stage in stages:
        config = from_record(STAGE_CONFIGS[stage["kind"]], stage["config"])
        inputs = {role: name.rpartition("-")[2] for role, name in stage["inputs"].items()}
        assert f"{stage['kind']}-{signature(config, inputs, revision=1)}" == stage["name"]


def test_a_directory_made_then_opens_shows_and_serves_as_an_input(tmp_path: Path) -> None:
    stages = {stage["name"]: stage for stage in recorded()}
    chosen = next(stage for stage in stages.values() if stage["kind"] == "var" and "alias" in stage["inputs"])
    for name in (chosen["name"], *chosen["inputs"].values()):
        write_as_then(tmp_path, stages[name])
    write_as_then(tmp_path, stages[stages[chosen["inputs"]["tokens"]]["inputs"]["tokenizer"]])
    run = RunDir.open(tmp_path / chosen["name"])
    assert isinstance(run.config, VarConfig)
    assert run.revision == 1
    assert run.status.state == "waiting"
    tokenizer = run.input("tokens").input("tokenizer").config
    assert isinstance(tokenizer, TokenizerConfig)
    assert (
        to_dict(tokenizer.pyramid)["rho_max"]
        == stages[run.input("tokens").input_names["tokenizer"]]["config"]["pyramid"]["rho_max"]
    )


def test_an_edit_of_an_old_directory_is_still_noticed(tmp_path: Path) -> None:
    stage = next(stage for stage in recorded() if stage["kind"] == "tokenizer")
    path = write_as_then(tmp_path, stage)
    stage["config"]["train"]["lr"] = 0.5
    (path / "config.json").write_text(json.dumps({key: stage[key] for key in ("kind", "config", "inputs")}))
    with pytest.raises(UserError, match=r"was edited after the directory was made .*train\.lr"):
        RunDir.open(path)


# --------------------------------------------------------------------------------------------------------- added fields


@dataclass(frozen=True)
class Inner(Checked):
    width: int = 4


@dataclass(frozen=True)
class Before(Checked):
    depth: int = 16
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


@dataclass(frozen=True)
class InnerAfter(Checked):
    width: int = 4
    gain: float = since(2.0, before=1.0)  # the new default is not what was computed before


@dataclass(frozen=True)
class After(Checked):
    depth: int = 16
    inner: InnerAfter = field(default_factory=InnerAfter)
    maybe: InnerAfter | None = None
    extra: Inner = since(default_factory=Inner, before=Inner())


@given(depth=st.integers(1, 99), width=st.integers(1, 99), teacher=st.booleans())
def test_a_field_added_later_changes_no_identity_while_it_means_as_before(
    depth: int, width: int, teacher: bool
) -> None:
    old = Before(depth, Inner(width), Inner(width + 1) if teacher else None)
    new = from_record(After, to_dict(old))
    assert new.inner.gain == 1.0
    assert new.maybe is None or new.maybe.gain == 1.0
    assert identity(new) == to_dict(old)
    assert from_record(After, to_dict(new)) == new


def test_another_value_than_before_is_another_identity() -> None:
    base = from_record(After, to_dict(Before()))
    for changed in (replace(base, inner=InnerAfter(gain=1.5)), replace(base, extra=Inner(5))):
        assert identity(changed) != identity(base)
        assert from_record(After, to_dict(changed)) == changed


@dataclass(frozen=True)
class Anything(Checked):
    z: str
    number: float
    a: tuple[bool, ...]
    maybe: int | None
    parts: tuple[InnerAfter, ...] = (InnerAfter(), InnerAfter(gain=1.0))


@given(st.text(), st.floats(allow_nan=False), st.lists(st.booleans()), st.none() | st.integers())
def test_what_is_hashed_is_the_identity_as_sorted_json(
    text: str, number: float, flags: list[bool], maybe: int | None
) -> None:
    config = Anything(text, number, tuple(flags), maybe)
    assert identity_text(config) == json.dumps(identity(config), sort_keys=True)


def test_settings_typed_by_a_user_get_defaults_not_what_was_before() -> None:
    assert from_dict(After, {"depth": 3}).inner.gain == 2.0


def test_an_unknown_key_of_a_record_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown key in After.inner 'wdth' \(did you mean 'width'\?\)"):
        from_record(After, {"inner": {"wdth": 3}})


def test_where_something_lies_can_be_left_out_of_what_it_is() -> None:
    @dataclass(frozen=True)
    class Data(Checked):
        content: str = ""
        root: str = ""

        def outside_identity(self) -> tuple[str, ...]:
            return ("root",) if self.content else ()

    assert identity(Data("sha", "/here")) == identity(Data("sha", "/there"))
    assert identity(Data("", "/here")) != identity(Data("", "/there"))


# ------------------------------------------------------------------------------------------------------------ revisions


def chain() -> Stage:
    return Stage(VarConfig(), {"tokens": Stage(TokensConfig(), {"tokenizer": Stage(TokenizerConfig())})})


def test_raising_a_revision_renames_the_stage_and_all_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {stage.kind: stage.name for stage in chain().chain()}
    monkeypatch.setattr(TokensConfig, "REVISION", TokensConfig.REVISION + 1)
    after = {stage.kind: stage.name for stage in chain().chain()}
    assert {kind for kind in before if before[kind] != after[kind]} == {"tokens", "var"}


def test_a_directory_of_an_older_revision_is_read_but_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RunDir.create(tmp_path, chain(), RuntimeConfig())
    assert made.outdated == ""
    monkeypatch.setattr(TokenizerConfig, "REVISION", TokenizerConfig.REVISION + 1)
    opened = RunDir.open(made.path)
    tokenizer = opened.input("tokens").input("tokenizer")
    now = TokenizerConfig.REVISION
    assert opened.outdated == tokenizer.outdated == f"tokenizer of revision {now - 1}, now {now}"
    with pytest.raises(UserError, match="repeat the study's command for a new one"):
        execute(tokenizer.path)
    again = RunDir.create(tmp_path, chain(), RuntimeConfig())
    assert again.path != made.path
    assert again.outdated == ""


def test_a_finished_directory_of_an_older_revision_stays_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RunDir.create(tmp_path, Stage(TokenizerConfig()), RuntimeConfig())
    made.update(state="done")
    monkeypatch.setattr(TokenizerConfig, "REVISION", TokenizerConfig.REVISION + 1)
    assert execute(made.path).state == "done"


@pytest.mark.parametrize(
    ("revision", "message"), [(99, "made by a newer fvar"), (0, "revision must"), ("2", "must be")]
)
def test_a_revision_that_cannot_be_is_refused(tmp_path: Path, revision: object, message: str) -> None:
    path = RunDir.create(tmp_path, Stage(TokenizerConfig()), RuntimeConfig()).path
    body = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**body, "revision": revision}))
    with pytest.raises(UserError, match=message):
        RunDir.open(path)


# -------------------------------------------------------------------------------------------------------------- commits


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_the_sources_own_not_that_of_a_repository_around_it(tmp_path: Path) -> None:
    around, source = tmp_path, tmp_path / "venv" / "site-packages"
    (source / "fvar").mkdir(parents=True)
    (source / "fvar" / "__init__.py").write_text("")
    git(around, "init", "-q")
    git(around, "add", ".")
    git(around, "commit", "-qm", "around")
    assert git_commit(source) == ""
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-qm", "own")
    assert git_commit(source) == git(source, "rev-parse", "HEAD") != git(around, "rev-parse", "HEAD")
    (source / "fvar" / "__init__.py").write_text("changed")
    assert git_commit(source).endswith("+")
