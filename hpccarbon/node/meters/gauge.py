"""Makes a cumulative energy out of readings of a power. Knows no sensor; guesses nothing over a long silence."""

from __future__ import annotations

from hpccarbon.units import NS_PER_S

BRIDGE_NS = 120 * NS_PER_S
"""Between readings further apart than this the power is not known, and no energy is made up for it."""
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
