"""The loopback cluster: which daemons, in which order, and how to tell that each is ready."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fvar.errors import UserError
from slurm.loopback import packages
from slurm.loopback.processes import Daemon, job_processes
from slurm.loopback.template import CGROUP_CONF, NODES, Ports, gres_conf, slurm_conf, slurmdbd_conf

CPUS = 4  # per node, whatever the machine has
MEMORY = 8192  # MiB per node, whatever the machine has
MAX_ARRAY = 301  # small, so that arrays of 300 fit and chunking is exercised just above
CGROUPS = Path("/sys/fs/cgroup/memory")  # of version 1, which SLURM 22.05 needs; not writable in every container
MARKER = ".fvar-loopback"  # a folder without it is never emptied


def default_folder() -> Path:
    """Where the cluster lives unless told otherwise: FVAR_LOOPBACK, which allows for several at once."""
    return Path(os.environ.get("FVAR_LOOPBACK") or Path(tempfile.gettempdir()) / f"fvar-loopback-{os.getuid()}")


class Cluster:
    """Two SLURM nodes on 127.0.0.1 with all their files in `folder`.

    Parameters
    ----------
    folder
        Made by `up`. Must not hold anything else.
    accounting
        With slurmdbd on a mariadbd of its own (`sacct` works), or without.
    """

    def __init__(self, folder: Path, accounting: bool = True) -> None:
        self.folder = folder.absolute()
        self.accounting = accounting

    # ------------------------------------------------------------------------------------------------------- up, down

    def up(self) -> None:
        """Install what is missing, start what does not run, and wait until both nodes are idle.

        If no daemon runs, the folder is emptied first: a cold cluster starts without jobs. If some run, only the
        missing ones are started again, on the state they left.
        """
        if os.geteuid() != 0:
            raise UserError("the loopback cluster needs root (slurmd starts jobs as their owners); run this as root")
        if self.folder.exists() and not (self.folder / MARKER).exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder} holds something else; name an empty folder with --dir")
        for parent in self.folder.parents:
            if parent.exists() and not parent.stat().st_mode & 0o001:
                raise UserError(f"{parent} is closed to the users munge and mysql; name an open folder with --dir")
        packages.install(packages.missing(self.accounting))
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        (self.folder / MARKER).touch()
        with self._lock():
            if not self.running():
                self._lay_out()
            elif self.accounting != self._has_accounting():
                has = "with" if self._has_accounting() else "without"
                raise UserError(f"the cluster in {self.folder} runs {has} accounting; take it down first, or use --dir")
            self._start_all()

    def down(self) -> None:
        """Cancel the jobs, stop the daemons, and remove everything but the logs."""
        if not (self.folder / MARKER).exists():
            return
        with self._lock():
            daemons = {daemon.name: daemon for daemon in self.daemons()}
            if daemons["slurmctld"].pid is not None:
                with contextlib.suppress(subprocess.SubprocessError):
                    self.client("scancel", "--user=root", timeout=10)
            for daemon in reversed(daemons.values()):
                daemon.stop()
            for pid in job_processes(self.slurm_conf):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for node in NODES:
                with contextlib.suppress(OSError):  # still in use by another folder's cluster
                    (CGROUPS / f"slurm_{node}").rmdir()
            for name in ("munge", "database", "state", "spool", "run"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in ("slurm.conf", "slurmdbd.conf", "gres.conf", "cgroup.conf"):
                (self.folder / name).unlink(missing_ok=True)

    def running(self) -> list[str]:
        """Names of the daemons that run."""
        if not self.slurm_conf.exists():
            return []
        return [daemon.name for daemon in self.daemons() if daemon.pid is not None]

    def nodes(self) -> str:
        """One line per node: name, state, allocated/idle/other/total CPUs, memory in MiB."""
        return self.client("sinfo", "--Node", "--partition=normal", "--noheader", "--format=%N %T %C %m").stdout

    # -------------------------------------------------------------------------------------------------------- daemons

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What a SLURM command needs to reach this cluster and no other."""
        scrubbed = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        return scrubbed | {"SLURM_CONF": str(self.slurm_conf)}

    def client(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a SLURM command against this cluster."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)

    def daemon(self, name: str) -> Daemon:
        """One daemon by name: munged, mariadbd, slurmdbd, slurmctld, slurmd-n1, slurmd-n2."""
        return next(daemon for daemon in self.daemons() if daemon.name == name)

    def daemons(self) -> list[Daemon]:
        """All daemons, in the order in which they start."""
        folder, conf = self.folder, str(self.slurm_conf)
        munge = folder / "munge"
        munged = (
            "munged", "--foreground", f"--socket={munge}/socket", f"--key-file={munge}/key",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        daemons = [Daemon("munged", munged, folder, user="munge")]
        if self._has_accounting():
            database = folder / "database"
            mariadbd = (
                "mariadbd", "--no-defaults", f"--datadir={database}/data", f"--socket={database}/socket",
                f"--pid-file={database}/pid", "--bind-address=127.0.0.1", f"--port={self._database_port()}",
                "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
            )  # fmt: skip
            daemons.append(Daemon("mariadbd", mariadbd, folder, user="mysql"))
            # slurmdbd has no option for its configuration: it looks beside the file that SLURM_CONF names.
            daemons.append(Daemon("slurmdbd", ("slurmdbd", "-D"), folder, environment={"SLURM_CONF": conf}))
        daemons.append(Daemon("slurmctld", ("slurmctld", "-D", "-f", conf), folder))
        daemons += [Daemon(f"slurmd-{node}", ("slurmd", "-D", "-f", conf, "-N", node), folder) for node in NODES]
        return daemons

    def _start_all(self) -> None:
        for daemon in self.daemons():
            daemon.start(partial(self._ready, daemon.name))
            if daemon.name == "mariadbd":
                self._create_database()
        deadline = time.monotonic() + 30
        while any(state in self.nodes() for state in ("unknown", "down", "drain", "*")):
            if time.monotonic() > deadline:
                raise UserError(f"the nodes did not come up; see {self.folder}/log:\n{self.nodes()}")
            # A node that could not kill a job in time was drained; for a test it is as good as new.
            self.client("scontrol", "update", f"NodeName={','.join(NODES)}", "State=RESUME")
            time.sleep(0.2)

    def _ready(self, name: str) -> bool:
        if name == "munged":
            return (self.folder / "munge" / "socket").is_socket()
        if name == "mariadbd":
            return self._sql("SELECT 1").returncode == 0
        if name == "slurmdbd":
            return self.client("sacctmgr", "--noheader", "show", "cluster").returncode == 0
        if name == "slurmctld":
            return "is UP" in self.client("scontrol", "ping").stdout
        return True  # a slurmd is ready when the controller calls its node idle

    # ---------------------------------------------------------------------------------------------------------- files

    def _lay_out(self) -> None:
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in ("lock", MARKER):
                entry.unlink()
        for name in ("run", "log", "state", "spool", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        self._make_munge_key()
        controller, accounting, database, *nodes = _free_ports(3 + len(NODES))
        ports = Ports(controller, accounting, database, tuple(nodes))
        hostname = socket.gethostname().partition(".")[0]
        if self.accounting:
            password = secrets.token_hex(16)
            _write_private(self.folder / "slurmdbd.conf", slurmdbd_conf(self.folder, hostname, ports, password))
            self._make_database()
        (self.folder / "gres.conf").write_text(gres_conf())
        (self.folder / "cgroup.conf").write_text(CGROUP_CONF)
        text = slurm_conf(
            self.folder,
            hostname,
            ports,
            accounting=self.accounting,
            cgroup=os.access(CGROUPS, os.W_OK),
            cpus=CPUS,
            memory=MEMORY,
            max_array=MAX_ARRAY,
        )
        self.slurm_conf.write_text(text)

    def _make_munge_key(self) -> None:
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        _write_private(munge / "key", secrets.token_hex(64))
        shutil.chown(munge, "munge", "munge")
        shutil.chown(munge / "key", "munge", "munge")

    def _make_database(self) -> None:
        database = self.folder / "database"
        database.mkdir(mode=0o700)
        shutil.chown(database, "mysql", "mysql")
        command = [
            "mariadb-install-db", "--no-defaults", f"--datadir={database}/data", "--user=mysql",
            "--auth-root-authentication-method=socket", "--skip-test-db",
        ]  # fmt: skip
        for last in (False, True):  # it was seen to abort once, beside another that was being made
            result = subprocess.run(command, capture_output=True, text=True)
            if not result.returncode:
                return
            said = (result.stderr or result.stdout).strip().splitlines()
            if last:
                errors = [line for line in said if "[ERROR]" in line]
                raise UserError(f"mariadb-install-db failed: {(errors or said or ['no output'])[0]}")
            shutil.rmtree(database / "data", ignore_errors=True)

    def _create_database(self) -> None:
        settings = self._dbd_settings()
        statements = (
            f"CREATE DATABASE IF NOT EXISTS {settings['StorageLoc']}; "
            f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{settings['StoragePass']}'; "
            f"GRANT ALL ON {settings['StorageLoc']}.* TO 'slurm'@'127.0.0.1'"
        )
        result = self._sql(statements)
        if result.returncode:
            raise UserError(f"cannot create the accounting data base: {result.stderr.strip()}")

    def _sql(self, statements: str) -> subprocess.CompletedProcess[str]:
        command = ["mariadb", "--no-defaults", f"--socket={self.folder}/database/socket", "--user=root"]
        return subprocess.run(command, input=statements, capture_output=True, text=True)

    def _has_accounting(self) -> bool:
        return (self.folder / "slurmdbd.conf").exists()

    def _database_port(self) -> str:
        return self._dbd_settings()["StoragePort"]

    def _dbd_settings(self) -> dict[str, str]:
        lines = (self.folder / "slurmdbd.conf").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _free_ports(count: int) -> list[int]:
    """Different ports that were free on 127.0.0.1 a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w") as file:
        file.write(text)
