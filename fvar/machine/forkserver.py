"""Python processes that start with torch imported: one server has imported it, and forks them.

    with_torch = ForkServer()
    subprocess.Popen([sys.executable, *with_torch.options, "-m", "fvar.run", "results/runs/var-0123456789abcdef"])

Importing torch takes seconds of the processor, which a study of many short stages pays in each. The process started
here is small. It asks the server for a copy of itself that runs the module in its place, with its arguments,
environment, folder and files; hands on the signals that it gets; and ends as the copy ends. When it is killed, so is
the copy. Where the server is not ready, has died, or does not answer, it becomes the plain `python -m ...`: nothing
but time is lost.

What is ours is not imported beforehand. A stage reads the code as it is when the stage begins, and the memory that it
reports is that of a process which imported torch by itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

IMPORTED = ("torch",)
HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
ANSWER_SECONDS = 10.0  # that a server has to fork
LENGTH = 8  # bytes that say how long a request is


class ForkServer:
    """A server of this process, which takes its environment over, and ends once this process and all copies have ended.

    Only on Linux: elsewhere a fork of a process with torch in it is not safe, and `options` stay empty.
    """

    def __init__(self) -> None:
        self.options: Sequence[str] = ()
        self._process: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError):  # no room for a folder or a process: stages start without
            address = Path(tempfile.mkdtemp(prefix="fvar-")) / "socket"
            command = [sys.executable, "-m", __name__, "--serve", str(address)]
            # It ends when its input does, which is when this process ends, however that happens.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.options = "-m", __name__, str(address)

    def close(self) -> None:
        """Fork no more; returns when all copies have ended."""
        self.options = ()
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()


# --------------------------------------------------------------------------------------------------------------- client


def run(address: Path, arguments: Sequence[str]) -> int:
    """Do what `python *arguments` does, in a copy of the server where there is one; returns the exit status."""
    with socket.socket(socket.AF_UNIX) as line:
        try:
            copy = _ask(line, address, arguments)
        except (OSError, ValueError):
            os.execv(sys.executable, [sys.executable, *arguments])

        def hand_on(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(copy, number)

        for number in HANDED_ON:
            if number not in _ignored():
                signal.signal(number, hand_on)
        line.settimeout(None)
        with contextlib.suppress(OSError):
            line.sendall(b"+")  # from now on the copy runs
        status = line.makefile("rb").readline()
    if not status:  # the server was killed; how its copy ended cannot be known, but for what that left
        print("the process that stages are forked from has ended; what this one came to is in its log", file=sys.stderr)
        return 1
    code = os.waitstatus_to_exitcode(int(status))
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _ask(line: socket.socket, address: Path, arguments: Sequence[str]) -> int:
    """The process id of a copy that waits for the word to go; raises `OSError` or `ValueError` where there is none."""
    line.settimeout(ANSWER_SECONDS)
    line.connect(str(address))
    request = {
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "ignored": _ignored(),
    }
    body = json.dumps(request).encode()
    socket.send_fds(line, [len(body).to_bytes(LENGTH, "big")], [0, 1, 2])
    line.sendall(body)
    return int(line.recv(32))


def _ignored() -> list[int]:
    """Signals that this process was started to ignore, as by nohup."""
    return [number for number in HANDED_ON if signal.getsignal(number) is signal.SIG_IGN]


# --------------------------------------------------------------------------------------------------------------- server


def serve(address: Path) -> Callable[[], None] | None:
    """Fork a copy for every client, until the input ends and all copies have ended.

    Returns None in the server, and in a copy what that has to run.
    """
    os.close(os.pidfd_open(os.getpid()))  # Linux has these since 5.3: without them nothing is forked
    for number in HANDED_ON:
        signal.signal(number, signal.SIG_IGN)  # what is sent to a whole job is for its stages
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that copies share what was imported
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as ready:
        listener.bind(str(address))
        listener.listen()
        module = _forking(listener, ready)
    if module is None:
        shutil.rmtree(address.parent, ignore_errors=True)
    return module


def _forking(listener: socket.socket, ready: selectors.BaseSelector) -> Callable[[], None] | None:
    lines: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of a copy's end: it, its client
    ready.register(listener, selectors.EVENT_READ)
    ready.register(0, selectors.EVENT_READ)
    wanted = True
    while wanted or lines:
        for key, _ in ready.select():
            if key.fileobj is listener:
                line, _ = listener.accept()
                copy = os.fork()
                if copy == 0:
                    for descriptor, (_, another) in lines.items():
                        os.close(descriptor)
                        another.close()
                    return _become(line)
                descriptor = os.pidfd_open(copy)
                ready.register(descriptor, selectors.EVENT_READ)
                lines[descriptor] = copy, line
            elif key.fd in lines:
                ready.unregister(key.fd)
                os.close(key.fd)
                copy, line = lines.pop(key.fd)
                _, status = os.waitpid(copy, 0)
                with line, contextlib.suppress(OSError):  # its client may have gone
                    line.sendall(b"%d\n" % status)
            elif not os.read(0, 1):
                ready.unregister(0)
                ready.unregister(listener)
                listener.close()
                wanted = False
    return None


def _become(line: socket.socket) -> Callable[[], None]:
    """In a copy: take the client's place, once it says so; returns what is to be run there."""
    os.setsid()
    line.settimeout(ANSWER_SECONDS)
    try:
        head, files, _, _ = socket.recv_fds(line, LENGTH, 3)
        request = json.loads(line.makefile("rb").read(int.from_bytes(head, "big")))
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        for number in set(HANDED_ON) - set(request["ignored"]):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        line.sendall(b"%d\n" % os.getpid())
        if line.recv(1) != b"+":
            raise OSError("the client has gone")
    except (OSError, ValueError):
        os._exit(1)  # the client runs it by itself, or has ended
    line.settimeout(None)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    arguments = request["arguments"]
    option, name, *rest = arguments[1:] if arguments[0] == "-u" else arguments  # as the streams are by now
    assert option == "-m", arguments

    def module() -> None:
        sys.argv = [name, *rest]
        runpy.run_module(name, run_name="__main__", alter_sys=True)

    return module


def _end_with(line: socket.socket) -> None:
    """Die when the client has died, which nothing says but the end of what it sends."""
    with contextlib.suppress(OSError):
        line.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        if module := serve(Path(sys.argv[2])):
            module()
    else:
        sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
