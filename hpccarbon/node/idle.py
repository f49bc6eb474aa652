"""The static power of each counter: configured, known to the meter, learned from an idle node, or assumed until then.

Learned is the lowest mean of five idle seconds in a row; until the first five are over, the lowest of single idle ticks
stands in. Assumed is the model's figure for the CPU's family, and never more than the counter was seen to draw. Reads
nothing itself; says of every figure where it comes from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from hpccarbon.records import Channel
from hpccarbon.units import NS_PER_S, apportion

Origin = Literal["known", "learned", "assumed"]
_WINDOW_NS = 5 * NS_PER_S
_IDLE_PERCENT = 2


class IdlePower:
    """What each channel draws for being on, in µW.

    Args:
        cpus: how many can be busy.
        configured_uw: component -> static power of all its channels together, where the site measured it.
        assumed_uw: the same, of the CPUs alone, from the model of their family; 0 where the family is not known.
    """

    def __init__(self, cpus: int, configured_uw: Mapping[str, int], assumed_uw: int = 0) -> None:
        self._cpus = cpus
        self._configured_uw = dict(configured_uw)
        self._assumed_total_uw = assumed_uw
        self._channels: tuple[Channel, ...] = ()
        self._known: dict[str, int] = {}
        self._learned: dict[str, int] = {}
        self._assumed: dict[str, int] = {}
        self._windowed: set[str] = set()
        self._window: tuple[int, list[int]] | None = None
        self.fresh = False
        """Whether five idle seconds were seen for the first time: worth a commit before the minute ends."""

    def take(self, channels: Sequence[Channel]) -> None:
        """These are the counters now."""
        self._channels = tuple(channels)
        self._window = None
        self._known = {channel.key: channel.idle_uw for channel in channels if channel.idle_uw}
        for component, total_uw in self._configured_uw.items():
            members = {c.key: 1 for c in channels if c.component == component}
            if members and total_uw:
                self._known.update(apportion(total_uw, members))
        packages = {c.key: 1 for c in channels if c.component == "cpu" and not c.modelled and c.key not in self._known}
        fresh = apportion(self._assumed_total_uw, packages) if self._assumed_total_uw and packages else {}
        self._assumed = {key: min(power, self._assumed.get(key, power)) for key, power in fresh.items()}

    def resume(self, learned: Mapping[str, int]) -> None:
        """What was learned before a restart, be it in another boot."""
        self._learned = {**learned, **self._learned}
        self._windowed.update(learned)

    def of(self, key: str) -> int:
        """The static power of a channel; 0 where nothing is known, so that all it counts is dynamic."""
        for known in (self._known, self._learned, self._assumed):
            if key in known:
                return known[key]
        return 0

    def origin(self, key: str) -> Origin | None:
        """Where the figure comes from; None where there is none."""
        if key in self._known:
            return "known"
        if key in self._learned:
            return "learned"
        return "assumed" if key in self._assumed else None

    @property
    def learned_uw(self) -> dict[str, int]:
        """What a restart is to remember: what was learned, and what the site or the meter knows."""
        return {c.key: self.of(c.key) for c in self._channels if self.origin(c.key) in ("known", "learned")}

    @property
    def assumed_uw(self) -> dict[str, int]:
        """What nobody measured."""
        return {c.key: self.of(c.key) for c in self._channels if self.origin(c.key) == "assumed"}

    def busy(self, dt_ns: int, used_ns: int) -> bool:
        """Whether somebody worked in an interval: then there is nothing to learn, and a window begins anew."""
        if used_ns * 100 <= _IDLE_PERCENT * self._cpus * dt_ns:
            return False
        self._window = None
        return True

    def forget_window(self) -> None:
        """An interval is missing: five seconds in a row begin anew."""
        self._window = None

    def learn(self, dt_ns: int, deltas_uj: Sequence[int], held: Collection[str]) -> bool:
        """Take an interval in which the CPUs were idle; whether a figure changed.

        Args:
            held: devices that jobs hold: a GPU works while the CPUs wait for it.
        """
        length, energy = self._window or (0, [0] * len(deltas_uj))
        length += dt_ns
        energy = [have + more for have, more in zip(energy, deltas_uj, strict=True)]
        full = length >= _WINDOW_NS
        self._window = None if full else (length, energy)
        changed = False
        for channel, total in zip(self._channels, energy, strict=True):
            key = channel.key
            if key in self._known or channel.device in held or (not full and key in self._windowed):
                continue
            power_uw = total * NS_PER_S // length
            if full and key not in self._windowed:
                self._windowed.add(key)
                self.fresh = True
            elif power_uw >= self._learned.get(key, power_uw + 1):
                continue
            self._learned[key] = power_uw
            changed = True
        return changed

    def bound(self, length_ns: int, energy_uj: Sequence[int | None]) -> None:
        """An assumed figure is at most the mean power of any time that was seen."""
        if self._assumed and length_ns >= _WINDOW_NS:
            for channel, energy in zip(self._channels, energy_uj, strict=True):
                if energy is not None and channel.key in self._assumed:
                    seen_uw = energy * NS_PER_S // length_ns
                    self._assumed[channel.key] = min(self._assumed[channel.key], seen_uw)
