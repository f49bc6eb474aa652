"""The text of every configuration file of the lab. Writes nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

NODE_CPUS = 8
NODE_MB = 6000
GPUS = 4


def slurm_conf(
    lab: Path, host: str, nodes: Sequence[str], ports: Mapping[str, int], *, cluster: str, gpu_node: str = "",
    other: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """slurm.conf of the lab; what a site needs of it is explained in slurm_scripts/slurm.conf.example.

    `other` replaces keys, for sites that are set up otherwise.
    """
    lines = [
        f"ClusterName={cluster}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports['slurmctld']}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        # A requeued job waits until its old credential has expired: 120 s unless cred_expire says less.
        f"AuthInfo=socket={lab}/munge/socket,cred_expire=8",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports['slurmdbd']}",
        # For connections to slurmdbd AuthInfo does not count: the munge socket is taken from the "password".
        f"AccountingStoragePass={lab}/munge/socket",
        f"StateSaveLocation={lab}/slurmctld",
        f"SlurmctldPidFile={lab}/slurmctld.pid",
        f"SlurmctldLogFile={lab}/log/slurmctld.log",
        f"SlurmdSpoolDir={lab}/spool/%n",
        f"SlurmdPidFile={lab}/spool/%n.pid",
        f"SlurmdLogFile={lab}/log/slurmd-%n.log",
        "SlurmdParameters=config_overrides",
        "ProctrackType=proctrack/cgroup",
        # Not task/affinity: it lays tasks out on the machine's own cores, and srun fails where the node pretends more
        # ("Unable to layout tasks on given cpus").
        "TaskPlugin=task/cgroup",
        "JobAcctGatherType=jobacct_gather/cgroup",
        "JobAcctGatherFrequency=task=10",
        "PrologFlags=Alloc,Contain",
        f"Prolog={lab}/hooks/prolog",
        f"Epilog={lab}/hooks/epilog",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerCPU=500",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2",
        "PriorityType=priority/basic",
        "JobRequeue=1",
        "ReturnToService=2",
        "KillWait=2",
        "CompleteWait=0",
        "MinJobAge=120",
        "MaxArraySize=1001",
        # A busy machine with two cores answers late; a node that is called down for it would fail tests for no reason.
        "SlurmdTimeout=300",
        "SlurmctldTimeout=120",
        "MessageTimeout=30",
        "BatchStartTimeout=60",
    ]
    lines = [f"{key}={(other or {}).get(key, value)}" for key, value in (line.split("=", 1) for line in lines)]
    if gpu_node:
        lines += ["GresTypes=gpu", "AccountingStorageTRES=gres/gpu"]
    for index, node in enumerate(nodes):
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node]} CPUs={NODE_CPUS} "
            f"Sockets=2 CoresPerSocket={NODE_CPUS // 2} ThreadsPerCore=1 RealMemory={NODE_MB}"
            + (f" Gres=gpu:{GPUS}" if node == gpu_node else "")
            + (" Feature=model" if index == len(nodes) - 1 else " Feature=rapl")
        )
    metered = ",".join(nodes[:-1])
    lines += [
        f"PartitionName=batch Nodes={metered} Default=YES MaxTime=60 State=UP",
        f"PartitionName=all Nodes={','.join(nodes)} MaxTime=60 State=UP",
        f"PartitionName=model Nodes={nodes[-1]} MaxTime=60 State=UP",
    ]
    return "\n".join(lines) + "\n"


def cgroup_conf() -> str:
    """cgroup.conf: nothing is constrained, since the nodes pretend to have cores that the machine has not."""
    return (
        "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n"
        "ConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"
    )


def gres_conf(lab: Path, gpu_node: str) -> str:
    """gres.conf: GPUs that are nothing but character devices, which is all that Slurm asks for."""
    return f"AutoDetect=off\nNodeName={gpu_node} Name=gpu File={lab}/dev/nvidia[0-{GPUS - 1}]\n" if gpu_node else ""


def slurmdbd_conf(lab: Path, ports: Mapping[str, int]) -> str:
    """slurmdbd.conf (mode 0600, or slurmdbd refuses). `localhost` means the socket of MYSQL_UNIX_PORT."""
    return (
        f"AuthType=auth/munge\nAuthInfo=socket={lab}/munge/socket\nDbdHost=localhost\nDbdAddr=127.0.0.1\n"
        f"DbdPort={ports['slurmdbd']}\nSlurmUser=root\nLogFile={lab}/log/slurmdbd.log\nPidFile={lab}/slurmdbd.pid\n"
        "StorageType=accounting_storage/mysql\nStorageHost=localhost\nStorageUser=root\nStorageLoc=slurm_acct\n"
    )


def hpccarbon_toml(lab: Path, cluster: str, zone: str) -> str:
    """The daemon's configuration; one file serves all nodes."""
    return f"""\
cluster = "{cluster}"
[paths]
state_dir = "{lab}/nodes/%n/state"
run_dir = "{lab}/nodes/%n/run"
shared_dir = "{lab}/shared"
[daemon]
root = "{lab}/nodes/%n/root"
interval_s = 1.0
seal_s = 900
seal_after_job_s = 5
seal_user = ""
steps = true
[slurm]
conf = "{lab}/slurm.conf"
[carbon]
zone = "{zone}"
pue = 1.3
"""


def hooks_env(lab: Path, program: str) -> str:
    """What the hooks source. Daemons are started by the lab, not by the prolog, so that a test decides when."""
    return (
        f"HPCCARBON_RUN_DIR={lab}/nodes/%n/run\nHPCCARBON_BIN='{program}'\n"
        f"HPCCARBON_CONFIG={lab}/hpccarbon.toml\nHPCCARBON_START=no\n"
    )


def hook_wrapper(lab: Path, script: str) -> str:
    """What slurm.conf names: the real script, told where the lab's settings are."""
    settings = f"HPCCARBON_HOOKS_ENV={lab}/hooks/hooks.env"
    return f"#!/bin/sh\n{settings}\nexport HPCCARBON_HOOKS_ENV\nexec {lab}/hooks/{script}\n"
