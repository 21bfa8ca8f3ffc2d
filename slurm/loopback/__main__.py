"""A SLURM cluster of two nodes on this machine.

    python -m slurm.loopback up              # install what is missing, start, print the line to export
    python -m slurm.loopback status          # daemons and nodes
    python -m slurm.loopback down            # stop its processes, remove its files, keep its logs

`up` may be repeated: it starts again whatever died. A second cluster, with ports of its own, lives in another folder:
--dir, or the environment variable FVAR_LOOPBACK, which the tests of tests/slurm heed, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fvar.errors import run_main
from slurm.loopback.cluster import Cluster, default_folder


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m slurm.loopback", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--dir", type=Path, default=default_folder(), help="folder of the cluster (%(default)s)")
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd: `sacct` does not work")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.dir, accounting=not arguments.no_accounting)
    if arguments.command == "down":
        cluster.down()
        return 0
    if arguments.command == "up":
        cluster.up()
    running = cluster.running()
    if not running:
        print(f"no cluster runs in {cluster.folder}; start one with: python -m slurm.loopback up")
        return 1
    print(f"# {' '.join(running)}")
    print("".join(f"# {line}\n" for line in cluster.nodes().splitlines()), end="")
    print(f"export SLURM_CONF={cluster.slurm_conf}")
    return 0


if __name__ == "__main__":
    run_main(main)
