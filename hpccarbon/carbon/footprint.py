"""From metered energy to grams: intensity × PUE × node factor of each hour, and what a report must say of them.

Grams are computed when asked and never stored. Nothing is assumed in silence: an unknown PUE is 1.0 and said to be,
a zone that is not configured gives no grams and the way to set one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from math import fsum
from pathlib import Path
from typing import Annotated

import msgspec

from hpccarbon.carbon import zones
from hpccarbon.carbon.intensity import RUNGS, Intensity, Value
from hpccarbon.config import Carbon
from hpccarbon.errors import CarbonError
from hpccarbon.units import HOUR_S, UJ_PER_KWH

Means = msgspec.Meta

NO_ZONE = (
    "no grid zone is configured: set `zone` in the section [carbon] of the configuration "
    "(find yours with `hpccarbon intensity zones --search TEXT`)"
)
NO_PUE = "PUE unknown, taken as 1.0: cooling and power distribution are not in the grams (set carbon.pue)"
NOTICES: Mapping[str, str] = {
    "ODbL-1.0": "Contains information from Electricity Maps, made available under the Open Database License "
    "(https://opendatacommons.org/licenses/odbl/1-0/)",
    "CC-BY-4.0": "under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
    "Licence-Ouverte-2.0": "under Licence Ouverte 2.0 (Etalab)",
}
"""What a licence wants beside a figure made with its data."""
RUNG_WORDS: Mapping[str, str] = {
    "fixed": "the site's own value",
    "measured": "hourly, measured",
    "estimated": "hourly, estimated",
    "forecast": "hourly, forecast",
    "interpolated": "interpolated between hours at most 6 h apart",
    "neighbour_days": "same hour of the days before and after",
    "neighbour_day": "same hour of the day before or after",
    "month_hour": "the month's mean at that hour of the day",
    "month": "the month's mean",
    "year": "the year's mean",
    "country": "the year's mean of the country",
    "world": "the year's mean of the world",
}
"""How a rung of the ladder is printed."""
_ORDER: Mapping[str, int] = {rung: place for place, rung in enumerate(RUNGS)}


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """What turns the metered energy of one UTC hour into grams. `spread` is one sigma, relative, of the intensity."""

    hour: datetime
    g_per_kwh: float
    metered_to_grid: float
    rung: str
    source: str
    year: int | None
    edition: str
    basis: str
    estimated: bool
    spread: float
    licence: str = ""
    zone: str = ""
    common: float = 0.0
    own: float = 0.0
    floor_g: float = 0.0
    pue: float | None = None
    node_factor: float = 1.0

    @property
    def factor(self) -> float:
        """g CO2e per kWh of metered energy."""
        return self.g_per_kwh * self.metered_to_grid


class RungShare(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the energy one rung of one source was used for."""

    rung: str
    words: Annotated[str, Means(description="the rung as people read it")]
    source: str
    licence: str
    edition: str
    years: Annotated[list[int], Means(description="years of the yearly values used; empty for hourly ones")]
    hours: int
    energy_uj: int
    percent: Annotated[float, Means(description="of the energy; of the hours, where there is no energy")]
    spread_percent: Annotated[float, Means(description="one sigma of an hour's value")]


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a report prints beside its grams: never grams without it."""

    zone: str | None
    zone_name: str | None
    basis: str
    pue: Annotated[float | None, Means(description="null: unknown, taken as 1.0")]
    node_factor: float
    intensity_g_per_kwh: Annotated[float | None, Means(description="mean weighted by the energy")]
    rungs: Annotated[list[RungShare], Means(description="most energy first")]
    common_percent: Annotated[
        float | None,
        Means(description="one sigma of the grams that all jobs of the zone share; it does not average out"),
    ]
    own_percent: Annotated[float | None, Means(description="one sigma of the grams that is this selection's alone")]
    notes: Annotated[list[str], Means(description="what the reader must know: unknown PUE, missing zone, stand-ins")]
    notices: Annotated[list[str], Means(description="attributions that the data's licences ask for")]

    @property
    def sources(self) -> list[str]:
        """One line per rung and source, most energy first."""
        return [share_text(share) for share in self.rungs]


def share_text(share: RungShare) -> str:
    """`the year's mean 2025, Ember (2026) ...: 100 % of the energy, ± 33 % for one hour`."""
    years = f" {_spans(share.years)}" if share.years else ""
    return (
        f"{share.words}{years}, {share.source}: {share.percent:.3g} % of the energy, "
        f"± {share.spread_percent:.2g} % for one hour"
    )


class Factors:
    """The factors of one place: a zone, its PUE, its node factor. Opens nothing before it is asked.

    Args:
        carbon: `[carbon]`, or what `places.Places` makes of it for a part of the cluster.
        series_dir: `config.shared("intensity")`; None: yearly values alone.
        as_of: see `Intensity`.

    Raises: CarbonError, if the zone is not known (nearest names in the message). No zone at all is no error: every
        factor is then None and `describe` says how to set one.
    """

    def __init__(self, carbon: Carbon, series_dir: Path | None = None, as_of: datetime | None = None) -> None:
        self.carbon = carbon
        self.zone: str | None = zones.require(carbon.zone, series_dir) if carbon.zone else None
        self._intensity = Intensity(self.zone, carbon, series_dir, as_of) if self.zone else None
        self._known: dict[datetime, Factor | None] = {}

    @property
    def faults(self) -> list[CarbonError]:
        """The files of the series that could not be read, so far."""
        return self._intensity.faults if self._intensity is not None else []

    def at(self, hour: datetime) -> Factor | None:
        """The factor of the UTC hour that `hour` (aware) lies in; None without zone or value in this basis.

        Raises: ValueError, if `hour` is naive. CarbonError, if a stored series cannot be read.
        """
        begin = hour_of(hour)
        if begin not in self._known:
            self._known[begin] = self._make(begin)
        return self._known[begin]

    def pue_of(self, hour: datetime) -> float | None:
        """The PUE of the hour, else of its year, else the one of all years; None where none is known.

        Raises: CarbonError, if the file of hourly values cannot be used.
        """
        if self.carbon.pue_file:
            from hpccarbon.carbon.pue import hourly

            known = hourly(self.carbon.pue_file).get(hour_of(hour))
            if known is not None:
                return known
        return self.carbon.pue_of_year.get(str(hour.year)) or self.carbon.pue or None

    def mapping(self, hours: Iterable[datetime]) -> dict[datetime, float]:
        """UTC hour -> g CO2e per kWh of metered energy. An hour without a value is left out, never zero."""
        begins = sorted({hour_of(hour) for hour in hours})
        if self._intensity is not None:
            self._intensity.prepare(begin for begin in begins if begin not in self._known)
        found = {begin: self.at(begin) for begin in begins}
        return {begin: factor.factor for begin, factor in found.items() if factor is not None}

    def grams(self, energy_uj: Mapping[datetime, int]) -> float | None:
        """Grams CO2e of metered energy by hour; None where an hour with energy has no factor."""
        by_hour = self.mapping(energy_uj)
        total = 0.0
        for hour, energy in energy_uj.items():
            if energy:
                factor = by_hour.get(hour_of(hour))
                if factor is None:
                    return None
                total += energy / UJ_PER_KWH * factor
        return total

    def grid_kwh(self, energy_uj: Mapping[datetime, int]) -> float:
        """What was taken from the grid for metered energy: × node factor × PUE of each hour's year (unknown: 1.0)."""
        return fsum(
            energy / UJ_PER_KWH * self.carbon.node_factor * (self.pue_of(hour_of(hour)) or 1.0)
            for hour, energy in energy_uj.items()
        )

    def describe(self, energy_uj: Mapping[datetime, int] | Iterable[datetime] = ()) -> Description:
        """What to print beside the grams of this energy.

        Args:
            energy_uj: UTC hour -> metered energy in µJ; or hours alone, which then weigh the same.
        """
        weights = dict(energy_uj) if isinstance(energy_uj, Mapping) else dict.fromkeys(energy_uj, 0)
        self.mapping(weights)
        by_energy = any(weights.values())
        return _describe(self, {hour_of(hour): energy for hour, energy in weights.items()}, by_energy)

    def _make(self, begin: datetime) -> Factor | None:
        value: Value | None = self._intensity.at(begin) if self._intensity is not None else None
        if value is None:
            return None
        pue = self.pue_of(begin)
        return Factor(
            hour=begin,
            g_per_kwh=value.g_per_kwh,
            metered_to_grid=self.carbon.node_factor * (pue or 1.0),
            rung=value.rung,
            source=value.source,
            year=value.year,
            edition=value.edition,
            basis=value.basis,
            estimated=value.estimated,
            spread=value.spread,
            licence=value.licence,
            zone=value.zone,
            common=value.common,
            own=value.own,
            floor_g=value.floor_g,
            pue=pue,
            node_factor=self.carbon.node_factor,
        )


def hour_of(moment: datetime) -> datetime:
    """The start of the UTC hour a moment lies in. Raises: ValueError, if it is naive."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} is naive: an hour of the grid is an hour of UTC")
    return moment.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)


def _describe(factors: Factors, energy_uj: Mapping[datetime, int], by_energy: bool) -> Description:
    carbon = factors.carbon
    found: dict[tuple[str, str], list[tuple[Factor, int]]] = {}
    missing = 0
    for hour, energy in energy_uj.items():
        factor = factors.at(hour)
        if factor is None:
            missing += 1
        else:
            found.setdefault((factor.rung, factor.source), []).append((factor, energy))
    whole = sum(energy_uj.values()) if by_energy else len(energy_uj)
    shares = [_share(rung, source, used, whole, by_energy) for (rung, source), used in found.items()]
    shares.sort(key=lambda share: (-share.percent, _ORDER[share.rung]))
    used = [(factor, energy if by_energy else 1) for group in found.values() for factor, energy in group]
    weight = sum(energy for _, energy in used)
    mean = fsum(factor.g_per_kwh * energy for factor, energy in used) / weight if weight else None
    common, own = spread_of(used)
    pue = _pue(factors, energy_uj, by_energy)
    return Description(
        zone=factors.zone,
        zone_name=zones.display_name(factors.zone) if factors.zone else None,
        basis=carbon.basis,
        pue=pue,
        node_factor=carbon.node_factor,
        intensity_g_per_kwh=mean,
        rungs=shares,
        common_percent=None if common is None else 100 * common,
        own_percent=None if own is None else 100 * own,
        notes=_notes(factors, shares, missing, any(one.g_per_kwh == 0 and one.year for one, _ in used), pue),
        notices=_notices(shares),
    )


def _pue(factors: Factors, energy_uj: Mapping[datetime, int], by_energy: bool) -> float | None:
    """The PUE of these hours, their mean by energy where they differ; None where one of them is not known."""
    if not energy_uj:
        return factors.carbon.pue or None
    known = [pue for hour in energy_uj if (pue := factors.pue_of(hour)) is not None]
    if len(known) < len(energy_uj):
        return None
    if len(set(known)) == 1:
        return known[0]
    weights = list(energy_uj.values()) if by_energy else [1] * len(known)
    return fsum(pue * weight for pue, weight in zip(known, weights, strict=True)) / sum(weights)


def _share(rung: str, source: str, used: list[tuple[Factor, int]], whole: int, by_energy: bool) -> RungShare:
    energy = sum(energy for _, energy in used)
    part = energy if by_energy else len(used)
    first = used[0][0]
    return RungShare(
        rung=rung,
        words=RUNG_WORDS[rung],
        source=source,
        licence=first.licence,
        edition=first.edition,
        years=sorted({factor.year for factor, _ in used if factor.year is not None}),
        hours=len(used),
        energy_uj=energy,
        percent=100 * part / whole if whole else 0.0,
        spread_percent=100 * fsum(factor.spread for factor, _ in used) / len(used),
    )


def spread_of(used: Iterable[tuple[Factor, int]]) -> tuple[float | None, float | None]:
    """One-sigma relative errors of a sum over hours: the part all of them share, and the part that averages out.

    Args:
        used: factors with their weights (energy).

    Method: errors that a source has in common are added as they are; those of single hours are taken as the same
        within a week and independent between weeks, because weather lasts days (docs/carbon.md, "Uncertainty").
    """
    common_g = total_g = 0.0
    weeks: dict[int, float] = {}
    for factor, weight in used:
        grams = weight * factor.g_per_kwh
        total_g += grams
        common_g += max(grams * factor.common, weight * factor.floor_g)
        week = int(factor.hour.timestamp()) // (7 * 24 * HOUR_S)
        weeks[week] = weeks.get(week, 0.0) + grams * factor.own
    if not total_g:
        return None, None
    return common_g / total_g, fsum(error * error for error in weeks.values()) ** 0.5 / total_g


def _notes(factors: Factors, shares: list[RungShare], missing: int, zero: bool, pue: float | None) -> list[str]:
    carbon = factors.carbon
    if factors.zone is None:
        return [NO_ZONE]
    notes = []
    if missing:
        notes.append(
            f"no {carbon.basis} intensity is known for {factors.zone} in {missing} of the hours: fetch a series "
            f"(`hpccarbon intensity fetch`), import one, or set carbon.basis"
            f"{' = lifecycle' if carbon.basis == 'direct' else ''}"
        )
    if pue is None:
        notes.append(NO_PUE)
    notes += [
        f"{share.percent:.3g} % of the energy is at {share.words}: "
        f"{factors.zone} has no {carbon.basis} value of its own"
        for share in shares
        if share.rung in ("country", "world")
    ]
    if zero:
        notes.append(f"the statistics of {factors.zone} give 0 g/kWh (all hydro): about 0, and not free of emissions")
    return notes + [f"set aside: {fault}" for fault in factors.faults]


def _notices(shares: list[RungShare]) -> list[str]:
    lines: dict[str, None] = {}
    for share in shares:
        for licence in share.licence.split(" and "):
            if licence == "ODbL-1.0":
                lines[NOTICES[licence]] = None
            elif licence in NOTICES:
                lines[f"{share.source}, {NOTICES[licence]}"] = None
    return list(lines)


def _spans(years: list[int]) -> str:
    return str(years[0]) if years[0] == years[-1] else f"{years[0]}-{years[-1]}"
