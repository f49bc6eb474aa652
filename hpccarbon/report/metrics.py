"""What a cluster used in the running month, as metrics: a bounded set of series, however many users and jobs there are.

Energy is a counter that begins anew with each month: Prometheus takes that for a reset, and one month is all that has
to be read. Grams are gauges: better intensities may lower them, which a counter cannot say. Serves nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from hpccarbon.report.budget import BudgetLine
from hpccarbon.report.figures import added_groups
from hpccarbon.report.month import Period, budgets
from hpccarbon.site.groups import Group, Grouping
from hpccarbon.units import UJ_PER_KWH

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from hpccarbon.config import Config
    from hpccarbon.site.ledger import Ledger

OTHER = "_other"
"""The label of all accounts or partitions beyond the limit, together."""
NOBODY = "_not_told"
"""The label of jobs for which no hook told the account or the partition."""
_J_PER_KWH = UJ_PER_KWH / 1e6


class Snapshot(NamedTuple):
    """What is known of the month at one moment."""

    cluster: str
    month: str
    at: datetime
    holders: list[Group]
    accounts: list[Group]
    partitions: list[Group]
    whole: Group | None
    intensity_g_per_kwh: float | None
    budgets: list[BudgetLine]
    faults: int


def snapshot(config: Config, ledger: Ledger, month: tuple[datetime, datetime], now: datetime) -> Snapshot:
    """Ask the ledger. Raises: ShardError, if the shared directory cannot be read."""
    period = Period(config, ledger, *month)
    whole, holders, accounts, partitions = period.groups(
        [
            Grouping(()),
            Grouping(("holder",), counted=False),
            Grouping(("holder", "account"), counted=False),
            Grouping(("holder", "partition"), counted=False),
        ]
    )
    intensity = period.intensity()
    hour = max((one for one in intensity if one <= now), default=None)
    return Snapshot(
        cluster=ledger.cluster or "",
        month=f"{month[0]:%Y-%m}",
        at=now,
        holders=[one for one in holders if one.energy.first],
        # Of what no daemon saw nothing is known, and what is not known is no series.
        accounts=[one for one in accounts if one.energy.key[0] == "job" and one.energy.first],
        partitions=[one for one in partitions if one.energy.key[0] == "job" and one.energy.first],
        whole=whole[0] if whole else None,
        intensity_g_per_kwh=None if hour is None else intensity[hour],
        budgets=budgets(period, now, now),
        faults=len(ledger.faults),
    )


class Names:
    """Which accounts or partitions have series of their own: once shown, for the life of the process.

    A name that moved in and out of `_other` would make both of them jump.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._shown: dict[str, None] = {}

    def choose(self, groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
        """(label, groups), the largest first to be chosen; what has no room is `_other`."""
        chosen: dict[str, list[Group]] = {}
        for one in sorted(groups, key=lambda group: -group.energy.energy_uj):
            told = one.energy.key[1]
            name = NOBODY if told is None else str(told)
            if name not in self._shown and len(self._shown) < self.limit:
                self._shown[name] = None
            chosen.setdefault(name if name in self._shown else OTHER, []).append(one)
        return sorted(chosen.items())


def metrics(known: Snapshot, accounts: Names, partitions: Names) -> Iterable[Metric]:
    """The metric families. Needs prometheus-client."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    cluster = [known.cluster]

    def counter(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"hpccarbon_{name}", text, labels=["cluster", label])
        for word, value in values:
            family.add_metric([*cluster, word], value)
        return family

    def gauge(name: str, text: str, values: Iterable[tuple[str, float | None]], label: str = "") -> GaugeMetricFamily:
        labels = ["cluster", label] if label else ["cluster"]
        family = GaugeMetricFamily(f"hpccarbon_{name}", text, labels=labels)
        for word, value in values:
            if value is not None:  # what is not known is no sample, and never 0
                family.add_metric([*cluster, word] if label else cluster, value)
        return family

    groupings = (
        ("", "holder", [(str(one.energy.key[0]), [one]) for one in known.holders]),
        ("account_", "account", accounts.choose(known.accounts)),
        ("partition_", "partition", partitions.choose(known.partitions)),
    )
    for prefix, label, groups in groupings:
        energy = [(word, sum(one.energy.energy_uj for one in its) / 1e6) for word, its in groups]
        yield counter(f"{prefix}energy_joules", f"Energy since the month began, by {label}.", label, energy)
        grams = [(word, added_groups(its).co2e_g) for word, its in groups]
        yield gauge(f"{prefix}month_co2e_grams", f"Carbon since the month began, by {label}.", grams, label)
    whole = known.whole
    figures = added_groups([whole]) if whole else None
    yield gauge("month_jobs", "Jobs that used energy since the month began.", [("", whole.jobs if whole else None)])
    yield gauge("month_nodes", "Nodes that reported since the month began.", [("", whole.energy.nodes if whole else 0)])
    yield gauge(
        "month_covered_ratio",
        "Part of the time on nodes in which every meter could be read.",
        [("", _ratio(figures.covered_percent if figures else None))],
    )
    yield gauge(
        "month_measured_ratio",
        "Part of the energy that came from sensors, the rest is modelled.",
        [("", _ratio(figures.measured_percent if figures else None))],
    )
    yield gauge(
        "month_idle_cores_joules",
        "Static energy of cores that jobs held and did not use, since the month began.",
        [("", whole.idle_cores_uj / 1e6 if whole else None)],
    )
    yield gauge(
        "grid_co2e_grams_per_joule",
        "Carbon intensity of the grid in the current hour; times 3.6e6 it is g/kWh.",
        [("", None if known.intensity_g_per_kwh is None else known.intensity_g_per_kwh / _J_PER_KWH)],
    )
    yield gauge(
        "last_data_timestamp_seconds",
        "End of the youngest minute in the ledger.",
        [("", figures.last.timestamp() if figures and figures.last else None)],
    )
    yield gauge("files_set_aside", "Files that could not be trusted and are in no figure.", [("", known.faults)])
    yield gauge(
        "budget_used_ratio",
        "Used part of each budget in its period; 1 is all of it.",
        [(line.name, _ratio(line.used_percent)) for line in known.budgets],
        "budget",
    )


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
