"""One daemon: started in a session of its own, recognised by pid file and command line, stopped by signal."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fvar.errors import UserError
from slurm.loopback.packages import program


@dataclass(frozen=True)
class Daemon:
    """A program that stays in the foreground of its own session, with its output in `folder`/log."""

    name: str
    command: tuple[str, ...]
    folder: Path
    user: str = "root"
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """The daemon's process id, or None if it does not run.

        A pid file alone proves nothing: after a crash the number may belong to a stranger. The process must also run
        the very command that was started, from within the cluster's folder.
        """
        try:
            pid = int((self.folder / "run" / f"{self.name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if _command_line(pid) == self._argv and _within(pid, self.folder) else None

    @property
    def log(self) -> Path:
        return self.folder / "log" / f"{self.name}.out"

    @property
    def _argv(self) -> list[str]:
        path = program(self.command[0])
        if path is None:
            raise UserError(f"{self.command[0]} is not installed; run `python -m slurm.loopback up`")
        return [path, *self.command[1:]]

    def start(self, ready: Callable[[], bool], patience: float = 30.0) -> None:
        """Start the daemon unless it runs, and wait until `ready()`.

        Raises `UserError` with the end of its log if it exits or is not ready in `patience` seconds.
        """
        if self.pid is not None:
            return
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid,
                extra_groups=[],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environment},
            )
        (self.folder / "run" / f"{self.name}.pid").write_text(f"{process.pid}\n")
        deadline = time.monotonic() + patience
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                why = "is not ready" if process.returncode is None else f"exited with status {process.returncode}"
                raise UserError(f"{self.name} {why}; see {self.log}: {_last_line(self.log)}")
            time.sleep(0.1)

    def stop(self, patience: float = 15.0) -> None:
        """Ask the daemon to stop; kill it if it does not within `patience` seconds."""
        for request in (signal.SIGTERM, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                break
            os.kill(pid, request)
            deadline = time.monotonic() + patience
            while self.pid is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        (self.folder / "run" / f"{self.name}.pid").unlink(missing_ok=True)


def _command_line(pid: int) -> list[str]:
    """The arguments of a living process; empty for one that is gone or a zombie."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").rstrip("\0").split("\0")


def _within(pid: int, folder: Path) -> bool:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(folder.resolve())
    except OSError:
        return False


def job_processes(slurm_conf: Path, node: str = "") -> list[int]:
    """Process ids of jobs, and of the slurmstepd above them, of the cluster of this slurm.conf (on one node).

    Recognised by the environment slurmd gave them: this SLURM_CONF and the node's name. A shell in which a user
    exported SLURM_CONF has no node, and is left alone.
    """
    found, parents = [], set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            on_node = any(item.startswith(f"SLURMD_NODENAME={node}".encode()) for item in environment)
            if on_node and f"SLURM_CONF={slurm_conf}".encode() in environment:
                found.append(int(entry.name))
                if "/slurmstepd" in os.readlink(f"/proc/{parent}/exe"):
                    parents.add(int(parent))
        except OSError:
            continue  # it ended while we looked
    return [*sorted(parents), *found]


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it is empty"
