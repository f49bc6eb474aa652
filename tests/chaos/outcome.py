"""One line of the table that `python -m tests.chaos` prints, and what makes it a failure."""

from __future__ import annotations

import statistics
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
    slow: list[str] = []
    """The same for promises about time: the table's to judge. A test that runs beside others has no say in it."""

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not (self.energy_lost_uj or self.jobs_lost or self.wrong or self.slow)

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
        self.take((time.perf_counter() - begun) * 1000)

    def take(self, ms: float) -> None:
        """One duration."""
        self.ms = max(self.ms, ms)


class Durations(Longest):
    """All of them, for the one in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self._all: list[float] = []

    def take(self, ms: float) -> None:
        """One duration, remembered."""
        super().take(ms)
        self._all.append(ms)

    @property
    def median_ms(self) -> float:
        """The one in the middle; 0 where nothing was timed."""
        return statistics.median(self._all) if self._all else 0.0
