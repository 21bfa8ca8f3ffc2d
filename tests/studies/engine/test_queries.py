"""What is asked of SLURM, with client programs that only answer from a script."""

from __future__ import annotations

import time

import pytest

from fvar.job import JobRecord
from studies.engine.backends import queries
from studies.engine.backends.clients import SlurmDown
from studies.engine.backends.queries import Queries
from studies.engine.backends.throttle import arrays

WAVE = "fvar-var-0123456789ab"


class Clients:
    """Answers by program, or complains; notes what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: str | SlurmDown) -> None:
        self.answers = answers
        self.asked: list[tuple[str, ...]] = []
        monkeypatch.setattr(queries, "call", self)

    def __call__(self, *command: str, patience: float = 0.0) -> str:
        self.asked.append(command)
        answer = self.answers[command[0]]
        if isinstance(answer, SlurmDown):
            raise answer
        return answer


def test_jobs_are_asked_for_by_id_whatever_the_clocks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(monkeypatch, sacct=f"7_[0-5%6]|CANCELLED by 1000|{WAVE}|None")
    records = [JobRecord("slurm", f"7_{index}", WAVE, index, submitted=time.time() + 600) for index in range(6)]
    found = Queries().accounts(records)
    assert found is not None
    assert [found[WAVE, index].by for index in range(6)] == [1000] * 6
    (command,) = clients.asked
    assert "--jobs=7" in command
    assert not any("time" in option for option in command)


@pytest.mark.parametrize("skew", [-600, 600])
def test_a_wave_without_an_id_is_asked_for_within_hours_of_now(monkeypatch: pytest.MonkeyPatch, skew: int) -> None:
    clients = Clients(monkeypatch, sacct="")
    Queries().accounts([JobRecord("slurm", "", WAVE, submitted=time.time() + skew)])
    (command,) = clients.asked
    assert {"--starttime=now-1hours", "--endtime=now+1hours", f"--name={WAVE}"} <= set(command)


def test_an_sacct_without_array_is_asked_without_it_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def call(*command: str) -> str:
        asked.append("--array" in command)
        if "--array" in command:
            raise SlurmDown("sacct: unrecognized option '--array'")
        return f"7|COMPLETED|{WAVE}|None"

    monkeypatch.setattr(queries, "call", call)
    made = Queries()
    for _ in range(2):
        found = made.accounts([JobRecord("slurm", "7", WAVE)])
        assert found is not None
        assert found[WAVE, 0].state == "COMPLETED"
    assert asked == [True, False, False]


def test_a_cluster_without_accounting_says_nothing_and_a_silent_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clients(monkeypatch, sacct=SlurmDown("Slurm accounting storage is disabled"))
    assert Queries().accounts([JobRecord("slurm", "7", WAVE)]) is None
    Clients(monkeypatch, sacct=SlurmDown("Unable to contact slurmdbd"))
    with pytest.raises(SlurmDown):
        Queries().accounts([JobRecord("slurm", "7", WAVE)])


def test_more_waves_than_a_command_line_holds_are_asked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(monkeypatch, squeue="")
    Queries().queue([f"fvar-var-{number:012x}" for number in range(2 * queries.CHUNK + 1)])
    assert len(clients.asked) == 3
    assert max(len(option) for command in clients.asked for option in command) < 131_072


def test_limits_are_the_clusters_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(monkeypatch, scontrol="MaxArraySize            = 301\nMaxJobCount             = 20000\n")
    made = Queries()
    assert made.limits() == made.limits() == (300, 20000)
    assert len(clients.asked) == 1


def test_arrays_are_counted_oldest_first() -> None:
    records = [
        JobRecord("slurm", "9", WAVE, submitted=2.0),
        JobRecord("slurm", "7_0", WAVE, submitted=1.0),
        JobRecord("slurm", "7_1", WAVE, index=1, pack=2, submitted=1.0),
        JobRecord("slurm", "7_1", WAVE, index=1, pack=2, submitted=1.0),  # one job of two stages
        JobRecord("slurm", "", WAVE, submitted=3.0),
    ]
    assert list(arrays(records).items()) == [("7", 2), ("9", 1), (WAVE, 1)]
