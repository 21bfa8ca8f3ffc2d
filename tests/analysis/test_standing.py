"""Where a stage stands by its directory, and a cell by its stages."""

from __future__ import annotations

import multiprocessing
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import standing
from analysis.standing import State
from fvar.config import RuntimeConfig, Stage, VarConfig
from fvar.job import JobRecord
from fvar.rundir import RunDir
from tests.test_rundir import hold

HERE, ELSEWHERE = socket.gethostname(), "another.machine"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, Stage(VarConfig()), RuntimeConfig())


def write_status(run: RunDir, host: str, age: float, state: str = "running") -> None:
    """A status as it was left `age` seconds ago."""
    run.update(state=state, host=host, pid=1, step=3, steps=10)
    text = (run.path / "status.json").read_text()
    now = run.status.updated
    assert now
    (run.path / "status.json").write_text(text.replace(f'"updated": {now}', f'"updated": {now - age}'))


# --------------------------------------------------------------------------------------------------------------- stages


def test_a_stage_without_a_directory_is_waiting(tmp_path: Path) -> None:
    assert standing.of_stage(tmp_path / "var-0123456789abcdef").state == "waiting"


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_what_a_stage_settled_holds_whatever_job_it_has(run: RunDir, state: State) -> None:
    run.update(state=state)
    JobRecord("slurm", "7", submitted=time.time() + 100).write(run)
    assert standing.of_stage(run.path).state == state


@pytest.mark.parametrize(("host", "age", "state"), [
    (HERE, 0, "interrupted"),  # its lock would be seen here
    (ELSEWHERE, 5, "running"),
    (ELSEWHERE, 70, "interrupted"),
])  # fmt: skip
def test_a_stage_said_to_run_is_believed_only_with_a_sign_of_life(
    run: RunDir, host: str, age: float, state: State
) -> None:
    write_status(run, host, age)
    at = standing.of_stage(run.path)
    assert (at.state, at.status.step) == (state, 3)


@pytest.mark.parametrize("written", ["waiting", "running", "interrupted"])
def test_a_stage_runs_while_a_process_holds_its_lock_however_old_its_status(run: RunDir, written: str) -> None:
    write_status(run, ELSEWHERE, 1000, written)
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(run.path, ready, release), daemon=True)
    holder.start()
    assert ready.wait(60)
    assert standing.of_stage(run.path).state == "running"
    holder.kill()
    holder.join()
    assert standing.of_stage(run.path).state == {"waiting": "waiting"}.get(written, "interrupted")


def test_a_job_submitted_since_the_last_sign_of_life_is_queued_an_older_one_is_not(run: RunDir) -> None:
    JobRecord("slurm", "7", submitted=time.time()).write(run)
    assert standing.of_stage(run.path).state == "queued"
    write_status(run, HERE, 5, "interrupted")  # the job began before that, or was taken back
    JobRecord("slurm", "7", submitted=time.time() - 50).write(run)
    assert standing.of_stage(run.path).state == "interrupted"
    JobRecord("slurm", "8", submitted=time.time()).write(run)
    assert standing.of_stage(run.path).state == "queued"
    JobRecord("slurm", "", submitted=time.time()).write(run)  # decided, not yet submitted
    assert standing.of_stage(run.path).state == "interrupted"


def test_a_stage_that_ends_while_it_is_looked_at_is_done(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status is read before it ends, its lock asked for after."""
    write_status(run, HERE, 0)

    def ends(path: Path) -> bool:
        run.update(state="done")
        return False

    monkeypatch.setattr(standing, "locked", ends)
    assert standing.of_stage(run.path).state == "done"


# ---------------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("stages", "cell_state"),
    [
        (["done", "done"], "done"),
        (["done", "running"], "running"),
        (["running", "waiting"], "running"),
        (["failed", "blocked"], "blocked"),
        (["done", "failed"], "failed"),
        (["cancelled", "blocked"], "blocked"),
        (["done", "waiting"], "waiting"),
        (["done", "interrupted", "waiting"], "interrupted"),
    ],
)
def test_state_of_a_cell(stages: list[State], cell_state: str) -> None:
    assert standing.of_cell({f"stage{index}": state for index, state in enumerate(stages)})[0] == cell_state


@pytest.mark.parametrize(
    ("stages", "cell_state", "at"),
    [
        ([], "waiting", ""),
        (["failed", "done"], "done", "stage1"),  # the scores are there, whatever became of what they were made from
        (["failed", "cancelled"], "cancelled", "stage1"),
        (["cancelled", "waiting"], "blocked", "stage0"),
        (["cancelled", "failed", "waiting"], "blocked", "stage1"),
        (["queued", "interrupted", "running", "waiting"], "running", "stage2"),
        (["interrupted", "ready", "waiting"], "ready", "stage1"),
    ],
)
def test_a_cell_stands_at_the_stage_that_stops_it_or_moves_it(stages: list[State], cell_state: str, at: str) -> None:
    found = standing.of_cell({f"stage{index}": state for index, state in enumerate(stages)})
    assert found == (cell_state, at)


STATES = ["waiting", "ready", "queued", "running", "interrupted", "done", "failed", "cancelled", "blocked"]


@given(st.lists(st.sampled_from(STATES), min_size=1, max_size=8))
def test_a_cell_is_done_or_failed_with_its_own_stage_alone(states: list[State]) -> None:
    state, stage = standing.of_cell({str(index): value for index, value in enumerate(states)})
    for settled in standing.SETTLED:
        assert (state == settled) == (states[-1] == settled)
    if state not in ("waiting", "blocked"):
        assert states[int(stage)] == state
    if state == "running":
        assert not set(states) & {"failed", "cancelled", "blocked"}
