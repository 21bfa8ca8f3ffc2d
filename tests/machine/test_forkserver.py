"""A process forked from one that has imported torch is, to whoever started it, the process they asked for."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fvar.machine.forkserver import ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torch is safe to fork on Linux only")

MODULE = """
import atexit, json, os, signal, sys, time

atexit.register(lambda: print("at exit", flush=True))
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "arguments": sys.argv, "folder": os.getcwd(),
    "word": os.environ.get("WORD"), "forked": "torch" in sys.modules, "main": __name__,
    "ours": sorted(name for name in sys.modules if name.startswith(("fvar.", "studies", "analysis"))),
    "files": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "ignored": [n for n in (1, 2, 10, 12, 15) if signal.getsignal(n) is signal.SIG_IGN],
    "threads": len(os.listdir("/proc/self/task")),
}))
if sys.argv[1] == "wait":
    def stop(number, frame):
        print("heard", number)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    print("waiting")
    while True:
        time.sleep(0.01)
if sys.argv[1] == "raise":
    raise RuntimeError("a fault")
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module `told` can be imported from."""
    made = tmp_path_factory.mktemp("modules")
    (made / "told.py").write_text(MODULE)
    return made


@contextlib.contextmanager
def served(folder: Path) -> Iterator[ForkServer]:
    """A server that has torch imported, and finds `told`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
        server = ForkServer()
    wait_for(lambda: Path(server.options[-1]).exists())
    yield server
    for process in started:
        process.kill()  # of a test that failed half-way: the server waits for its copies
    server.close()


started: "list[subprocess.Popen[str]]" = []


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ForkServer]:
    with served(folder) as made:
        yield made


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ignored() -> list[int]:
    """What this process was started to ignore, such as a hangup by nohup."""
    return [number for number in (1, 2, 10, 12, 15) if signal.getsignal(number) is signal.SIG_IGN]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start(folder: Path, options: Any, *arguments: str, **more: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", **more.pop("env", {})}
    process = subprocess.Popen(
        [sys.executable, *options, "-u", "-m", "told", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    started.append(process)
    return process


def rest(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.read()


def first_line(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


def test_a_copy_has_torch_and_nothing_of_ours_and_is_told_what_the_client_was(
    server: ForkServer, folder: Path, tmp_path: Path
) -> None:
    process = start(folder, server.options, "3", "--and more", "-u", cwd=tmp_path, env={"WORD": "\udcff"})
    told = first_line(process)
    assert process.wait() == 3
    assert rest(process) == "at exit\n"
    assert told["forked"]
    assert told["ours"] == ["fvar.machine"]  # the code of a stage is read as it is when the stage begins
    assert told["arguments"][1:] == ["3", "--and more", "-u"]
    assert (told["folder"], told["word"], told["main"]) == (str(tmp_path), "\udcff", "__main__")
    assert told["ignored"] == ignored()
    assert told["session"] == told["pid"] != process.pid


def test_the_streams_and_the_status_are_those_of_a_process_of_its_own(server: ForkServer, folder: Path) -> None:
    for what in ("0", "7", "raise", "kill"):
        forked, plain = (start(folder, options, what) for options in (server.options, ()))
        (out, errors), (plain_out, plain_errors) = (process.communicate(timeout=120) for process in (forked, plain))
        assert forked.returncode == plain.returncode
        assert out.splitlines()[1:] == plain_out.splitlines()[1:]
        assert errors.splitlines()[-1:] == plain_errors.splitlines()[-1:]


def test_a_signal_reaches_the_copy(server: ForkServer, folder: Path) -> None:
    process = start(folder, server.options, "wait")
    first_line(process)
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert rest(process) == "heard 15\nat exit\n"


def test_what_the_client_ignores_the_copy_ignores(server: ForkServer, folder: Path) -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(folder, server.options, "0")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert first_line(process)["ignored"] == sorted({signal.SIGINT, *ignored()})
    assert process.wait() == 0


def test_a_client_that_is_killed_takes_its_copy_with_it(server: ForkServer, folder: Path) -> None:
    process = start(folder, server.options, "wait")
    copy = first_line(process)["pid"]
    assert alive(copy)
    process.kill()
    process.wait()
    wait_for(lambda: not alive(copy))


def test_copies_hold_no_file_of_one_another(server: ForkServer, folder: Path) -> None:
    first = start(folder, server.options, "wait")
    first_line(first)
    second = start(folder, server.options, "0")
    assert first_line(second)["files"] == [0, 1, 2, 3]  # its own, and the line to its client
    assert second.wait() == 0
    first.terminate()
    assert first.wait() == 75


def test_a_server_that_dies_ends_no_copy_and_the_next_starts_by_itself(folder: Path) -> None:
    with served(folder) as server:
        process = start(folder, server.options, "wait")
        told = first_line(process)
        os.kill(told["parent"], signal.SIGKILL)
        wait_for(lambda: not alive(told["parent"]))
        assert alive(told["pid"])
        alone = start(folder, server.options, "5")
        assert not first_line(alone)["forked"]
        assert alone.wait() == 5
        process.terminate()
        assert process.wait() == 1
        assert "heard 15" in rest(process)
        assert process.stderr
        assert "is in its log" in process.stderr.read()


def test_a_server_outlives_whoever_started_it_by_as_long_as_its_copies_run(folder: Path) -> None:
    with served(folder) as server:
        process = start(folder, server.options, "wait")
        told = first_line(process)
        address = Path(server.options[-1])
        assert server._process
        assert server._process.stdin
        server._process.stdin.close()  # as its owner's death would
        alone = start(folder, server.options, "0")  # none is forked any more
        assert not first_line(alone)["forked"]
        assert alive(told["pid"])
        process.terminate()
        assert process.wait() == 75  # and its status is handed on
        wait_for(lambda: not address.parent.exists())


def test_a_server_that_does_not_answer_costs_time_and_nothing_else(
    folder: Path,
) -> None:
    """A copy that comes too late finds its client gone, and does nothing."""
    with served(folder) as server:
        pid = server._process.pid if server._process else 0
        os.kill(pid, signal.SIGSTOP)
        alone = start(folder, server.options, "6")
        assert not first_line(alone)["forked"]
        assert alone.wait() == 6
        os.kill(pid, signal.SIGCONT)
        assert rest(alone) == "at exit\n"


def test_without_room_for_a_socket_processes_start_by_themselves(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("a" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    server = ForkServer()
    assert server._process
    server._process.wait()
    alone = start(folder, server.options, "0")
    assert not first_line(alone)["forked"]
    assert alone.wait() == 0
    server.close()
