"""Processes by identity (pid and start time) and by cgroup. Never finds or ends one by its name."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/sys/fs/cgroup")
_TRACKERS = ("pids", "blkio", "cpu", "systemd")
"""Hierarchies in which Slurm makes no directories: what the lab starts there stays where the lab put it."""


class LabError(Exception):
    """Something in the lab did not come to be; the message names the thing, the reason and the log."""


class Process(NamedTuple):
    """A process that cannot be mistaken for another: a recycled pid has another start time."""

    pid: int
    start_ticks: int


def identity(pid: int) -> Process | None:
    """Who holds this pid now; None where nobody does, or only a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command may hold blanks and brackets
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    return Process(pid, int(fields[19]))


def alive(process: Process | None) -> bool:
    """Whether exactly this process still runs."""
    return process is not None and identity(process.pid) == process


def send(process: Process, number: signal.Signals) -> bool:
    """Signal exactly this process; False where it is gone. A pidfd is held between the look and the shot."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if identity(process.pid) != process:
            return False
        signal.pidfd_send_signal(fd, number)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def wait_until(check: Callable[[], bool], timeout_s: float, pause_s: float = 0.02) -> bool:
    """Whether `check` came true within the time; the pause between two looks grows to 0.1 s."""
    end = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, 0.1)
    return True


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, indented, with its name: what a failure prints."""
    try:
        text = log.read_bytes()[-8192:].decode("utf-8", "replace")
    except OSError as err:
        return f"  (log {log}: {err.strerror})"
    return "\n".join([f"  last lines of {log}:", *(f"    {line}" for line in text.splitlines()[-lines:])])


def tracker_base() -> Path:
    """The v1 hierarchy in which the lab keeps its processes together. Raises: LabError."""
    for name in _TRACKERS:
        if (CGROUP / name / "cgroup.procs").exists():
            return CGROUP / name
    raise LabError(f"no cgroup v1 hierarchy of {', '.join(_TRACKERS)} below {CGROUP}")


def tree(directory: Path) -> list[Path]:
    """A cgroup and everything below it, children first."""
    return [Path(path) for path, _, _ in os.walk(directory, topdown=False)]


def members(directories: Iterable[Path]) -> set[Process]:
    """Every process in these cgroups and below."""
    found: set[Process] = set()
    for directory in directories:
        for group in tree(directory):
            with contextlib.suppress(OSError):
                pids = (group / "cgroup.procs").read_text().split()
                found.update(process for pid in pids if (process := identity(int(pid))) is not None)
    return found


def ancestors() -> set[int]:
    """This process and those above it: never a target, even where someone runs `down` from inside the lab."""
    pids = {os.getpid()}
    pid = os.getppid()
    while pid > 1 and pid not in pids:
        pids.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
    return pids


def end_all(directories: Sequence[Path], others: Iterable[Process] = (), timeout_s: float = 15) -> None:
    """SIGKILL everything in these cgroups, and these processes, until nothing is left. Raises: LabError.

    Frozen groups are thawed first: proctrack/cgroup freezes a step to signal it, and a frozen process does not die.
    """
    spared = ancestors()
    rest = set(others)

    def empty() -> bool:
        for directory in directories:
            for group in tree(directory):
                state = group / "freezer.state"
                if state.exists():
                    with contextlib.suppress(OSError):
                        state.write_text("THAWED")
        targets = {p for p in members(directories) | {p for p in rest if alive(p)} if p.pid not in spared}
        for process in targets:
            send(process, signal.SIGKILL)
        return not targets

    if not wait_until(empty, timeout_s):
        left = sorted(process.pid for process in members(directories))
        raise LabError(f"processes {left} do not die (SIGKILL sent for {timeout_s:.0f} s); see /proc/PID/stack")


def remove_tree(directory: Path, timeout_s: float = 5) -> None:
    """Remove an empty cgroup with everything below it. Raises: LabError. rmdir is busy while the last process exits."""

    def gone() -> bool:
        for group in tree(directory):
            with contextlib.suppress(OSError):
                group.rmdir()
        return not directory.exists()

    if not wait_until(gone, timeout_s):
        raise LabError(f"cgroup {directory} cannot be removed: still busy after {timeout_s:.0f} s")
