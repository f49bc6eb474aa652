"""What this node can measure, what it cannot and why, and what to do about it. Reads; changes nothing."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import StoreError
from hpccarbon.node import meters as meter_table
from hpccarbon.node.seal import STORE_NAME
from hpccarbon.node.store import Store
from hpccarbon.node.sysroot import SysRoot, online_cpus
from hpccarbon.node.usage import cgroup, perf
from hpccarbon.node.usage.watch import Watch
from hpccarbon.node.usage.weights import CPU_TIME

Verdict = Literal["ok", "note", "problem"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found and, where it is not well, the next step."""

    area: Literal["energy", "jobs", "daemon", "slurm"]
    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """All checks of one node, and the two answers an administrator wants first."""

    node: str
    cluster: str
    cpus: int
    measured: bool
    modelled: bool
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is a problem."""
        return all(check.verdict != "problem" for check in self.checks)


def diagnose(config: Config, node: str) -> Diagnosis:
    """Look at the sensors, the cgroups, the daemon's directories and the hooks of this node."""
    root = SysRoot(config.root_dir(node))
    found = meter_table.discover(root, config)
    channels = [channel for meter in found for channel in meter.channels]
    cpu = [channel for channel in channels if channel.component == "cpu"]
    checks = [
        *_energy(found, bool(cpu)),
        *_jobs(root, node),
        *_watch(),
        *_weights(config),
        *_daemon(config, node),
        *_hooks(config, node),
    ]
    for meter in found:
        meter.close()
    return Diagnosis(
        node=node,
        cluster=config.cluster,
        cpus=config.daemon.cpus or online_cpus(root),
        measured=any(not channel.modelled for channel in cpu),
        modelled=any(channel.modelled for channel in cpu),
        checks=tuple(checks),
    )


def _energy(found: list[meter_table.Meter], any_cpu: bool) -> list[Check]:
    checks = []
    for meter in found:
        for finding in meter.findings:
            verdict: Verdict = "problem" if finding.state in ("denied", "failing") else "ok"
            if finding.state in ("missing", "standby", "nested") or any(channel.modelled for channel in meter.channels):
                verdict = "note"
            subject = finding.zone if finding.zone.startswith(finding.meter) else f"{finding.meter} {finding.zone}"
            advice = "" if finding.state in ("standby", "nested") else finding.advice
            checks.append(Check("energy", subject, verdict, f"{finding.state}: {finding.detail}", advice))
    if not any_cpu:
        checks.append(
            Check(
                "energy",
                "CPUs",
                "problem",
                "no meter and no model: no CPU energy at all",
                'add "model" to meters.enabled',
            )
        )
    return checks


def _jobs(root: SysRoot, node: str) -> list[Check]:
    layout = cgroup.find_layout(root, node)
    if layout is None:
        return [
            Check(
                "jobs",
                "cgroup",
                "note",
                "no Slurm job directory under sys/fs/cgroup yet",
                "normal before the first job; else set JobAcctGatherType=jobacct_gather/cgroup and "
                "ProctrackType=proctrack/cgroup in slurm.conf",
            )
        ]
    found = f"v{layout.version}, {layout.scope}: {len(cgroup.job_directories(root, layout))} job(s) now"
    if not layout.by_processes:
        return [Check("jobs", "cgroup", "ok", found)]
    return [
        Check(
            "jobs",
            "cgroup",
            "note",
            f"{found}; no group counts CPU time, so it is added up from the jobs' processes",
            "set JobAcctGatherType=jobacct_gather/cgroup in slurm.conf: the last second of a step is the system's else",
        )
    ]


def _watch() -> list[Check]:
    """Whether the kernel can tell of jobs that come and go; nothing where it can."""
    with closing(Watch()) as watch:
        if not watch.blind:
            return []
    found = "the kernel watches no more directories for this user: jobs are looked for at every tick"
    return [Check("jobs", "inotify", "note", found, "raise fs.inotify.max_user_instances, or see who holds them all")]


def _weights(config: Config) -> list[Check]:
    """Whether this machine counts what the site wants jobs to be weighed by; nothing where CPU time is enough."""
    name = config.daemon.weights
    if name == CPU_TIME:
        return []
    refused = perf.refusal(name)
    if not refused:
        return [Check("jobs", "weights", "ok", f"{name} are counted per job")]
    advice = "virtual machines often have no counters; else ask as root, and see kernel.perf_event_paranoid"
    return [Check("jobs", "weights", "note", f"no {name} here ({refused}): CPU time stands in", advice)]


def _daemon(config: Config, node: str) -> list[Check]:
    checks = []
    pid = _pid(config.run_dir(node) / "daemon.pid")
    if pid:
        checks.append(Check("daemon", "process", "ok", f"running, pid {pid}"))
    else:
        advice = "systemctl start hpccarbon, or HPCCARBON_START=yes in hooks.env"
        checks.append(Check("daemon", "process", "note", "not running", advice))
    checks.append(_directory("state_dir", config.state_dir(node), ""))
    checks.append(_directory("shared_dir", Path(config.paths.shared_dir), config.daemon.seal_user))
    return [*checks, *_assumptions(config, node)]


def _assumptions(config: Config, node: str) -> list[Check]:
    """Static power that the daemon took from the model of the CPU family, because it never saw the node idle."""
    path = config.state_dir(node) / STORE_NAME
    if not path.exists():
        return []
    try:
        store = Store(path, config.cluster, node, readonly=True)
        resumed = store.resume()
        store.close()
    except StoreError as err:
        return [Check("daemon", "store", "problem", str(err))]
    assumed = resumed[0].assumed_uw if resumed else {}
    if not assumed:
        return []
    found = f"{sum(assumed.values()) / 1e6:.0f} W assumed from the CPU's family: the node was never seen idle"
    advice = "leave the node idle for five seconds, or set daemon.idle_power_w"
    return [Check("energy", "idle power", "note", found, advice)]


def _directory(name: str, path: Path, user: str) -> Check:
    """Whether who writes there can: `user`, or whom this runs as where that is empty or cannot be tried."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if user and os.geteuid() == 0:
        if (refused := _refusal(existing, user)) is not None:
            advice = f"chown {user}: {path}, or see what the file system's server allows"
            return Check("daemon", name, "problem", f"{path} cannot be written by {user}{refused}", advice)
    elif not os.access(existing, os.W_OK):
        return Check(
            "daemon", name, "problem", f"{path} cannot be written", f"check paths.{name} and whom this runs as"
        )
    free_gb = shutil.disk_usage(existing).free / 1e9
    verdict: Verdict = "ok" if free_gb > 0.5 else "problem"
    advice = "" if verdict == "ok" else "make room: rows wait in memory while the disk is full"
    return Check("daemon", name, verdict, f"{path}, {free_gb:.0f} GB free", advice)


def _refusal(path: Path, user: str) -> str | None:
    """Why an account cannot make files in a directory; None: it can. Root's word is none: it may be squashed."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return ": there is no such account (daemon.seal_user)"
    groups = os.getgrouplist(user, account.pw_gid)
    command = ["sh", "-c", 'test -w "$1" && test -x "$1"', "sh", str(path)]
    done = subprocess.run(
        command, user=account.pw_uid, group=account.pw_gid, extra_groups=groups, cwd="/", check=False, timeout=20
    )
    return "" if done.returncode else None


def _hooks(config: Config, node: str) -> list[Check]:
    directory = config.run_dir(node) / "jobs"
    try:
        count = sum(1 for _ in directory.iterdir())
    except OSError:
        found = f"{directory} does not exist"
        return [Check("slurm", "hooks", "note", found, "it is made by the daemon; the hooks write there")]
    advice = (
        ""
        if count
        else "normal while no job runs; else check Prolog= and Epilog= in slurm.conf (slurm_scripts/README.md)"
    )
    return [Check("slurm", "hooks", "ok" if count else "note", f"{count} job file(s) in {directory}", advice)]


def _pid(path: Path) -> int:
    try:
        pid = int(path.read_text())
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError):
        return 0
    return pid
