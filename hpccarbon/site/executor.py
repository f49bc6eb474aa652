"""Chooses where hours are merged: any `concurrent.futures.Executor` will do. Knows nothing about hours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

KINDS = ("local",)
"""What `--executor` may name."""


class Crew(NamedTuple):
    """An executor, how many tasks it runs at once, and how many cores they share."""

    executor: Executor
    workers: int
    cores: int

    def threads(self, tasks: int) -> int:
        """How many threads each of so many tasks may use: one hour takes all cores, a backlog one each."""
        return max(1, self.cores // max(1, min(self.workers, tasks)))


def cores() -> int:
    """The cores this process may run on, which on a shared node are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def open_crew(kind: str = "local", workers: int | None = None) -> Iterator[Crew]:
    """The workers of one run. `local` is threads of this process: the engine works outside of Python's lock.

    Args:
        kind: one of KINDS.
        workers: tasks at once; None for one per core.

    Raises: ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no executor {kind!r}; there is: {', '.join(KINDS)}")
    available = cores()
    count = workers or available
    with ThreadPoolExecutor(count, thread_name_prefix="aggregate") as executor:
        yield Crew(executor, count, available)
