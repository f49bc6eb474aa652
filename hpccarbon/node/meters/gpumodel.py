"""Power of a GPU without a power sensor, from its model and limit. Reads nothing."""

from __future__ import annotations

LIMITS_W: dict[str, int] = {
    "A100 80GB PCIe": 300,
    "A100-PCIE": 250,
    "GTX 1080 Ti": 250,
    "GTX 1080": 180,
    "GTX TITAN X": 250,
    "RTX 2080 Ti": 250,
    "RTX 2080": 215,
    "K80": 300,
    "P100": 250,
    "P4": 75,
    "T4": 70,
    "V100S": 250,
    "V100": 300,
    "TITAN V": 250,
    "TITAN X": 250,
}
"""Rated power by part of the name, longer names first: table of Green Algorithms v3 (CC-BY-4.0), from data sheets."""
_UNKNOWN_W = 250
"""Median of the table."""
_IDLE_PERCENT = 12
"""Assumed: idle readings of data centre cards lie between about a twelfth and a fifth of the limit."""


def idle_and_full_mw(name: str, limit_mw: int) -> tuple[int, int, str]:
    """Idle and full power in mW, and where they come from: the card's own limit, else its model's, else a median."""
    if limit_mw:
        return limit_mw * _IDLE_PERCENT // 100, limit_mw, f"limit {limit_mw // 1000} W"
    part = next((part for part in sorted(LIMITS_W, key=len, reverse=True) if part.lower() in name.lower()), None)
    watts = LIMITS_W[part] if part else _UNKNOWN_W
    origin = f"rated {watts} W" if part else f"model not known: {watts} W taken"
    return watts * 1000 * _IDLE_PERCENT // 100, watts * 1000, origin
