"""The run directory is the truth: one writer, no torn files, no silent edits."""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
from pathlib import Path

import pytest

from fvar.config import (
    DataConfig,
    ReadabilityConfig,
    RuntimeConfig,
    Stage,
    TokenizerConfig,
    TokensConfig,
    TrainConfig,
    VarConfig,
)
from fvar.errors import UserError
from fvar.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, Stage(VarConfig()), RuntimeConfig())


def edit(run: RunDir, key: str, value: object) -> None:
    body = json.loads((run.path / "config.json").read_text())
    body["config"]["train"][key] = value
    (run.path / "config.json").write_text(json.dumps(body))


def test_create_makes_the_inputs_and_open_finds_them(tmp_path: Path) -> None:
    tokens = Stage(TokensConfig(), {"tokenizer": Stage(TokenizerConfig())})
    made = RunDir.create(tmp_path, Stage(VarConfig(), {"tokens": tokens}), RuntimeConfig(threads=3))
    opened = RunDir.open(made.path)
    assert opened.config == VarConfig()
    assert opened.runtime.threads == 3
    assert opened.input("tokens").input("tokenizer").kind == "tokenizer"


def test_creating_twice_keeps_the_first(run: RunDir) -> None:
    run.update(step=7)
    again = RunDir.create(run.path.parent, Stage(VarConfig()), RuntimeConfig())
    assert again.status.step == 7


def test_a_directory_follows_its_data_to_where_they_lie_now(tmp_path: Path) -> None:
    before, now = (Stage(TokensConfig(data=DataConfig(root=root, content="0" * 32))) for root in ("/before", "/now"))
    RunDir.create(tmp_path, before, RuntimeConfig()).follow(now)
    followed = RunDir.open(tmp_path / before.name)
    assert followed.config == now.config
    assert (followed.name, followed.signature) == (now.name, now.signature)


def test_edited_config_is_refused_with_the_difference(run: RunDir) -> None:
    edit(run, "lr", 0.5)
    with pytest.raises(UserError, match=r"was edited .*config\.train\.lr: 0\.0001 -> 0\.5"):
        RunDir.open(run.path)


def test_a_directory_is_read_and_hashed_once_until_its_config_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(VarConfig(), {"tokens": Stage(TokensConfig(), {"tokenizer": Stage(TokenizerConfig())})})
    run = RunDir.create(tmp_path, stage, RuntimeConfig())
    upstream = run.input("tokens").input("tokenizer")
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "_open", lambda path: pytest.fail(f"{path} was read again"))
        assert run.input("tokens").input("tokenizer") is upstream
        assert RunDir.open(run.path) is run
    edit(upstream, "lr", 0.5)
    with pytest.raises(UserError, match="was edited"):
        run.input("tokens").input("tokenizer")


def test_runtime_settings_may_be_edited(run: RunDir) -> None:
    body = json.loads((run.path / "config.json").read_text())
    body["runtime"]["log_every"] = 3
    (run.path / "config.json").write_text(json.dumps(body))
    assert RunDir.open(run.path).runtime.log_every == 3


def test_directory_of_another_name_is_refused(run: RunDir) -> None:
    moved = run.path.rename(run.path.parent / "var-0000000000000000")
    with pytest.raises(UserError, match="was renamed, or made by a version of fvar with other settings"):
        RunDir.open(moved)


def test_edit_is_noticed_even_without_provenance(run: RunDir) -> None:
    edit(run, "lr", 0.5)
    (run.path / "provenance.json").unlink()
    with pytest.raises(UserError, match="was edited"):
        RunDir.open(run.path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "not valid JSON"), ("[]", "no JSON object"), ("{}", "has no 'kind'"),
     ('{"kind": "vra", "config": {}, "inputs": {}}', "did you mean 'var'")],
)  # fmt: skip
def test_broken_config_says_what_is_wrong(run: RunDir, text: str, message: str) -> None:
    (run.path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        RunDir.open(run.path)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"null", b"{}"])
def test_what_is_said_of_a_damaged_config_heals_it(run: RunDir, content: bytes) -> None:
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"restore it: cp .*provenance\.json .*config\.json$") as told:
        RunDir.open(run.path)
    subprocess.run(str(told.value).partition("restore it: ")[2], shell=True, check=True)
    assert RunDir.open(run.path).name == run.name


def test_input_name_cannot_lead_elsewhere(tmp_path: Path, run: RunDir) -> None:
    body = json.loads((run.path / "config.json").read_text())
    body["inputs"] = {"tokens": "../../etc"}
    (run.path / "config.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="is not the name of a run directory"):
        RunDir.open(run.path)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[{}]",
        b'"{"',
        b'{"step": 2}',
        b'{"step": "2", "split": "train"}',
        b'{"step": 2, "split": "train", "loss": []}',
        b'{"step": 2, "split": "train", "loss": null}',
        b"\xff{\x00",
    ],
)
def test_damaged_records_are_left_out(run: RunDir, line: bytes) -> None:
    run.log_metrics(1, {"loss": 1.0})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(line + b"\n")
    run.log_metrics(2, {"loss": float("nan")})
    assert [record["step"] for record in run.metrics()] == [record["step"] for record in run.metrics("train")] == [1, 2]
    run.forget_metrics_after(1)
    assert [record["step"] for record in run.metrics()] == [1]
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 1


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; name a run directory"):
        RunDir.open(tmp_path / "var-0123456789abcdef")


def test_status_survives_and_hides_infinite_numbers(run: RunDir) -> None:
    run.update(state="running", loss=math.nan, rate=3.5)
    status = RunDir.open(run.path).status
    assert (status.state, status.loss, status.rate) == ("running", None, 3.5)
    assert status.updated


def test_torn_status_reads_as_waiting(run: RunDir) -> None:
    (run.path / "status.json").write_text('{"state": "ru')
    assert run.status.state == "waiting"


def test_metrics_keep_what_is_not_finite_and_skip_a_torn_line(run: RunDir) -> None:
    run.log_metrics(1, {"loss": math.inf})
    run.log_metrics(2, {"loss": 2.0}, split="heldout")
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "spl')
    assert [record["loss"] for record in run.metrics()] == [math.inf, 2.0]
    assert [record["step"] for record in run.metrics("heldout")] == [2]
    run.forget_metrics_after(2)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (run.path / "metrics.jsonl").open()]
    assert [line["loss"] for line in lines] == ["inf", 2.0]


def test_steps_to_be_repeated_are_forgotten(run: RunDir) -> None:
    for step in range(1, 6):
        run.log_metrics(step, {"loss": float(step)})
    run.forget_metrics_after(3)
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]


def hold(path: Path, ready: object, release: object) -> None:
    with RunDir.open(path).lock():
        ready.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


def test_second_process_is_refused_until_the_first_ends(run: RunDir) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(run.path, ready, release), daemon=True)
    holder.start()
    assert ready.wait(60)
    assert run.locked
    with pytest.raises(UserError, match=f"is being written by process {holder.pid}"), run.lock():
        pass
    holder.kill()
    holder.join()
    with run.lock():
        assert run.locked
    assert not run.locked


def test_different_seeds_get_different_directories(tmp_path: Path) -> None:
    paths = {
        RunDir.create(tmp_path, Stage(VarConfig(train=TrainConfig(seed=seed))), RuntimeConfig()).path for seed in (0, 1)
    }
    assert len(paths) == 2


def test_a_run_of_another_kind_is_named_by_its_own(run: RunDir) -> None:
    assert run.config_as(type(run.config)) is run.config
    with pytest.raises(UserError, match=f"holds a {run.kind} run, not a readability run"):
        run.config_as(ReadabilityConfig)
