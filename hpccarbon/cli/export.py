"""`hpccarbon export`: one row per job, for what a site already runs. Wires ledger, carbon and formats together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from hpccarbon.cli.common import config_option, listed, parse_month, parse_time, warn

Kind = Literal["csv", "parquet", "xdmod"]
KINDS: tuple[Kind, ...] = ("csv", "parquet", "xdmod")
EXAMPLES = """
\b
Examples:
  hpccarbon export --month last -o jobs.parquet     every job of the last month
  hpccarbon export --since 1d -f xdmod -o new.log   then: xdmod-shredder -r NAME -f slurm -i new.log
"""


@click.command("export", epilog=EXAMPLES)
@click.option("-S", "--since", metavar="TIME", help="From this time on. [default: 30d]")
@click.option("-E", "--until", metavar="TIME", help="Up to this time, not included. [default: now]")
@click.option("-m", "--month", metavar="MONTH", help="One month: 2026-03, this or last.")
@click.option("-u", "--user", "users", multiple=True, metavar="NAME", help="Only jobs of this user.")
@click.option("-A", "--account", "accounts", multiple=True, metavar="NAME", help="Only jobs of this account.")
@click.option("-f", "--format", "kind", type=click.Choice(KINDS), help="Default: by -o FILE's ending, else csv.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("--cluster", metavar="NAME", help="Another cluster of the shared directory.")
@config_option
def command(
    since: str | None,
    until: str | None,
    month: str | None,
    users: tuple[str, ...],
    accounts: tuple[str, ...],
    kind: Kind | None,
    output: Path | None,
    cluster: str | None,
    config_path: Path | None,
) -> None:
    """Every job of a period, one row each, with its energy and carbon in that period.

    Jobs that Slurm alone knows, because no daemon ran where they did, have a coverage of 0 and no energy.

    `xdmod` is the log that Open XDMoD's shredder reads, with the energy in AllocTRES. The cluster's totals as
    OpenMetrics are `hpccarbon exporter --once`; notebooks take `hpccarbon.load_jobs()`.
    """
    from datetime import datetime, timezone

    from hpccarbon import config as configuration
    from hpccarbon.cli.output import working, write_whole
    from hpccarbon.report.frames import load_jobs
    from hpccarbon.report.render.jobrows import content

    chosen: Kind = kind or ("parquet" if output and output.suffix.lower() == ".parquet" else "csv")
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text: name a file with -o FILE, or pipe it somewhere")
    if month is not None and (since or until):
        raise click.UsageError("--month is a period of its own; leave out --since and --until")
    config = configuration.load(config_path)
    zone, now = config.zone(), datetime.now(timezone.utc)
    begin, end = parse_month(month, zone, now) if month else (parse_time(since or "30d", zone, now), now)
    end = parse_time(until, zone, now) if until else end
    with working("adding up jobs"):
        jobs = load_jobs(
            begin, end, users=listed(users), accounts=listed(accounts), config=config_path, cluster=cluster
        )
        data = content(jobs.table, chosen)
    for fault in jobs.set_aside:
        warn(f"set aside, in no figure: {fault.path}: {fault.reason}")
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
    else:
        write_whole(output, data)
