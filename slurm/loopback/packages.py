"""The Debian packages of the loopback cluster."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from fvar.errors import UserError

POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks this script before it starts a service

LOCKED = re.compile(r"Could not get lock|Unable to (acquire the dpkg frontend )?lock|is another process using it")
LOCK_SECONDS = 900.0  # another installation is waited for until then
LOCK_PAUSE = 2.0

# package -> programs the cluster calls
BASE = {
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "squeue", "scancel"),
    "munge": ("munged", "mungekey"),
}
ACCOUNTING = {
    "slurmdbd": ("slurmdbd", "sacctmgr"),
    "mariadb-server": ("mariadbd", "mariadb-install-db", "mariadb"),
}


def program(name: str) -> str | None:
    """Path of a program, daemons in sbin included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin")


def missing(accounting: bool) -> list[str]:
    """The packages of which a program is missing."""
    needed = BASE | (ACCOUNTING if accounting else {})
    return [package for package, programs in needed.items() if not all(program(name) for name in programs)]


def install(packages: list[str]) -> None:
    """Install Debian packages without letting them start their services.

    Raises `UserError` with apt's last line if that is not possible.
    """
    if not packages:
        return
    if program("apt-get") is None:
        raise UserError(f"{', '.join(packages)} missing and no apt-get here; install SLURM with this system's packages")
    if os.geteuid() != 0:
        raise UserError(f"{', '.join(packages)} missing; as root, run: apt-get install {' '.join(packages)}")
    print(f"installing {' '.join(packages)}", flush=True)
    with _no_services():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *packages)


def _apt(*arguments: str, patience: float = LOCK_SECONDS) -> None:
    """Run apt-get; while another process holds the lock of dpkg or apt, wait for it."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    deadline, told = time.monotonic() + patience, False
    while True:
        result = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True)
        if not result.returncode:
            return
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        held = next((line for line in lines if LOCKED.search(line)), "")
        if not held or time.monotonic() > deadline:
            raise UserError(f"apt-get {' '.join(arguments)} failed: {held or lines[-1]}")
        if not told:
            print(f"waiting for another process that installs packages ({held.removeprefix('E: ')})", flush=True)
            told = True
        time.sleep(LOCK_PAUSE)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Forbid packages to start services while they install; a policy that exists already is left alone."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
