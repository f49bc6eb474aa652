"""Cuts an interval at the minutes of UTC time and says what of it falls into each piece. Integers; reads nothing.

Nobody looked in between, so the pieces follow what is known: static energy goes by time, dynamic energy by the CPU time
of the jobs that were there, a GPU's by the time somebody held it. Every sum over the pieces is the interval's, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hpccarbon.records import Channel
from hpccarbon.units import BUCKET_S, NS_PER_S

BUCKET_NS = BUCKET_S * NS_PER_S
_MOST_PIECES = 3_000
Span = tuple[int, int]
"""(from, to), boot-time clock in ns; empty where `to` is not after `from`."""


class Piece(NamedTuple):
    """A part of an interval within one minute: µJ per channel, CPU time and work per holder, presence per job."""

    length_ns: int
    bucket: int
    energy_uj: list[int | None]
    cpu: list[int]
    present_ns: list[int]
    work: list[int] | None = None


class Interval(NamedTuple):
    """What was counted between two readings.

    `deltas_uj` and `idle_uw` are in the order of `channels`; `spans` and `gpus` (device -> parts held) in that of the
    jobs; `cpu` has one more entry, the CPU time of no job, and so has `work`, where hardware counters say who did what.
    """

    start_ns: int
    end_ns: int
    channels: Sequence[Channel]
    idle_uw: Sequence[int]
    deltas_uj: Sequence[int | None]
    spans: Sequence[Span]
    gpus: Sequence[Mapping[str, int]]
    cpu: Sequence[int]
    work: Sequence[int] | None = None

    def pieces(self, wall_ns: int) -> Iterator[Piece]:
        """The pieces in order, for an interval that ends at this moment of the wall clock."""
        used, held = 0, [0] * len(self.channels)
        all_used = sum(self.cpu)
        all_held = [self._held(channel, self.start_ns, self.end_ns) for channel in self.channels]
        whole = (self.start_ns, self.end_ns)
        for left, right, bucket in cuts(self.start_ns, self.end_ns, wall_ns):
            cpu = self._spread(self.cpu, left, right)
            used_now = used + sum(cpu)
            energy: list[int | None] = []
            for index, (channel, delta) in enumerate(zip(self.channels, self.deltas_uj, strict=True)):
                if delta is None or channel.component == "node":
                    energy.append(None)
                    continue
                static = min(delta, self.idle_uw[index] * (self.end_ns - self.start_ns) // NS_PER_S)
                if channel.component == "gpu":
                    held_now = held[index] + self._held(channel, left, right)
                    progress = (held[index], held_now, all_held[index])
                    held[index] = held_now
                else:
                    progress = (used, used_now, all_used)
                moving = (
                    _part(delta - static, *progress) if progress[2] else between(delta - static, whole, left, right)
                )
                energy.append(between(static, whole, left, right) + moving)
            self._add_node_meters(energy, left, right)
            used = used_now
            present = [max(0, min(right, last) - max(left, first)) for first, last in self.spans]
            work = None if self.work is None else self._spread(self.work, left, right)
            yield Piece(right - left, bucket, energy, cpu, present, work)

    def _spread(self, amounts: Sequence[int], left: int, right: int) -> list[int]:
        """What of each holder's amount falls between two moments, spread evenly over the time it was there."""
        spans = [*self.spans, (self.start_ns, self.end_ns)]
        return [between(amount, span, left, right) for amount, span in zip(amounts, spans, strict=True)]

    def _held(self, channel: Channel, left: int, right: int) -> int:
        """How long jobs held a GPU between two moments, added up over the jobs and the parts they held."""
        if channel.component != "gpu" or channel.device is None:
            return 0
        return sum(
            gpus.get(channel.device, 0) * max(0, min(right, last) - max(left, first))
            for gpus, (first, last) in zip(self.gpus, self.spans, strict=True)
        )

    def _add_node_meters(self, energy: list[int | None], left: int, right: int) -> None:
        """A whole-node meter contains the others: its piece is theirs, and what is left over goes by time."""
        inside = sum(part or 0 for part in energy)
        all_inside = sum(
            delta or 0
            for channel, delta in zip(self.channels, self.deltas_uj, strict=True)
            if channel.component != "node"
        )
        first = True
        for index, (channel, delta) in enumerate(zip(self.channels, self.deltas_uj, strict=True)):
            if channel.component == "node" and delta is not None:
                rest = delta - all_inside if first else delta
                part = between(rest, (self.start_ns, self.end_ns), left, right)
                energy[index] = part + inside if first else part
                first = False


def between(amount: int, whole: Span, left: int, right: int) -> int:
    """The part of an amount, spread evenly over `whole`, that falls between two moments. Neighbours add up exactly."""
    first, last = whole
    length = max(last - first, 1)
    low, high = min(max(left, first), last) - first, min(max(right, first), last) - first
    return _part(amount, low, high, length)


def _part(amount: int, before: int, after: int, whole: int) -> int:
    return amount * after // whole - amount * before // whole


def cuts(start_ns: int, end_ns: int, wall_ns: int) -> list[tuple[int, int, int]]:
    """(from, to, bucket) for an interval that ends now, cut at the minutes of the wall clock as it stands now.

    After a long absence pieces grow to hours: days in minutes would keep the next tick waiting.
    """
    offset = wall_ns - end_ns
    step = BUCKET_NS if (end_ns - start_ns) // BUCKET_NS <= _MOST_PIECES else 60 * BUCKET_NS
    found = []
    left = start_ns
    while left < end_ns:
        edge = ((left + offset) // step + 1) * step - offset
        right = min(edge, end_ns)
        found.append((left, right, (left + offset) // BUCKET_NS))
        left = right
    return found
