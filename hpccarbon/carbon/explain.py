"""One job's grams as lines of arithmetic that a reader can do again on a pocket calculator. Hides no step.

Every operand is printed as it was used, each line is exact decimal arithmetic rounded half to even to a tenth of a
milligram, and the total is the sum of the lines as they are printed: whoever multiplies and adds what stands there gets
the same digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING, Annotated

import msgspec

from hpccarbon.carbon.footprint import RUNG_WORDS, Factor
from hpccarbon.carbon.places import EnergyByPlace, Places

if TYPE_CHECKING:
    from hpccarbon.carbon.embodied import Hardware, Held

Means = msgspec.Meta
DIGITS = Decimal("0.0001")
"""What a line's grams are rounded to."""
J_PER_KWH = 3_600_000
MAX_PUES = 3
"""More of them are not listed: each step has its own."""
_CONTEXT = Context(prec=60)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One step: what it is, the expression with its numbers, what it gives, where its numbers are from, of when."""

    label: str
    expression: Annotated[str, Means(description="numbers with ×, ÷ and +; empty for a statement")]
    result: Annotated[str, Means(description="a decimal number; `not known` where a step has none")]
    unit: str
    source: str
    time: Annotated[str, Means(description="UTC hours the step is of: first/end, end not included")]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The way from joules to grams. `co2e_g` is the last line of the electricity, `embodied_g` that of the hardware."""

    lines: list[Line]
    co2e_g: Annotated[str | None, Means(description="electricity; null where an hour has no intensity")]
    embodied_g: Annotated[str | None, Means(description="manufacturing; null where it is not configured")]


class _Step:
    """Consecutive hours of one place with the same factor: one line."""

    def __init__(self, place: str, factor: Factor | None, hour: datetime) -> None:
        self.place, self.factor, self.first, self.last, self.energy_uj = place, factor, hour, hour, 0

    def holds(self, place: str, factor: Factor | None) -> bool:
        return self.place == place and _same(self.factor, factor)


def explain(
    places: Places,
    energy: EnergyByPlace,
    held: Iterable[tuple[str, Held]] = (),
    measured: str = "meters of the nodes",
) -> Explanation:
    """The lines for a job's energy, and for its share of the hardware.

    Args:
        energy: `Places.energy_of`.
        held: (place, cores × time and GPUs × time held there); none: the hardware is left out.
        measured: what the energy's source is called.

    Raises: CarbonError for a zone that is not known.
    """
    for place, used in energy.items():
        places.factors(place).mapping(used)
    parts_of = {(place, hour): energy_uj for place, used in energy.items() for hour, energy_uj in used.items()}
    steps: list[_Step] = []
    for (place, hour), energy_uj in sorted(parts_of.items()):
        factor = places.factors(place).at(hour)
        if not steps or not steps[-1].holds(place, factor):
            steps.append(_Step(place, factor, hour))
        steps[-1].last = hour
        steps[-1].energy_uj += energy_uj

    lines = [_energy_line(parts_of, measured)]
    lines += _settings_lines(places, sorted(parts_of))
    parts: list[Decimal | None] = []
    for step in steps:
        line, grams = _step_line(step, places)
        lines.append(line)
        parts.append(grams)
    total = None
    if parts:
        total_line, total = _sum_line("electricity", parts)
        lines.append(total_line)
    embodied: list[Decimal] = []
    for place, part in held:
        for line, grams in _embodied_lines(places, place, part):
            lines.append(line)
            embodied.append(grams)
    made = None
    if embodied:
        made_line, made = _sum_line("manufacturing", list(embodied))
        lines.append(made_line)
    return Explanation(
        lines=lines, co2e_g=None if total is None else _text(total), embodied_g=None if made is None else _text(made)
    )


def _energy_line(energy: dict[tuple[str, datetime], int], measured: str) -> Line:
    hours = sorted({hour for _, hour in energy})
    time = f"{_iso(hours[0])}/{_iso(hours[-1] + timedelta(hours=1))}" if hours else ""
    joules = Decimal(sum(energy.values())).scaleb(-6)
    return Line(label="metered energy", expression="", result=_plain(joules), unit="J", source=measured, time=time)


def _settings_lines(places: Places, used: list[tuple[str, datetime]]) -> list[Line]:
    """What the energy is multiplied with besides the intensity, for each place; an unknown PUE is said to be."""
    lines = []
    for place in dict.fromkeys(place for place, _ in used):
        carbon = places.carbon_of(place)
        where = f" in {place}" if place else ""
        table = f"carbon.places.{place}" if place else "carbon"
        lines.append(
            Line(
                label=f"node factor{where}",
                expression="",
                result=_plain(Decimal(str(carbon.node_factor))),
                unit="",
                source=f"configuration, {table}: energy at the node's plug / energy of its meters",
                time="",
            )
        )
        factors = places.factors(place)
        by_hour = {hour: factors.pue_of(hour) for its, hour in used if its == place}
        different = list(dict.fromkeys(by_hour.values()))
        if len(different) > MAX_PUES:
            said = f"by the hour, {carbon.pue_file}: it stands in each line"
            lines.append(Line(label=f"PUE{where}", expression="", result="", unit="", source=said, time=""))
            continue
        for pue in different:
            years = ", ".join(dict.fromkeys(str(hour.year) for hour, its_pue in by_hour.items() if its_pue == pue))
            lines.append(
                Line(
                    label=f"PUE{where}",
                    expression="",
                    result=_plain(Decimal(str(pue or 1.0))),
                    unit="",
                    source=f"configuration, {table}" if pue else f"unknown ({table}.pue is not set): taken as 1.0",
                    time=years if len(different) > 1 else "",
                )
            )
    return lines


def _step_line(step: _Step, places: Places) -> tuple[Line, Decimal | None]:
    time = f"{_iso(step.first)}/{_iso(step.last + timedelta(hours=1))}"
    joules = _plain(Decimal(step.energy_uj).scaleb(-6))
    where = f"{step.place}: " if step.place else ""
    factor = step.factor
    if factor is None:
        source = " ".join(places.factors(step.place).describe([step.first]).notes[:1])
        line = Line(label=f"{where}no intensity", expression=f"{joules} J", result="not known", unit="g CO2e",
                    source=source, time=time)  # fmt: skip
        return line, (None if step.energy_uj else Decimal(0))
    operands = [Decimal(str(number)) for number in (factor.node_factor, factor.pue or 1.0, factor.g_per_kwh)]
    value = Decimal(step.energy_uj).scaleb(-6)
    for operand in operands:
        value = _CONTEXT.multiply(value, operand)
    grams = _rounded(_CONTEXT.divide(value, Decimal(J_PER_KWH)))
    year = f" {factor.year}" if factor.year is not None else ""
    line = Line(
        label=f"{where}{RUNG_WORDS[factor.rung]}{year}, {factor.zone}",
        expression=f"{joules} J ÷ {J_PER_KWH} J/kWh × {' × '.join(_plain(one) for one in operands)} g/kWh",
        result=_text(grams),
        unit="g CO2e",
        source=f"{factor.source}{f' [{factor.edition}]' if factor.edition else ''}, {factor.basis}, "
        f"± {100 * factor.spread:.2g} % for one hour",
        time=time,
    )
    return line, grams


def _embodied_lines(places: Places, place: str, held: Held) -> list[tuple[Line, Decimal]]:
    from hpccarbon.carbon.embodied import HOURS_PER_YEAR, hardware

    made: Hardware | None = hardware(places.carbon_of(place).embodied)
    if made is None:
        return []
    found = []
    life_h = Decimal(str(made.life_years)) * HOURS_PER_YEAR
    for label, figure, held_us, of in (
        ("cores", made.node, held.core_us, made.cores),
        ("GPUs", made.gpu, held.gpu_us, 1),
    ):
        if figure is None or not held_us:
            continue
        seconds = Decimal(held_us).scaleb(-6)
        kg = Decimal(str(figure.kg))
        value = _CONTEXT.divide(
            _CONTEXT.multiply(_CONTEXT.multiply(kg, Decimal(1000)), seconds), Decimal(3600) * life_h * of
        )
        grams = _rounded(value)
        divisor = f" ÷ {of} cores" if label == "cores" else ""
        line = Line(
            label=f"{place + ': ' if place else ''}manufacturing, by {label} held",
            expression=f"{_plain(kg)} kg × 1000 g/kg × {_plain(seconds)} {label[:-1]}-s ÷ 3600 s/h ÷ {_plain(life_h)} h"
            f"{divisor}",
            result=_text(grams),
            unit="g CO2e",
            source=f"{figure.source}; range {figure.low_kg:.4g} to {figure.high_kg:.4g} kg; "
            f"life {made.life_years:g} years",
            time="",
        )
        found.append((line, grams))
    return found


def _sum_line(label: str, parts: list[Decimal | None]) -> tuple[Line, Decimal | None]:
    known = [part for part in parts if part is not None]
    total = sum(known, Decimal(0)) if len(known) == len(parts) else None
    expression = " + ".join(_text(part) for part in known) if total is not None and len(parts) > 1 else ""
    return Line(
        label=f"total, {label}",
        expression=expression,
        result="not known" if total is None else _text(total),
        unit="g CO2e",
        source="sum of the lines above" if len(parts) > 1 else "the line above",
        time="",
    ), total


def _same(one: Factor | None, other: Factor | None) -> bool:
    if one is None or other is None:
        return one is other
    names = ("g_per_kwh", "rung", "source", "year", "zone", "pue", "node_factor")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(DIGITS, ROUND_HALF_EVEN, _CONTEXT)


def _text(value: Decimal) -> str:
    return f"{value:.4f}"


def _plain(value: Decimal) -> str:
    """All digits and no exponent: `1482442.123456`, `1.1`, `0`."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%MZ")
