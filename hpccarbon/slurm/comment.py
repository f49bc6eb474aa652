"""Reads and sets the AdminComment of jobs in Slurm's accounting. Knows nothing of what is written there.

Seen with Slurm 22.05: `sacctmgr` turns what it is given into small letters; the raw id of an array's last task is the
array's own, and names all of its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hpccarbon.config import Slurm
from hpccarbon.errors import SlurmError
from hpccarbon.slurm import command

MAX_IDS = 500
"""Job ids per command line."""


class Comment(NamedTuple):
    """What stands in a job's AdminComment. `name` is the job as sacctmgr takes it: `123`, or `123_4` for a task."""

    job_id: int
    name: str
    text: str


def read(settings: Slurm, job_ids: Iterable[int]) -> dict[int, Comment]:
    """The comments of jobs by raw job id; of a requeued job that of its last run. Raises: SlurmError."""
    found: dict[int, Comment] = {}
    for some in _chunks(sorted(set(job_ids)), MAX_IDS):
        # Without a start sacct looks at today alone.
        argv = ["sacct", "-X", "-n", "-P", "-S", "1970-01-01", "--format=JobIDRaw,JobID,AdminComment"]
        text = command.run(settings, [*argv, "-j", ",".join(map(str, some))])
        found |= {one.job_id: one for one in parse(text)}
    return found


def parse(text: str) -> Iterator[Comment]:
    """What `sacct` printed. Raises: SlurmError for a line that is none of its."""
    for line in text.splitlines():
        raw, bar, rest = line.partition("|")
        name, second, comment = rest.partition("|")
        if not (bar and second and raw.isdecimal()):
            raise SlurmError(f"sacct: {line[:80]!r} is no line of JobIDRaw|JobID|AdminComment")
        # A component of a heterogeneous job has an id of its own; `123+1` is not what sacctmgr takes.
        yield Comment(int(raw), name if "_" in name else raw, comment)


def write(settings: Slurm, name: str, text: str) -> None:
    """Set the AdminComment of one job. Raises: SlurmError, if that needs more rights or the database is away."""
    command.run(settings, ["sacctmgr", "-i", "modify", "job", "where", f"jobid={name}", "set", f"AdminComment={text}"])


def _chunks(values: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
