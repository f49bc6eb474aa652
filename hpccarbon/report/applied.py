"""Carbon applied to rows of the ledger: each row's grams, how they were made, and all that is to say of the whole.

The ledger holds energy alone; here it meets the intensities of its hours and places. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hpccarbon.carbon.embodied import UG_PER_G, UNALLOCATED, Held, hardware, share
from hpccarbon.carbon.footprint import Factors as HourFactors
from hpccarbon.carbon.places import EnergyByPlace, Places, Row
from hpccarbon.carbon.statement import Statement, held_of, statement
from hpccarbon.config import Config
from hpccarbon.errors import CarbonError
from hpccarbon.report.figures import CarbonOf, Figures
from hpccarbon.site.ledger import Selection
from hpccarbon.site.weigh import Factors, energy_by_place

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from hpccarbon.site.ledger import EnergyRow, Ledger

_HELD = """
    SELECT node, partition, coalesce(sum(alloc_cores::HUGEINT * present_ms), 0)::BIGINT,
        coalesce(sum(alloc_gpus::HUGEINT * present_ms), 0)::BIGINT
    FROM selected GROUP BY node, partition
"""


_ON_NODES = """
    SELECT node, max(partition), coalesce(sum(alloc_cores::HUGEINT * present_ms) FILTER (holder = 'job'), 0)::BIGINT,
        coalesce(sum(alloc_gpus::HUGEINT * present_ms) FILTER (holder = 'job'), 0)::BIGINT
    FROM selected GROUP BY node
"""


class Per(msgspec.Struct, frozen=True):
    """What the SCI is per: one job, or so many units of what the jobs produced."""

    units: float = 1.0
    unit: str = "job"


class Applied:
    """The site's places and their factors, for one report.

    Args:
        as_of: what was fetched after this moment is not seen, so that an older report can be made again.
    """

    def __init__(self, config: Config, as_of: datetime | None = None) -> None:
        self.config = config
        self.as_of = as_of
        self.places = Places(config.carbon, config.shared("intensity"), as_of)
        self.used: EnergyByPlace = {}
        """The energy of what was asked for last, by where it was used and by hour."""
        self.held: dict[str, Held] = {}
        """What was held meanwhile, by place; empty where no hardware is configured."""
        self._fault: CarbonError | None = None

    def of_jobs(self, rows: Sequence[EnergyRow]) -> tuple[list[EnergyRow], list[CarbonOf]]:
        """Rows of one hour, node and partition each (keys as `job.BY`), with their grams and how they were made."""
        self.used = self.places.energy_of(map(_row_of, rows))
        try:
            # All hours of a place at once: a series is read from its first to its last.
            for place, used in self.used.items():
                self.places.factors(place).mapping(used)
            said = described(self.places, self.used)
        except CarbonError as err:
            return list(rows), [self._no_grams(err)]
        priced = [msgspec.structs.replace(row, grams=self.places.grams([_row_of(row)])) for row in rows]
        return priced, said

    def of_selection(
        self, ledger: Ledger, selection: Selection, by: Sequence[str]
    ) -> tuple[list[EnergyRow], list[CarbonOf]]:
        """Rows of any kind, with grams where a zone is configured, and how they were made."""
        several = self.places.several
        try:
            if not several and self.places.factors().zone is None:
                return ledger.energy(selection, by), described(self.places, {})
            place_of = self.places.place_of if several else None
            used = ledger.ask(selection, lambda con, _: energy_by_place(con, place_of)) or {}
            self.used = used
            said = described(self.places, used)
            return ledger.energy(selection, by, factors_of(self.places)), said
        except CarbonError as err:
            return ledger.energy(selection, by), [self._no_grams(err)]

    def statement(self, figures: Figures, per: Per | None = None) -> Statement | None:
        """All that carbon has to say of what was asked for last; None where no zone is configured or known.

        Args:
            figures: of the same energy.
            per: what the SCI is per; None: of a period nobody asked for one.
        """
        if self._fault is not None or not self.used or not self.config.carbon.zone:
            return None
        one = per or Per()
        told = statement(
            self.places,
            self.used,
            self.held or None,
            energy_spread=figures.energy_spread,
            units=one.units,
            unit=one.unit,
        )
        return told if per else msgspec.structs.replace(told, sci_g=None)

    def hold(self, ledger: Ledger, selection: Selection) -> None:
        """Find out what was held in each place; no question where no hardware is configured."""
        if not self._hardware():
            return

        def question(con: DuckDBPyConnection, hours: list[datetime]) -> list[tuple[Any, ...]]:
            return con.execute(_HELD).fetchall()

        rows = ledger.ask(selection, question) or []
        self.held = held_of(
            self.places, [(node, part, core_ms * 1000, gpu_ms * 1000) for node, part, core_ms, gpu_ms in rows]
        )

    def unused_g(self, ledger: Ledger, since: datetime, until: datetime) -> float | None:
        """Manufacturing of what no job held, in grams, of all nodes that have rows in the time: down time counts too.

        Returns: None where no hardware is configured, or not that of every node's place.
        """
        if not self._hardware():
            return None

        def question(con: DuckDBPyConnection, hours: list[datetime]) -> list[tuple[Any, ...]]:
            return con.execute(_ON_NODES).fetchall()

        # Not until - since: in one zone that is the wall clock's difference, and March has 743 hours in Berlin.
        span_us = round((until.timestamp() - since.timestamp()) * 10**6)
        total_ug = 0
        for node, partition, core_ms, gpu_ms in ledger.ask(Selection(since=since, until=until), question) or []:
            made = hardware(self.places.carbon_of(self.places.place_of(node, partition)).embodied)
            if made is None:
                return None
            total_ug += share(made, span_us, {"jobs": Held(core_ms * 1000, gpu_ms * 1000)})[UNALLOCATED]
        return total_ug / UG_PER_G

    def narrow(self, rows: Sequence[EnergyRow]) -> None:
        """From now on it is about these rows, with keys as `job.BY`, and what they held."""
        self.used = self.places.energy_of(map(_row_of, rows))
        if self._hardware():
            self.held = held_of(
                self.places,
                [(*_row_of(row)[1:3], row.core_us or 0, (row.alloc_gpus or 0) * row.present_ms * 1000) for row in rows],
            )

    def _hardware(self) -> bool:
        carbon = self.config.carbon
        given = [carbon.embodied, *(place.embodied for place in carbon.places.values() if place.embodied)]
        return any(one.node_kg or one.node_item or one.gpu_kg or one.gpu_item for one in given)

    def _no_grams(self, err: CarbonError) -> CarbonOf:
        """A zone that is not known takes the grams away, not the energy."""
        self._fault = err
        nowhere = HourFactors(msgspec.structs.replace(self.config.carbon, zone="")).describe()
        return CarbonOf(place="", energy_uj=0, method=msgspec.structs.replace(nowhere, notes=[str(err)]))


def factors_of(places: Places) -> Factors:
    """The factors of a cluster's places, for the ledger's engine."""
    return Factors(
        lambda place, hours: places.factors(place).mapping(hours), places.place_of if places.several else None
    )


def described(places: Places, hours: Mapping[str, Mapping[datetime, int]]) -> list[CarbonOf]:
    """How each place's grams are made, most energy first.

    Args:
        hours: place -> UTC hour -> energy in µJ.
    """
    said = [
        CarbonOf(place=place, energy_uj=sum(used.values()), method=places.factors(place).describe(used))
        for place, used in hours.items()
    ]
    said.sort(key=lambda one: -one.energy_uj)
    return said or [CarbonOf(place="", energy_uj=0, method=places.factors().describe())]


def _row_of(row: EnergyRow) -> Row:
    """A row with a key as `job.BY`, as carbon wants it."""
    return _hour(row.key[6]), _name(row.key[2]), _name(row.key[5]), row.energy_uj


def energy_by_hour(energy: EnergyByPlace) -> dict[datetime, int]:
    """UTC hour -> energy in µJ, wherever it was used."""
    found: dict[datetime, int] = {}
    for used in energy.values():
        for hour, energy_uj in used.items():
            found[hour] = found.get(hour, 0) + energy_uj
    return found


def _hour(key: Any) -> datetime:
    assert isinstance(key, datetime)
    return key


def _name(key: Any) -> str | None:
    return None if key is None else str(key)
