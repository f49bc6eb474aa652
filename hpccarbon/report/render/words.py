"""Numbers as people read them: a unit that fits, three digits, never scientific. Rounds for the eye alone."""

from __future__ import annotations

import math
from datetime import datetime, tzinfo

from hpccarbon.units import UJ_PER_J, UJ_PER_KWH, UJ_PER_WH

_BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "not known"
NOT_METERED = "not metered"
_ENERGY = (
    (UJ_PER_J, "J", 3_600.0),
    (UJ_PER_WH, "Wh", 1_000.0),
    (UJ_PER_KWH, "kWh", 1_000.0),
    (1_000 * UJ_PER_KWH, "MWh", 1_000.0),
    (1_000_000 * UJ_PER_KWH, "GWh", math.inf),
)
_GRAMS = ((0.001, "mg", 100.0), (1.0, "g", 1_000.0), (1_000.0, "kg", 1_000.0), (1_000_000.0, "t", math.inf))
_WATTS = ((0.001, "mW", 1_000.0), (1.0, "W", 1_000.0), (1_000.0, "kW", 1_000.0), (1_000_000.0, "MW", math.inf))


def number(value: float, digits: int = 3) -> str:
    """A number >= 0 with so many significant digits, at most three decimals, thousands apart: `1,240`, `12.4`."""
    if value <= 0:
        return "0"
    if value < 0.001:
        return "<0.001"
    value = round(value, digits - 1 - math.floor(math.log10(value)))
    decimals = min(3, max(0, digits - 1 - math.floor(math.log10(value))))
    return f"{value:,.{decimals}f}"


def _scaled(value: float, units: tuple[tuple[float, str, float], ...], digits: int) -> str:
    for scale, unit, limit in units:
        amount = value / scale
        # 999.96 Wh would be written 1,000 Wh: it is 1.00 kWh.
        if amount < limit and float(f"{amount:.{digits}g}") < limit:
            return f"{number(amount, digits)} {unit}"
    raise AssertionError("the last unit has no limit")


def energy(energy_uj: int | None) -> str:
    """`12.4 kWh`."""
    if energy_uj is None:
        return NOT_METERED
    return "0 J" if energy_uj == 0 else _scaled(energy_uj, _ENERGY, 3)


def grams(co2e_g: float | None) -> str:
    """`4.7 kg`: two digits, because no grid's intensity is known better."""
    if co2e_g is None:
        return UNKNOWN
    return "0 g" if co2e_g == 0 else _scaled(co2e_g, _GRAMS, 2)


def power(power_w: float) -> str:
    """`5.10 kW`."""
    return "0 W" if power_w == 0 else _scaled(power_w, _WATTS, 3)


def percent(value: float | None) -> str:
    """`97 %`; never `100 %` or `0 %` for what is not quite."""
    if value is None:
        return "-"
    if value == 0:
        return "0 %"
    if value < 1:
        return "<1 %"
    if 99 <= value < 99.95:
        return f"{math.floor(value * 10) / 10:.1f} %"
    return f"{value:.0f} %"


def duration(seconds: float | None) -> str:
    """`2 h 27 min`: the two largest units."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s" if rest_s and minutes < 10 else f"{minutes} min"
    hours, rest_min = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest_min} min" if rest_min else f"{hours} h"
    days, rest_h = divmod(hours, 24)
    return f"{days} d {rest_h} h" if rest_h else f"{days} d"


def block(part: float) -> str:
    """One of eight heights, for a part from 0 to 1."""
    return _BLOCKS[min(7, int(part * 8))]


def core_hours(used: float, held: float) -> str:
    """`12.3 of 40.0 core hours`; in seconds where hours would be nothing."""
    if held < 0.1:
        return f"{number(used * 3600)} of {number(held * 3600)} core seconds"
    return f"{number(used)} of {number(held)} core hours"


def count(amount: int, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def moment(when: datetime, zone: tzinfo) -> str:
    """`2026-03-01 10:04` in the reader's zone."""
    return f"{when.astimezone(zone):%Y-%m-%d %H:%M}"


def period(start: datetime | None, end: datetime | None, zone: tzinfo) -> str:
    """`2026-03-01 10:04 to 12:31 CET`; the second date only where it is another, seconds for what was short."""
    if start is None:
        return ""
    begin = start.astimezone(zone)
    if end is None:
        return f"since {begin:%Y-%m-%d %H:%M %Z}"
    finish = end.astimezone(zone)
    clock = "%H:%M:%S" if (end - start).total_seconds() < 120 else "%H:%M"
    day = "" if finish.date() == begin.date() else "%Y-%m-%d "
    return f"{begin.strftime(f'%Y-%m-%d {clock}')} to {finish.strftime(f'{day}{clock} %Z')}"
