"""Makes cumulative energies out of readings of a power. Knows no sensor; guesses nothing over a long silence."""

from __future__ import annotations

from hpccarbon.units import NS_PER_S

BRIDGE_NS = 120 * NS_PER_S
"""Between readings further apart than this the power is not known, and no energy is made up for it."""
_UW_NS_PER_UJ = NS_PER_S
_TWICE_UW_NS_PER_UJ = 2 * NS_PER_S


class Integral:
    """Energy under a power curve: trapezoids between the readings, in µJ since the first one.

    After a silence longer than `BRIDGE_NS` it begins at 0 again. A counter that goes down is a reset to whoever
    subtracts, so the silence becomes a gap; so does a restart of the program, which loses the sum.
    """

    __slots__ = ("_at_ns", "_power_uw", "_sum")

    def __init__(self) -> None:
        self._at_ns: int | None = None
        self._power_uw = 0
        self._sum = 0

    def add(self, at_ns: int, power_uw: int) -> int:
        """Take a reading; returns the energy up to now, in µJ. A reading that is not newer changes nothing."""
        if self._at_ns is None or at_ns - self._at_ns > BRIDGE_NS:
            self._sum = 0
        elif at_ns <= self._at_ns:
            return self._sum // _TWICE_UW_NS_PER_UJ
        else:
            self._sum += (self._power_uw + power_uw) * (at_ns - self._at_ns)
        self._at_ns, self._power_uw = at_ns, power_uw
        return self._sum // _TWICE_UW_NS_PER_UJ


class Held:
    """Energy of a power that is told every few seconds: the last reading is held until the next one.

    So the counter grows evenly between readings, and no interval is billed with the energy of several. A silence longer
    than `stale_ns` and not longer than `BRIDGE_NS` is bridged with the mean of both ends; after a longer one the
    counter begins at 0 again.
    """

    __slots__ = ("_heard_ns", "_stale_ns", "_sum", "_upto_ns", "power_uw")

    def __init__(self, stale_ns: int) -> None:
        self._stale_ns = stale_ns
        self.power_uw: int | None = None
        self._heard_ns = 0
        self._upto_ns = 0
        self._sum = 0

    def take(self, moment_ns: int, power_uw: int) -> None:
        """A reading, with the moment it is of."""
        if self.power_uw is None:
            self._upto_ns = moment_ns
        else:
            silence_ns = moment_ns - self._heard_ns
            if silence_ns > max(self._stale_ns, BRIDGE_NS):
                self._sum, self._upto_ns = 0, moment_ns
            elif silence_ns > self._stale_ns:
                self.power_uw = (self.power_uw + power_uw) // 2
            self._advance(moment_ns)
        self.power_uw, self._heard_ns = power_uw, moment_ns

    def energy_uj(self, at_ns: int) -> int | None:
        """The energy up to a moment; None while the last reading is too old to be held."""
        if self.power_uw is None or at_ns - self._heard_ns > self._stale_ns:
            return None
        self._advance(at_ns)
        return self._sum // _UW_NS_PER_UJ

    def _advance(self, at_ns: int) -> None:
        if self.power_uw is not None and at_ns > self._upto_ns:
            self._sum += self.power_uw * (at_ns - self._upto_ns)
            self._upto_ns = at_ns
