"""Jobs for notebooks: `hpccarbon.load_jobs("2026-03-01")` as pandas or Arrow. Needs no server, writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timezone, tzinfo
from html import escape
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon.report.figures import CarbonOf, SetAside, set_aside
from hpccarbon.report.render import words
from hpccarbon.report.render.inert import inert

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SHOWN = 10
"""Rows that a notebook shows of a table by itself."""
_COLUMNS = ("job", "name", "user", "account", "state", "energy_kwh", "co2e_g", "covered_percent", "cpu_used_percent")
When = str | date | datetime


class Jobs:
    """Jobs and what they used. A notebook shows the largest of them; `to_pandas()` and `table` have all."""

    table: pa.Table
    """One row per job (`schema.JOB_TABLE`); units are in the columns' names, what is not known is null."""
    since: datetime
    """Where the period begins, aware."""
    until: datetime
    """Where it ends, not included."""
    carbon: list[CarbonOf]
    """How the grams were made, by place: intensity, PUE, ranges, sources."""
    set_aside: list[SetAside]
    """Files that could not be trusted and are in no figure, with the reason."""

    def __init__(
        self, table: pa.Table, since: datetime, until: datetime, carbon: list[CarbonOf], faults: list[SetAside]
    ) -> None:
        self.table = table
        self.since, self.until = since, until
        self.carbon = carbon
        self.set_aside = faults

    def __len__(self) -> int:
        """How many jobs."""
        return int(self.table.num_rows)

    def to_pandas(self) -> pd.DataFrame:
        """The table as a DataFrame by `job`: nullable integers, so that what is not known is <NA> and never 0."""
        import pandas as pd
        import pyarrow as pa

        nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
        frame: pd.DataFrame = self.table.to_pandas(types_mapper=nullable.get)
        indexed: pd.DataFrame = frame.set_index("job")
        return indexed

    @property
    def energy_kwh(self) -> float:
        """Energy of all of them."""
        return fsum(self.table["energy_kwh"].drop_null().to_pylist())

    @property
    def co2e_g(self) -> float | None:
        """Grams CO2e of all the energy that is known; None where those of one job's are not known."""
        energies, grams = self.table["energy_uj"].to_pylist(), self.table["co2e_g"].to_pylist()
        known = [g for uj, g in zip(energies, grams, strict=True) if uj is not None]
        return None if None in known else fsum(known)

    @property
    def unseen(self) -> int:
        """How many of them are known to Slurm alone: no daemon saw them, and their energy is null, not 0."""
        return int(self.table["energy_uj"].null_count)

    def __repr__(self) -> str:
        """`<1,240 jobs, 2026-03-01 to 2026-04-01: 12.4 kWh, 4.7 kg CO2e>`."""
        return f"<{self._headline()}>"

    def _headline(self) -> str:
        amount = words.energy(round(self.energy_kwh * 3.6e12))
        grams = self.co2e_g
        carbon = "carbon not known" if grams is None else f"{words.grams(grams)} CO2e"
        period = f"{words.count(len(self), 'job')}, {self.since:%Y-%m-%d} to {self.until:%Y-%m-%d}"
        unseen = f"; {self.unseen:,} without a reading" if self.unseen else ""
        return f"{period}: {amount}, {carbon}{unseen}"

    def _repr_html_(self) -> str:
        """What a notebook shows: the total, the largest jobs, how the grams were made. Every string is inert."""
        shown = self.table.sort_by([("energy_uj", "descending")]).slice(0, SHOWN).to_pylist()
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        body = "".join(f"<tr>{''.join(f'<td>{_cell(row[name])}</td>' for name in _COLUMNS)}</tr>" for row in shown)
        sources = dict.fromkeys(source for one in self.carbon for source in one.method.sources)
        notes = dict.fromkeys(note for one in self.carbon for note in one.method.notes)
        said = "".join(f"<li>{escape(inert(text))}</li>" for text in (*sources, *notes))
        more = f"<p>The {len(shown)} largest of {len(self):,}.</p>" if len(self) > len(shown) else ""
        return (
            f"<div><p><strong>{escape(self._headline())}</strong></p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}<ul>{said}</ul></div>"
        )


def _moment(when: When, zone: tzinfo) -> datetime:
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    elif not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day)
    return when if when.tzinfo else when.replace(tzinfo=zone)


def _cell(value: object) -> str:
    if value is None:
        return "<i>not known</i>"
    return words.number(value) if isinstance(value, float) else escape(inert(str(value), 40))


def load_jobs(
    since: When,
    until: When | None = None,
    *,
    users: Sequence[str] | None = None,
    accounts: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
    job_ids: Sequence[int] | None = None,
    config: Path | str | None = None,
    cluster: str | None = None,
) -> Jobs:
    """The jobs of a period with their energy and carbon in it: what daemons saw, and what Slurm alone knows (null).

    Args:
        since, until: dates or times (naive ones and texts in the configuration's `report.timezone`); until now.
        users, accounts, partitions, job_ids: only these (raw Slurm job ids).
        config: the site's TOML file; None finds it as the commands do. cluster: another one of the shared directory.

    Raises: HpcCarbonError as the commands; ValueError for a text that is no ISO time.
    """
    from hpccarbon import config as configuration
    from hpccarbon.report.month import Period
    from hpccarbon.site.access import ledger_of
    from hpccarbon.site.groups import Grouping
    from hpccarbon.site.jobtable import job_table

    settings = configuration.load(Path(config) if config is not None else None)
    zone = settings.zone()
    begin = _moment(since, zone)
    end = datetime.now(timezone.utc) if until is None else _moment(until, zone)
    ledger = ledger_of(settings, cluster)
    try:
        period = Period(settings, ledger, begin, end)
        names = {"users": users, "accounts": accounts, "partitions": partitions}
        chosen = period.selection(
            holders=("job",), **{key: tuple(value) for key, value in names.items() if value is not None}
        )
        if job_ids is not None:
            chosen = msgspec.structs.replace(chosen, job_ids=tuple(job_ids))
        (hours,) = period.groups([Grouping(("hour", "place"), counted=False)], chosen)
        table = job_table(ledger, chosen, period.factors)
        return Jobs(table, begin, end, period.carbon(hours), set_aside(ledger.faults))
    finally:
        ledger.close()
