"""`hpccarbon audit`: what Slurm's accounting and the ledger say of the same jobs, side by side. Computes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option, parse_month, reader_zone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpccarbon.report.render.text import Screen
    from hpccarbon.site.audit import Audit, Cause, Difference

_NODES_SHOWN = 20


@click.command()
@config_option
@click.option("--month", metavar="MONTH", default="this", show_default=True, help="2026-03, this or last.")
@click.option("--largest", type=click.IntRange(0, 100_000), default=5, show_default=True, help="Jobs shown per cause.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(config_path: Path | None, month: str, largest: int, format_: str) -> None:
    """Cross-check a month with Slurm: jobs that only one of the two knows, silent nodes, CPU time and energy per job.

    Differences are sorted by cause, and each cause is explained. None of them changes a figure of any report. Exits 0
    whether the two agree or not; 1 where they cannot be compared.
    """
    from datetime import datetime, timezone

    from hpccarbon.cli.shared import open_ledger
    from hpccarbon.config import load
    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.report.render.files import json_text
    from hpccarbon.site.audit import audit

    config = load(config_path)
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    since, until = parse_month(month, zone, now)
    with open_ledger(config) as ledger:
        found = audit(ledger, since, until, now, largest)
    if found.records_until is None:
        raise HpcCarbonError(
            "there are no job records to compare with (set slurm.accounting, and run `hpccarbon aggregate`)"
        )
    if format_ == "json":
        sys.stdout.write(json_text(found))
        return
    from hpccarbon.cli.output import screen_of
    from hpccarbon.report.render.text import encodable

    text = "\n".join(_page(found, screen_of(zone))) + "\n"
    sys.stdout.write(encodable(text, sys.stdout.encoding or "ascii"))


def _page(found: Audit, screen: Screen) -> Iterator[str]:
    from hpccarbon.report.render.inert import inert
    from hpccarbon.report.render.words import count, moment

    begin, end = (moment(at, screen.zone) for at in (found.since, found.until))
    yield screen.bold(f"Audit of {inert(found.cluster)}, {begin} to {end}")
    yield ""
    both = f"{found.in_both:,} known to both"
    yield f"{count(found.in_slurm, 'job')} in Slurm, {found.in_ledger:,} in the ledger, {both}"
    yield f"CPU time agrees for {found.cpu_agree:,} of {count(found.cpu_compared, 'job')} that ran wholly within"
    if found.energy_compared:
        yield f"energy agrees for {found.energy_agree:,} of {count(found.energy_compared, 'job')} (ConsumedEnergyRaw)"
    else:
        yield "energy is not compared: Slurm has none for these jobs (no energy plugin)"
    if found.unreadable:
        yield f"{count(found.unreadable, 'record')} without a readable node list"
    for cause in found.causes:
        yield ""
        yield from _cause(cause, screen)
    if found.silent:
        yield ""
        yield from _silent(found, screen)
    if not (found.causes or found.silent):
        yield ""
        yield "no difference"


def _cause(cause: Cause, screen: Screen) -> Iterator[str]:
    from textwrap import wrap

    from hpccarbon.report.render.text import Heading, table
    from hpccarbon.report.render.words import count

    sums = f"ours {_amount(cause.ours)}, Slurm's {_amount(cause.slurms)} {cause.unit}"
    yield screen.bold(f"{cause.name}: {count(cause.jobs, 'job')}") + f"; {sums}"
    yield from wrap(cause.why, screen.width - 2, initial_indent="  ", subsequent_indent="  ")
    if cause.largest:
        headings = [Heading("job"), Heading("user", right=False), Heading("ours"), Heading("Slurm's")]
        headings += [Heading("covered"), Heading("without rows", right=False, keep=5)]
        yield from table(headings, [_row(one) for one in cause.largest], screen)


def _row(one: Difference) -> list[str]:
    from hpccarbon.report.render.inert import inert
    from hpccarbon.report.render.words import percent

    ours, slurms = (_amount(value or 0) for value in (one.ours, one.slurms))
    covered = "-" if one.covered_percent is None else percent(one.covered_percent)
    nodes = ",".join(one.nodes[:3]) + (f" and {len(one.nodes) - 3} more" if len(one.nodes) > 3 else "")
    return [str(one.job_id), inert(one.user or "-", 24), ours, slurms, covered, inert(nodes, 40) or "-"]


def _amount(value: float) -> str:
    from hpccarbon.report.render.words import number

    return f"{value:,.0f}" if value == round(value) else number(value)


def _silent(found: Audit, screen: Screen) -> Iterator[str]:
    from hpccarbon.report.render.inert import inert
    from hpccarbon.report.render.text import Heading, table
    from hpccarbon.report.render.words import count, moment

    hours = sum(one.hours for one in found.silent)
    yield screen.bold(f"silent nodes: {count(len(found.silent), 'node')}") + f"; {count(hours, 'hour')} with jobs"
    yield "  Slurm ran jobs there and no shard tells of these hours: is the daemon up (hpccarbon doctor)?"
    headings = [Heading("node", right=False), Heading("hours"), Heading("jobs")]
    headings += [Heading("first", right=False), Heading("last", right=False)]
    rows = [
        [
            inert(one.node, 32),
            str(one.hours),
            str(one.jobs),
            moment(one.first, screen.zone),
            moment(one.last, screen.zone),
        ]
        for one in found.silent[:_NODES_SHOWN]
    ]
    yield from table(headings, rows, screen)
    if len(found.silent) > _NODES_SHOWN:
        yield f"  and {len(found.silent) - _NODES_SHOWN} more (--format json has all)"
