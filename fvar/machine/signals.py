"""Stopping in an orderly way: SIGTERM, SIGUSR2 (SLURM's warning before the time limit) and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from fvar.errors import Interrupted

STOPPING = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
Handler = Callable[[int, FrameType | None], object]


class Stopped(Interrupted):
    """Interrupted by the signal `number`; the work so far is safe."""

    def __init__(self, number: int, detail: str = "") -> None:
        super().__init__(f"by {signal.Signals(number).name}{detail and ', ' + detail}")
        self.number = number


class StopRequest:
    """A handler that remembers the first stopping signal; a second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return self.number != 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number


class _Raising(StopRequest):
    """A handler that raises `Stopped`, and remembers it: what it raises within a destructor or a callback is lost."""

    armed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if self.armed:
            raise Stopped(number)


@contextlib.contextmanager
def deferred() -> Iterator[StopRequest]:
    """Note stopping signals instead of acting on them: the block looks at the request when it can stop safely.

    Raises `Stopped` after a block that ended without having looked.
    """
    request = StopRequest()
    with _handling(request) as previous:
        outer = previous.get(signal.SIGTERM)
        if isinstance(outer, _Raising) and outer:
            request.number = request.number or outer.number
        yield request
    if request:
        raise Stopped(request.number)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Turn a stopping signal into `Stopped`, then hand it to the handler that was in place before.

    So a stage ends with its status written before whoever started it, such as submitit's job, hears of the signal. A
    `Stopped` that was lost on its way is raised at the end of the block, or by the training loop at its step's end.
    """
    handler = _Raising()
    previous: dict[int, Handler | int | None] = {}
    try:
        with _handling(handler) as previous:
            try:
                handler.armed = True
                if not handler:
                    yield
            finally:
                handler.armed = False  # from here on it only notes: an exception would keep the old handlers out
        if handler:
            raise Stopped(handler.number)
    except Stopped as stopped:
        old = previous.get(stopped.number)
        if callable(old) and old is not signal.default_int_handler:
            old(stopped.number, None)
        raise


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that whoever sees to others on `KeyboardInterrupt` does when killed politely, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _handling(handler: Handler) -> Iterator[dict[int, Handler | int | None]]:
    """Install `handler` for all stopping signals (only the main thread may); yields the handlers it replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    previous: dict[int, Handler | int | None] = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield previous
    finally:
        for number, old in previous.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
