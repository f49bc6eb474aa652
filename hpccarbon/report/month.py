"""Asks ledger and carbon for a period, so that summary, site, exporter and budgets say the same. Formats nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Literal

import msgspec

from hpccarbon.carbon.footprint import Factors as HourFactors
from hpccarbon.carbon.footprint import hour_of
from hpccarbon.carbon.places import EnergyByPlace, Places
from hpccarbon.carbon.statement import Statement, statement
from hpccarbon.errors import CarbonError
from hpccarbon.report import summary as build
from hpccarbon.report.applied import Applied, described, factors_of
from hpccarbon.report.budget import BudgetLine, budget_line, period_of
from hpccarbon.report.figures import CarbonOf, Figures, added_groups, set_aside
from hpccarbon.site.groups import Group, Grouping, groups, largest_jobs
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.weigh import Factors

if TYPE_CHECKING:
    from hpccarbon.config import Config

TOP_JOBS = 20
TOP_WASTED = 10
_HOUR = timedelta(hours=1)


class Period:
    """The hours from `since` to `until` with the factors of every place: what grams of any grouping are made with.

    A zone that is not known takes the grams away, not the energy; `fault` then says why.
    """

    def __init__(
        self, config: Config, ledger: Ledger, since: datetime, until: datetime, places: Places | None = None
    ) -> None:
        self.config, self.ledger, self.since, self.until = config, ledger, since, until
        self.places = places or Places(config.carbon, config.shared("intensity"))
        self.fault: CarbonError | None = None
        self.factors = self._make()

    def selection(self, **narrowed: tuple[str, ...] | None) -> Selection:
        """All holders of the period, or what is left of them."""
        return Selection(since=self.since, until=self.until, **narrowed)  # type: ignore[arg-type]

    def groups(self, groupings: Sequence[Grouping], selection: Selection | None = None) -> list[list[Group]]:
        """See `site.groups.groups`; with grams where a zone is known."""
        return groups(self.ledger, selection or self.selection(), groupings, self.factors)

    def carbon(self, hours: Iterable[Group]) -> list[CarbonOf]:
        """How the grams of groups by (..., "hour", "place") were made, most energy first."""
        if self.factors is None:
            nowhere = HourFactors(msgspec.structs.replace(self.config.carbon, zone="")).describe()
            method = msgspec.structs.replace(nowhere, notes=[str(self.fault)] if self.fault else nowhere.notes)
            return [CarbonOf(place="", energy_uj=0, method=method)]
        return described(self.places, _by_place(hours))

    def statement(self, hours: Iterable[Group], figures: Figures, now: datetime) -> Statement | None:
        """All that carbon has to say of groups by (..., "hour", "place"), of what jobs held and of what nobody did.

        Args:
            now: where a period that has not ended ends so far.

        Returns: None without a zone.
        """
        if self.factors is None:
            return None
        applied = Applied(self.config)
        applied.hold(self.ledger, self.selection(holders=("job",)))
        told = statement(self.places, _by_place(hours), applied.held or None, energy_spread=figures.energy_spread)
        unused_g = applied.unused_g(self.ledger, self.since, min(self.until, now))
        # Of a month nobody asked what it was per.
        return msgspec.structs.replace(told, sci_g=None, embodied_unused_g=unused_g)

    def intensity(self) -> dict[datetime, float]:
        """g CO2e per kWh of the grid of `[carbon]` itself, for every hour of the period that has begun."""
        if self.factors is None:
            return {}
        here = self.places.factors()
        return {hour: factor.g_per_kwh for hour in self._hours() if (factor := here.at(hour)) is not None}

    def _hours(self) -> list[datetime]:
        begin, hours = hour_of(self.since), []
        while begin < self.until:
            hours.append(begin)
            begin += _HOUR
        return hours

    def _make(self) -> Factors | None:
        try:
            zones = [self.places.factors(place).zone for place in ("", *self.config.carbon.places)]
        except CarbonError as err:
            self.fault = err
            return None
        return factors_of(self.places) if any(zones) else None


def _by_place(hours: Iterable[Group]) -> EnergyByPlace:
    """The energy of groups by (..., "hour", "place")."""
    found: EnergyByPlace = {}
    for one in hours:
        *_, at, place = one.energy.key
        assert isinstance(at, datetime)
        used = found.setdefault(str(place), {})
        used[at] = used.get(at, 0) + one.energy.energy_uj
    return found


def totals(period: Period, since: datetime, until: datetime, **narrowed: tuple[str, ...]) -> Figures:
    """What another period than `period` used in all, or what is left of it when narrowed to accounts, users, ..."""
    period = Period(period.config, period.ledger, since, until, period.places)
    holders = {"holders": ("job",)} if narrowed else {}
    (found,) = period.groups([Grouping((), counted=False)], period.selection(**narrowed, **holders))
    return added_groups(found)


def budgets(period: Period, at: datetime, now: datetime) -> list[BudgetLine]:
    """Every budget of the configuration in its own period around `at`, up to `now`. `period` is where from to ask."""
    made, zone = [], period.config.zone()
    for name, budget in period.config.budgets.items():
        since, until = period_of(budget, at, zone)
        narrowed = {"accounts": budget.accounts} if budget.accounts else {}
        figures = totals(period, since, until, **narrowed)
        made.append(budget_line(name, budget, (since, until), now, figures))
    return made


def summary(
    config: Config, ledger: Ledger, month: tuple[datetime, datetime], now: datetime, zone: tzinfo
) -> build.Summary:
    """All that is known of a month.

    Args:
        month: its first midnight and the next month's, in the reader's zone. now: aware.

    Raises: ShardError, if the shared directory cannot be read.
    """
    since, until = month
    period = Period(config, ledger, since, until)
    by_hour, whole, holders, accounts, users, partitions, nodes = period.groups(
        [
            Grouping(("holder", "hour", "place"), counted=False),
            Grouping(()),
            Grouping(("holder",)),
            Grouping(("holder", "account")),
            Grouping(("holder", "user")),
            Grouping(("holder", "partition")),
            Grouping(("node", "holder"), counted=False),
        ]
    )
    figures = added_groups(whole, nodes=whole[0].energy.nodes if whole else 0)
    total_uj = figures.energy_uj
    carbon = period.carbon(by_hour)
    said = period.statement(by_hour, figures, now)
    intensity = {hour: value for hour, value in period.intensity().items() if hour < now}
    faults = set_aside(ledger.faults)
    user_lines = build.lines(users, total_uj)
    before = [
        build.compared(label, f"{begin:%Y-%m}", totals(period, begin, end), figures)
        for label, begin, end in _earlier(since, zone)
    ]
    total = build.Line(
        name=None,
        jobs=whole[0].jobs + whole[0].unseen.jobs if whole else 0,
        share_percent=100.0 if total_uj else None,
        idle_cores_uj=whole[0].idle_cores_uj if whole else 0,
        figures=figures,
    )
    seen = {at for used in _by_place(by_hour).values() for at in used}
    return build.Summary(
        cluster=ledger.cluster or "",
        timezone=config.report.timezone,
        month=f"{since:%Y-%m}",
        since=since.astimezone(timezone.utc),
        until=until.astimezone(timezone.utc),
        complete=now >= until,
        quality=build.quality(
            figures,
            carbon,
            unseen_jobs=whole[0].unseen.jobs if whole else 0,
            hours=_begun(since, min(until, now)),
            hours_with_data=len(seen),
            range_g=(said.low_g, said.high_g) if said else (None, None),
            faults=faults,
        ),
        total=total,
        holders=build.holder_lines(holders, total_uj),
        compared=before,
        budgets=budgets(period, since, min(until, now)),
        accounts=build.lines(accounts, total_uj),
        users=user_lines,
        partitions=build.lines(partitions, total_uj),
        nodes=build.node_lines(nodes, total_uj),
        jobs=_top_jobs(period, total_uj),
        wasted=build.wasted(user_lines, TOP_WASTED),
        days=build.days(by_hour, intensity, zone),
        hours_of_day=build.hours_of_day(by_hour, intensity, zone),
        statement=said,
        carbon=carbon,
        set_aside=faults,
    )


def _top_jobs(period: Period, whole_uj: int | None) -> list[build.JobLine]:
    ids = tuple(largest_jobs(period.ledger, period.selection(), TOP_JOBS))
    if not ids:
        return []
    (found,) = period.groups(
        [Grouping(("job", "user", "account"))],
        Selection(since=period.since, until=period.until, job_ids=ids, holders=("job",)),
    )
    return build.job_lines(found, period.ledger.jobs(job_ids=ids), whole_uj)


def _begun(since: datetime, until: datetime) -> int:
    """Hours of UTC that began in [since, until)."""
    # Two times of one zone subtract as wall clocks do: the day on which the clock changes would have 24 hours.
    return max(0, -(-round(until.timestamp() - since.timestamp()) // 3600))


def _earlier(since: datetime, zone: tzinfo) -> list[tuple[Literal["month before", "year before"], datetime, datetime]]:
    number = since.year * 12 + since.month - 1

    def first(n: int) -> datetime:
        return datetime(n // 12, n % 12 + 1, 1, tzinfo=zone)

    return [
        ("month before", first(number - 1), first(number)),
        ("year before", first(number - 12), first(number - 11)),
    ]
