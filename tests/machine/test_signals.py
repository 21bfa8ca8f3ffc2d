"""A stopping signal is obeyed whenever it comes: none is lost on its way."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from fvar.errors import Interrupted
from fvar.machine import signals
from fvar.rundir import RunDir
from fvar.training.loop import train
from tests import shortened
from tests.training.toy import ToyTask, config, run_dir


@pytest.fixture(autouse=True)
def same_handlers_afterwards() -> Iterator[None]:
    before = [signal.getsignal(number) for number in signals.STOPPING]
    yield
    assert [signal.getsignal(number) for number in signals.STOPPING] == before


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_library_that_catches_every_exception_does_not_swallow_it() -> None:
    """As those do that try an import: a lazy import within a step may take seconds on a busy machine."""

    def try_this_or_that() -> None:
        with signals.raising():
            with contextlib.suppress(Exception):
                stop()
            pytest.fail("went on")

    with pytest.raises(Interrupted):
        try_this_or_that()


class Swallowing:
    """Python ignores what a destructor raises."""

    def __del__(self) -> None:
        stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_lost_in_a_destructor_stops_the_loop_after_its_first_step(tmp_path: Path) -> None:
    run = run_dir(tmp_path, config(), checkpoint_steps=0)

    def begin() -> None:
        with signals.raising():
            Swallowing()
            train(ToyTask(), run, config())

    with pytest.raises(Interrupted, match="checkpoint 1 written"):
        begin()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_lost_in_a_destructor_is_raised_at_the_end_of_the_block() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), signals.raising():
        Swallowing()


def test_a_signal_during_the_last_step_is_obeyed(tmp_path: Path) -> None:
    """There is no later step that would look at the request; what comes after the loop must not start."""

    class Signalled(ToyTask):
        def after_step(self, step: int, batches: Sequence[Tensor]) -> None:
            if step == 59:
                stop()

    run = run_dir(tmp_path, config())
    with pytest.raises(Interrupted, match="SIGTERM"), signals.raising():
        train(Signalled(), run, config())
    train(ToyTask(), run, config())  # continues from the checkpoint of the last step: nothing is left to do
    assert run.status.step == 60


def test_the_handler_before_hears_of_it_once() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(Interrupted), signals.raising():
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


def test_a_second_ctrl_c_does_not_wait() -> None:
    def press_twice() -> None:
        with signals.deferred() as request:
            signal.raise_signal(signal.SIGINT)
            assert request
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        press_twice()


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(8))
def test_an_inline_driver_obeys_sigterm_whenever_it_comes(tmp_path: Path, moment: int) -> None:
    """From the start of its first stage on: while it imports, reads data, builds networks, makes its first steps."""
    endless = [*shortened.ARGUMENTS, "--set", "tokenizer.train.steps=1000000"]
    command = [sys.executable, "-m", "studies.run", "ablation_table2", "--results", str(tmp_path), *endless]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (running := list(tmp_path.glob("runs/tokenizer-*/attempts.jsonl"))):
            assert driver.poll() is None
            time.sleep(0.001)
        time.sleep(moment * random.uniform(0.2, 0.6))
        driver.terminate()
        assert driver.wait(60) == 75
    finally:
        driver.kill()
    run = RunDir.open(running[0].parent)
    assert (run.status.state, run.locked) == ("interrupted", False)
