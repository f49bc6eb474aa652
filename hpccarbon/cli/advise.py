"""`hpccarbon advise`: the jobs of a period begun again in cleaner hours. Wires ledger, replay and page together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import (
    config_option,
    demo_option,
    duration,
    listed,
    my_name,
    parse_month,
    parse_time,
    reader_zone,
    warn,
)
from hpccarbon.cli.output import emit, kind_of, screen_of, working

if TYPE_CHECKING:
    from datetime import datetime

    from hpccarbon.config import Config
    from hpccarbon.report.render.advised import Kind
    from hpccarbon.submit.capacity import Room

KINDS: tuple[Kind, ...] = ("text", "json", "csv", "parquet")
MAX_DELAY_H = 168
EXAMPLES = """
\b
Examples:
  hpccarbon advise                                 my jobs of the last 30 days
  hpccarbon advise --account physics --month last  everybody's of an account, where one may read them
  hpccarbon advise --capacity --max-delay 6h       the whole cluster, on the nodes that it has
"""


@click.command("advise", epilog=EXAMPLES)
@click.option("-u", "--user", "users", multiple=True, metavar="NAME", help="Jobs of this user. [default: my own]")
@click.option("-A", "--account", "accounts", multiple=True, metavar="NAME", help="Jobs of this account.")
@click.option("--capacity", is_flag=True, help="All jobs of the cluster, and a replay on no more nodes than there are.")
@click.option("--max-delay", metavar="TIME", callback=duration, default="12h", show_default=True, help="Wait so long.")
@click.option("-S", "--since", metavar="TIME", help="Jobs that began from this time on. [default: 30d]")
@click.option("-E", "--until", metavar="TIME", help="And ended before this time. [default: now]")
@click.option("-m", "--month", metavar="MONTH", help="One month: 2026-03, this or last.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Jobs that are named.")
@click.option("--cluster", metavar="NAME", help="Another cluster of the shared directory.")
@click.option("-f", "--format", "kind", type=click.Choice(KINDS), help="Default: by -o FILE's ending, else text.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE.")
@demo_option
@config_option
def command(
    users: tuple[str, ...],
    accounts: tuple[str, ...],
    capacity: bool,
    max_delay: float,
    since: str | None,
    until: str | None,
    month: str | None,
    top: int,
    cluster: str | None,
    kind: Kind | None,
    output: Path | None,
    config_path: Path | None,
) -> None:
    """What jobs that have run would have saved, had they waited for cleaner hours, and how long they would have waited.

    Each job is begun again, as `hpccarbon sbatch --green` would have chosen and at the best start there was, over the
    intensities that reports bill with. Where the configuration has several places, and where a name ran on several
    partitions, these are compared too. CSV and Parquet have a row for every job. Nothing of it changes a report.
    """
    from datetime import datetime, timedelta, timezone

    from hpccarbon import config as configuration
    from hpccarbon.carbon.places import Places
    from hpccarbon.report.frames import load_jobs
    from hpccarbon.report.render.advised import content
    from hpccarbon.submit.advise import advise

    if capacity and (users or accounts):
        raise click.UsageError("--capacity is about all jobs of the cluster; leave out --user and --account")
    if month is not None and (since or until):
        raise click.UsageError("--month is a period of its own; leave out --since and --until")
    if max_delay > MAX_DELAY_H * 3600:
        raise click.UsageError(f"--max-delay of more than {MAX_DELAY_H} h is no delay any more")
    form: Kind = kind or kind_of(output, KINDS, "text")
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text: name a file with -o FILE, or pipe it somewhere")
    config = configuration.load(config_path)
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    begin, end = parse_month(month, zone, now) if month else (parse_time(since or "30d", zone, now), now)
    end = parse_time(until, zone, now) if until else end
    who = listed(users) or (None if capacity or accounts else (my_name(),))
    with working("beginning jobs again"):
        rooms = _rooms(config, cluster, begin, end) if capacity else None
        jobs = load_jobs(begin, end, users=who, accounts=listed(accounts), config=config_path, cluster=cluster)
        told = advise(
            jobs.table,
            Places(config.carbon, config.shared("intensity")),
            cluster or config.cluster,
            begin,
            end,
            max_delay=timedelta(seconds=max_delay),
            top=top,
            rooms=rooms,
        )
        data = content(told, form, screen_of(zone, output))
    for fault in jobs.set_aside:
        warn(f"set aside, in no figure: {fault.path}: {fault.reason}")
    emit(data, output)


def _rooms(config: Config, cluster: str | None, begin: datetime, end: datetime) -> list[Room]:
    """The nodes that ran jobs in the period. Raises: HpcCarbonError, if this user may not read everybody's rows."""
    from hpccarbon.cli.shared import open_ledger
    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.site.extracts import may_read_all
    from hpccarbon.site.ledger import Selection
    from hpccarbon.submit.capacity import rooms_of

    if not may_read_all(Path(config.paths.shared_dir)):
        raise HpcCarbonError("--capacity needs everybody's jobs, and you may read your own alone: leave it out")
    with open_ledger(config, cluster) as ledger:
        sql = 'SELECT DISTINCT node, "partition" FROM selected'
        selection = Selection(holders=("job",), since=begin, until=end)
        return rooms_of(ledger.ask(selection, lambda con, hours: con.execute(sql).fetchall()) or [])
