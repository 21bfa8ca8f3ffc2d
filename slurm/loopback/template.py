"""The configuration files of the loopback cluster, as templates with the reasons beside the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template

NODES = ("n1", "n2")
# slurmd wants a device file per GPU. These stand in for them, so that gres requests can be tested.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")


@dataclass(frozen=True)
class Ports:
    """TCP ports on 127.0.0.1."""

    controller: int
    accounting: int
    database: int
    nodes: tuple[int, ...]  # one per entry of NODES


SLURM_CONF = Template("""\
# Written by `python -m slurm.loopback up`; replaced when the cluster next starts from cold.
ClusterName=loopback
SlurmctldHost=$hostname(127.0.0.1)
SlurmctldPort=$controller
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for its old credential to expire: 2 minutes by default, about 10 s with this.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/run/slurmctld.own.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdPidFile=$folder/run/slurmd-%n.own.pid
SlurmdSpoolDir=$folder/spool/%n
SlurmdLogFile=$folder/log/slurmd-%n.log
MpiDefault=none
SwitchType=switch/none
# A container may not have a cgroup freezer: processes of a job are found by their parents.
ProctrackType=proctrack/linuxproc
$memory_lines

# Two nodes of $cpus CPUs each, whatever the machine has: small jobs are meant to share it.
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU=1500
$node_lines
# `urgent` preempts `normal`: a job there gets the signal it asked for (--signal), and after GraceTime is requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 GraceTime=10 MaxTime=1-0 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=1-0 State=UP

JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1

# Failures are noticed within seconds, so that they can be tested. A node is back as soon as its slurmd is.
ReturnToService=2
SlurmdTimeout=15
KillWait=5
UnkillableStepTimeout=300
CompleteWait=0
MinJobAge=600
MaxArraySize=$max_array
MaxJobCount=20000
# Cgroups are named after jobs: those of two clusters on one machine must not meet.
FirstJobId=${controller}000
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,default_queue_depth=1000

$accounting_lines
""")

# Where the kernel can limit memory, a job above its request ends OUT_OF_MEMORY, as on a real cluster.
MEMORY_BY_CGROUP = "TaskPlugin=task/cgroup"
# Elsewhere slurmd samples once a second, and the job ends FAILED with "Exceeded job memory limit" in its output.
MEMORY_BY_SAMPLING = "TaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill"
CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
"""

WITH_ACCOUNTING = Template("""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$accounting
# With munge, the "password" of slurmdbd is the socket of munged.
AccountingStoragePass=$folder/munge/socket
AccountingStorageTRES=gres/gpu
# Limits of users and of qualities of service hold, where a test sets one.
AccountingStorageEnforce=limits,qos""")

WITHOUT_ACCOUNTING = "AccountingStorageType=accounting_storage/none"

SLURMDBD_CONF = Template("""\
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
SlurmUser=root
DbdHost=$hostname
DbdAddr=127.0.0.1
DbdPort=$accounting
CommunicationParameters=NoInAddrAny
LogFile=$folder/log/slurmdbd.log
PidFile=$folder/run/slurmdbd.own.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database
StorageLoc=slurm_acct
StorageUser=slurm
StoragePass=$password
""")


def slurm_conf(
    folder: Path, hostname: str, ports: Ports, *, accounting: bool, cgroup: bool, cpus: int, memory: int, max_array: int
) -> str:
    """Text of slurm.conf. `cpus` and `memory` (MiB) are per node; `cgroup`: the kernel limits memory."""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={cpus} RealMemory={memory} Gres=gpu:{len(DEVICES)} State=UNKNOWN"
        for name, port in zip(NODES, ports.nodes, strict=True)
    )
    return SLURM_CONF.substitute(
        folder=folder,
        hostname=hostname,
        controller=ports.controller,
        cpus=cpus,
        node_lines=nodes,
        memory_lines=MEMORY_BY_CGROUP if cgroup else MEMORY_BY_SAMPLING,
        max_array=max_array,
        accounting_lines=WITH_ACCOUNTING.substitute(folder=folder, accounting=ports.accounting)
        if accounting
        else WITHOUT_ACCOUNTING,
    )


def slurmdbd_conf(folder: Path, hostname: str, ports: Ports, password: str) -> str:
    """Text of slurmdbd.conf; it holds the data base's password and must be readable by its owner only."""
    return SLURMDBD_CONF.substitute(
        folder=folder, hostname=hostname, accounting=ports.accounting, database=ports.database, password=password
    )


def gres_conf() -> str:
    """Text of gres.conf."""
    return "".join(f"NodeName={','.join(NODES)} Name=gpu File={device}\n" for device in DEVICES)
