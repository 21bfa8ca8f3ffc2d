"""A real SLURM cluster of two nodes on this machine, for tests: `python -m slurm.loopback up`.

munged, mariadbd, slurmdbd, slurmctld and two slurmd, all listening on 127.0.0.1 only and keeping every file in one
folder. Nothing of the machine's own SLURM, if it has one, is read or touched. Needs root (slurmd starts jobs as their
owners) and Debian's packages, which `up` installs.

    template.py    the text of slurm.conf, slurmdbd.conf and gres.conf
    packages.py    which Debian packages, and how they are installed without starting their services
    processes.py   starting, recognising and stopping one daemon
    cluster.py     the cluster: the order of its daemons, up, down, status
"""

from slurm.loopback.cluster import Cluster, default_folder

__all__ = ["Cluster", "default_folder"]
