"""Says where hours are merged: any `concurrent.futures.Executor` will do. Knows nothing about hours.

On this machine's cores here, on others in site/remote.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple


class Crew(NamedTuple):
    """An executor, how many tasks it runs at once, how many cores they share, and how it says that a worker is lost."""

    executor: Executor
    workers: int
    cores: int
    lost: tuple[type[BaseException], ...] = ()

    def threads(self, tasks: int) -> int:
        """How many threads each of so many tasks may use: one hour takes all cores, a backlog one each."""
        return max(1, self.cores // max(1, min(self.workers, tasks)))


def cores() -> int:
    """The cores this process may run on, which on a shared node are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def open_crew(workers: int | None = None) -> Iterator[Crew]:
    """Threads of this process: the engine works outside of Python's lock.

    Args:
        workers: tasks at once; None for one per core.
    """
    available = cores()
    count = workers or available
    with ThreadPoolExecutor(count, thread_name_prefix="aggregate") as executor:
        yield Crew(executor, count, available)
