"""One line of the table that `python -m tests.chaos` prints, and what makes it a failure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class Outcome(msgspec.Struct):
    """What one class of faults did. `wrong` has one sentence for each promise that was not kept."""

    name: str
    faults: int = 0
    energy_lost_uj: int = 0
    """Sum of the absolute differences between what was drawn and what the books hold, all meters and components."""
    jobs_lost: int = 0
    tick_ms: float | None = None
    """The longest tick, where ticks were timed one by one."""
    hook_ms: float | None = None
    """The longest hook, from its start as a process to its end, where hooks ran as processes."""
    note: str = ""
    wrong: list[str] = []

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not (self.energy_lost_uj or self.jobs_lost or self.wrong)

    def expect(self, truth: bool, sentence: str) -> None:
        """Note a promise that was not kept; the same one once."""
        if not truth and sentence not in self.wrong:
            self.wrong.append(sentence)


class Longest:
    """The longest of many durations."""

    def __init__(self) -> None:
        self.ms = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time what happens inside."""
        begun = time.perf_counter()
        yield
        self.ms = max(self.ms, (time.perf_counter() - begun) * 1000)
