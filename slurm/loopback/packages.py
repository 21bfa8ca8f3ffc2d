"""The Debian packages of the loopback cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fvar.errors import UserError

POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks this script before it starts a service

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


def _apt(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True)
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise UserError(f"apt-get {' '.join(arguments)} failed: {lines[-1]}")


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
