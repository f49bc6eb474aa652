"""ENTSO-E transparency platform: what each kind of plant of an area generated, times cited factors. Needs a token.

The intensity is ours: sum(MW × factor) / sum(MW) of generation in the area (imports are not traced), with the factors
of data/fuel_factors.csv in the basis that was asked for. Storage is left out: its emissions belong to the hours it was
charged in. An interval in which a kind of plant is missing that the span otherwise has is dropped: missing is not zero.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from math import fsum
from typing import NamedTuple

from hpccarbon.carbon import tables
from hpccarbon.carbon.providers.base import Basis, Fetched, moment, spans, within
from hpccarbon.carbon.providers.http import Malformed, NoData, ProviderError, Refused, client, need_key
from hpccarbon.carbon.series import Origin, Point
from hpccarbon.config import Provider
from hpccarbon.errors import ConfigError
from hpccarbon.units import HOUR_S

NAME = "entsoe"
BASE_URL = "https://web-api.tp.entsoe.eu/api"
SPAN = timedelta(days=31)
"""A year is allowed; a month keeps replies small."""
DISTANCE_S = 0.2
"""400 requests in a minute, or ten minutes of ban."""
MAX_UNKNOWN = 0.05
"""With more of the generation than this from plants without a cited factor, the interval has no intensity."""
AREAS = {
    "AT": "10YAT-APG------L",
    "BA": "10YBA-JPCC-----D",
    "BE": "10YBE----------2",
    "BG": "10YCA-BULGARIA-R",
    "CH": "10YCH-SWISSGRIDZ",
    "CY": "10YCY-1001A0003J",
    "CZ": "10YCZ-CEPS-----N",
    # Germany is asked for as DE-LU: the bidding zone that it has formed since 2018-10.
    "DE": "10Y1001A1001A82H",
    "DK": "10Y1001A1001A65H",
    "DK-DK1": "10YDK-1--------W",
    "DK-DK2": "10YDK-2--------M",
    "EE": "10Y1001A1001A39I",
    "ES": "10YES-REE------0",
    "FI": "10YFI-1--------U",
    "FR": "10YFR-RTE------C",
    "GB": "10YGB----------A",
    "GB-NIR": "10Y1001A1001A016",
    "GE": "10Y1001A1001B012",
    "GR": "10YGR-HTSO-----Y",
    "HR": "10YHR-HEP------M",
    "HU": "10YHU-MAVIR----U",
    "IE": "10YIE-1001A00010",
    "IT": "10YIT-GRTN-----B",
    "IT-CNO": "10Y1001A1001A70O",
    "IT-CSO": "10Y1001A1001A71M",
    "IT-NO": "10Y1001A1001A73I",
    "IT-SAR": "10Y1001A1001A74G",
    "IT-SIC": "10Y1001A1001A75E",
    "IT-SO": "10Y1001A1001A788",
    "LT": "10YLT-1001A0008Q",
    "LV": "10YLV-1001A00074",
    "MD": "10Y1001A1001A990",
    "ME": "10YCS-CG-TSO---S",
    "MK": "10YMK-MEPSO----8",
    "NL": "10YNL----------L",
    "NO": "10YNO-0--------C",
    "NO-NO1": "10YNO-1--------2",
    "NO-NO2": "10YNO-2--------T",
    "NO-NO3": "10YNO-3--------J",
    "NO-NO4": "10YNO-4--------9",
    "NO-NO5": "10Y1001A1001A48H",
    "PL": "10YPL-AREA-----S",
    "PT": "10YPT-REN------W",
    "RO": "10YRO-TEL------P",
    "RS": "10YCS-SERBIATSOV",
    "SE": "10YSE-1--------K",
    "SE-SE1": "10Y1001A1001A44P",
    "SE-SE2": "10Y1001A1001A45N",
    "SE-SE3": "10Y1001A1001A46L",
    "SE-SE4": "10Y1001A1001A47J",
    "SI": "10YSI-ELES-----O",
    "SK": "10YSK-SEPS-----K",
    "XK": "10Y1001C--00100H",
}
"""Zone -> the EIC of its area (ENTSO-E's list of approved codes); the last character is a check sum."""
STAND_INS = {"B02": "B05", "B03": "B05", "B17": "B01"}
"""Plants without a cited factor of their own, and whose is used: lignite and coal gas as coal, waste as biomass."""
STORAGE = frozenset(("B10", "B25"))
STEPS = {"PT15M": 900, "PT30M": 1800, "PT60M": HOUR_S, "PT1H": HOUR_S}
_EIC = re.compile(r"[0-9]{2}[XYZTWVA][A-Z0-9-]{12}[A-Z0-9]")
_MAX_POSITIONS = 100_000


class Generation(NamedTuple):
    """What one kind of plant generated: start (s since 1970) -> length in s and mean MW."""

    psr_type: str
    mw: dict[int, tuple[int, float]]


class Entsoe:
    """See the module."""

    name = NAME

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client(NAME, given, BASE_URL, sleep, distance_s=DISTANCE_S, first_wait_s=60.0)
        self._token = need_key(NAME, given)
        self._basis: Basis = basis
        self._given = given

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        area = self._given.zones.get(zone) or AREAS.get(zone, "")
        if not _EIC.fullmatch(area):
            raise ConfigError(
                f"{NAME}: no area code is known for {zone}; set carbon.providers.{NAME}.zones.{zone} to its EIC"
            )
        factors, notes = factors_of(self._basis)
        points: list[Point] = []
        used: set[str] = set()
        for begin, end in spans(since, until, SPAN):
            try:
                generation = parse_generation(self._ask(area, begin, end), area)
            except NoData:
                continue
            used |= {one.psr_type for one in generation}
            points += intensities(generation, factors)
        source = f"ENTSO-E generation per type ({area}) × IPCC AR5 factors, production only"
        told = tuple(note for psr_type, note in notes.items() if psr_type in used)
        return Fetched(within(points, since, until), Origin(NAME, source, "CC-BY-4.0", self._basis), told)

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`: the platform forecasts wind, sun and the total, not the mix."""
        return Fetched([], Origin(NAME, "ENTSO-E", "CC-BY-4.0", self._basis))

    def _ask(self, area: str, begin: datetime, end: datetime) -> bytes:
        query = {
            "securityToken": self._token,
            "documentType": "A75",
            "processType": "A16",
            "in_Domain": area,
            "periodStart": _minute(begin - timedelta(minutes=begin.minute)),
            "periodEnd": _minute(end + timedelta(minutes=-end.minute % 60)),
        }
        try:
            return self._client.get("", query, {"Accept": "text/xml, application/xml"}, secret=True)
        except Refused as err:
            if b"Acknowledgement_MarketDocument" in err.body:
                # The platform sends "no data" with 200 or with 400, and its reasons as a document.
                try:
                    parse_generation(err.body, area)
                except Malformed:
                    raise err from None
                except ProviderError as said:
                    if isinstance(said, NoData):
                        raise
                    raise Refused(f"{err}: {said}", err.status) from None
            raise


def factors_of(basis: Basis) -> tuple[dict[str, float | None], dict[str, str]]:
    """psrType -> g CO2e per kWh in this basis (None: no cited figure), and what must be said of a kind of plant."""
    column = f"{basis}_gco2e_per_kwh"
    rows = {row["entsoe_psr_types"]: row for row in tables.rows_of("fuel_factors")}
    factors = {psr_type: float(row[column]) if row[column] else None for psr_type, row in rows.items()}
    notes = {}
    for psr_type, other in STAND_INS.items():
        if factors.get(psr_type) is None and factors.get(other) is not None:
            factors[psr_type] = factors[other]
            notes[psr_type] = (
                f"{rows[psr_type]['fuel']} is counted with the factor of {rows[other]['fuel']} "
                f"({factors[other]:.0f} g/kWh): no figure of its own is cited"
            )
    for psr_type, factor in factors.items():
        if factor is None and psr_type not in STORAGE:
            notes[psr_type] = f"{rows[psr_type]['fuel']} has no cited factor and is left out of the mix"
    return factors, notes


def intensities(generation: list[Generation], factors: dict[str, float | None]) -> list[Point]:
    """The mix of each interval as g/kWh: where every kind of plant of the span has a value, and most have a factor.

    Args:
        generation: each kind once or, where an area reports parts, several times; lengths of steps may differ.
    """
    by_type: dict[str, dict[int, tuple[int, float]]] = {}
    for one in generation:
        if one.psr_type in STORAGE:
            continue
        sums = by_type.setdefault(one.psr_type, {})
        for start, (length, mw) in one.mw.items():
            sums[start] = (length, max(mw, 0.0))  # plants that draw more than they make are no generation
    if not by_type:
        return []
    finest = min(length for values in by_type.values() for length, _ in values.values())
    # A coarser step holds for all of the finer ones in it.
    cut = {
        psr_type: {start + offset: mw for start, (length, mw) in values.items() for offset in range(0, length, finest)}
        for psr_type, values in by_type.items()
    }
    points = []
    for start in sorted(set.intersection(*(set(values) for values in cut.values()))):
        known = {psr: values[start] for psr, values in cut.items() if factors.get(psr) is not None}
        total = fsum(values[start] for values in cut.values())
        with_factor = fsum(known.values())
        if with_factor > 0 and total - with_factor <= MAX_UNKNOWN * total:
            grams = fsum(mw * (factors[psr] or 0.0) for psr, mw in known.items())
            points.append(Point(start, start + finest, grams / with_factor, "estimated"))
    return points


def parse_generation(reply: bytes, area: str) -> list[Generation]:
    """A GL_MarketDocument's series of generation; consumption (pumping) is left out.

    Raises: NoData, if the platform says that it has nothing. Malformed for anything that is not such a document, and
        for one of another area.
    """
    if b"<!DOCTYPE" in reply or b"<!ENTITY" in reply:
        raise Malformed(f"{NAME}: the reply declares entities, which no document of the platform does")
    try:
        root = ET.fromstring(reply)  # noqa: S314 - no entities, by the line above
    except (ET.ParseError, LookupError, ValueError) as err:  # the last two: an encoding that nobody knows
        raise Malformed(f"{NAME}: the reply is no XML ({err})") from None
    kind = _local(root.tag)
    if kind == "Acknowledgement_MarketDocument":
        said = " ".join(_text(reason, "text") for reason in _children(root, "Reason"))
        if "No matching data" in said:
            raise NoData(f"{NAME}: {said[:200]}")
        raise ProviderError(f"{NAME}: {said[:200] or 'refused without a reason'}")
    if kind != "GL_MarketDocument":
        raise Malformed(f"{NAME}: a {kind[:40]} instead of a GL_MarketDocument")
    found: dict[str, Generation] = {}
    for entry in _children(root, "TimeSeries"):
        if _text(entry, "outBiddingZone_Domain.mRID"):
            continue
        its_area = _text(entry, "inBiddingZone_Domain.mRID")
        if its_area and its_area != area:
            raise Malformed(f"{NAME}: asked for area {area}, answered for {its_area[:20]!r}")
        plant = next(_children(entry, "MktPSRType"), None)
        psr_type = _text(plant, "psrType") if plant is not None else ""
        if not re.fullmatch(r"[AB][0-9]{2}", psr_type):
            raise Malformed(f"{NAME}: a series without a kind of plant")
        if _text(entry, "quantity_Measure_Unit.name") not in ("MAW", ""):
            raise Malformed(f"{NAME}: generation in {_text(entry, 'quantity_Measure_Unit.name')[:10]!r}, expected MAW")
        values = found.setdefault(psr_type, Generation(psr_type, {})).mw
        repeats = _text(entry, "curveType") == "A03"
        for period in _children(entry, "Period"):
            values.update(_period(period, repeats))
    return list(found.values())


def _period(period: ET.Element, repeats: bool) -> dict[int, tuple[int, float]]:
    """One Period: start -> (length, MW). With curve type A03 a missing position repeats the one before it."""
    interval = next(_children(period, "timeInterval"), None)
    step = STEPS.get(_text(period, "resolution"))
    if interval is None or step is None:
        raise Malformed(f"{NAME}: a period with resolution {_text(period, 'resolution')[:10]!r}")
    begin, end = moment(_text(interval, "start"), NAME), moment(_text(interval, "end"), NAME)
    count = (end - begin) // step
    if not 0 < count <= _MAX_POSITIONS:
        raise Malformed(f"{NAME}: a period of {end - begin} s in steps of {step} s")
    given: dict[int, float] = {}
    for point in _children(period, "Point"):
        try:
            position, mw = int(_text(point, "position")), float(_text(point, "quantity"))
        except ValueError:
            raise Malformed(f"{NAME}: a point without position or quantity") from None
        if not 1 <= position <= count or not -1e6 < mw < 1e6:
            raise Malformed(f"{NAME}: position {position} of {count}, {mw} MW")
        given[position] = mw
    values: dict[int, tuple[int, float]] = {}
    last: float | None = None
    for position in range(1, count + 1):
        last = given.get(position, last if repeats else None)
        if last is not None:
            values[begin + (position - 1) * step] = (step, last)
    return values


def _local(tag: str) -> str:
    """The tag without its namespace: the version in it differs from document to document."""
    return tag.rpartition("}")[2]


def _children(element: ET.Element, name: str) -> Iterator[ET.Element]:
    return (child for child in element if _local(child.tag) == name)


def _text(element: ET.Element, name: str) -> str:
    child = next(_children(element, name), None)
    return (child.text or "").strip() if child is not None else ""


def _minute(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y%m%d%H%M")
