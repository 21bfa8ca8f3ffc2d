"""SLURM's client programs: their output, or why there is none."""

from __future__ import annotations

import os
import subprocess

CALL_SECONDS = 60.0
# Variables of a surrounding job, and the user's habits. A job's environment is that of its sbatch.
FOREIGN = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SUBMITIT_")
OF_RANKS = {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}


class SlurmDown(Exception):
    """The controller or the accounting did not answer; jobs may be fine all the same."""


class SlurmAbsent(SlurmDown):
    """There is no SLURM on this machine that could answer."""


def call(*command: str, patience: float = CALL_SECONDS) -> str:
    """Output of a client program. Raises `SlurmDown` with its complaint."""
    configuration = os.environ.get("SLURM_CONF")
    if configuration and not os.path.exists(configuration):
        raise SlurmAbsent(f"SLURM_CONF names {configuration}, which does not exist")
    environment = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or not (key.startswith(FOREIGN) or key in OF_RANKS)
    }
    environment["SLURM_BITSTR_LEN"] = "0"  # ranges of arrays in full, not "0-3,7,..."
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=patience
        )
    except FileNotFoundError:
        raise SlurmAbsent(f"{command[0]} is not installed") from None
    except OSError as error:  # no memory or no process left for it
        raise SlurmDown(f"{command[0]} could not be started ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise SlurmDown(f"{command[0]} gave no answer for {patience:g} s") from None
    if done.returncode:
        raise SlurmDown(complaints(done.stderr) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def complaints(text: str) -> str:
    """What a client program says on stderr in several lines, as one: its errors, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return "; ".join(errors) or (lines[-1] if lines else "")
