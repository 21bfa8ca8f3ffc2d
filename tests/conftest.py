"""Settings of every test.

One thread per process: the networks are tiny, and a second thread that spins for a core another process holds made some
tests ten times slower. Set before torch is imported, and inherited by the processes tests start.

Ctrl-C works in those, too: a shell that runs the tests in its background makes all its children deaf to it.
"""

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in half precision where it is asked for, even on a processor that is slow at it."""
    from fvar.machine import precision

    monkeypatch.setattr(precision, "has_kernels", lambda asked: True)
