"""What hpccarbon wants of slurm.conf, beside what is there. Reads Slurm's own answer; never writes slurm.conf."""

from __future__ import annotations

import re

import msgspec

from hpccarbon.config import Slurm
from hpccarbon.slurm.command import run

_WANTED: tuple[tuple[str, str, str], ...] = (
    ("Prolog", "/etc/hpccarbon/prolog.sh", "tells the daemon user, account, partition, cores and GPUs of a job"),
    ("Epilog", "/etc/hpccarbon/epilog.sh", "tells it that the job has ended"),
    (
        "PrologFlags",
        "Alloc,Contain",
        "the prolog runs on every node of a job, and what comes by ssh belongs to the job",
    ),
    ("ProctrackType", "proctrack/cgroup", "a cgroup for each job"),
    ("JobAcctGatherType", "jobacct_gather/cgroup", "on cgroup v1 this makes the directories CPU time is read from"),
    ("TaskPlugin", "task/cgroup", "the cores and the memory of a job can be read"),
    ("AccountingStorageType", "accounting_storage/slurmdbd", "job names, arrays, QOS and end states"),
)
_LISTS = ("PrologFlags", "TaskPlugin")
_HOOKS = ("Prolog", "Epilog")
_OWN = re.compile(r"^(\w+?)(?:\[\d+\])?\s*=\s*(.*?)\s*$")


class Line(msgspec.Struct, frozen=True):
    """A line that slurm.conf lacks: `value` holds what is there already, too; `present` is that (empty: nothing)."""

    key: str
    value: str
    present: str
    why: str


def settings(slurm: Slurm) -> dict[str, list[str]]:
    """The running configuration: key to its values (`Prolog` may have several).

    Raises: SlurmError, if slurmctld cannot be asked.
    """
    return parse(run(slurm, ("scontrol", "show", "config")))


def parse(text: str) -> dict[str, list[str]]:
    """`scontrol show config` as Slurm 22.05 to 26.05 print it; `Prolog[0] = ...` counts as a value of `Prolog`."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        matched = _OWN.match(line)
        if matched and matched[2] not in ("", "(null)"):
            found.setdefault(matched[1], []).append(matched[2])
    return found


def lacking(present: dict[str, list[str]]) -> list[Line]:
    """The lines to add or to change, given `settings`. An empty dictionary means that nothing is known: all of them."""
    lines = []
    for key, value, why in _WANTED:
        there = present.get(key, [])
        if key in _HOOKS:
            if not any(value in item or item.endswith("/*") for item in there):
                lines.append(Line(key, value, ",".join(there), why))
        elif key in _LISTS:
            words = [word for item in there for word in item.split(",") if word.lower() not in ("none", "task/none")]
            more = [word for word in value.split(",") if word.lower() not in map(str.lower, words)]
            if key == "PrologFlags" and "Contain" not in more:
                more = []  # Contain implies Alloc
            if more:
                lines.append(Line(key, ",".join(words + more), ",".join(there), why))
        elif value not in there:
            lines.append(Line(key, value, ",".join(there), why))
    return lines


def fragment(lines: list[Line]) -> str:
    """The lines as a text for slurm.conf, each with its reason and with what stands there now."""
    if not lines:
        return "# slurm.conf has everything that hpccarbon wants.\n"
    parts = ["# Take these lines into slurm.conf, the same on all machines, then: scontrol reconfigure"]
    for line in lines:
        parts += ["", f"# {line.why}"]
        if line.present:
            parts.append(f"# replaces {line.key}={line.present}")
        if line.present and line.key in _HOOKS:
            parts.append("# or keep yours and call this one from it: it exits 0, prints nothing and takes about 1 ms")
        parts.append(f"{line.key}={line.value}")
    return "\n".join(parts) + "\n"
