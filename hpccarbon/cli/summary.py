"""`hpccarbon summary`: a month as a page and as data. Wires ledger, carbon and renderers together; adds nothing up."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from hpccarbon.cli.common import config_option, parse_month, reader_zone, warn

Format = Literal["html", "json", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("html", "json", "csv", "parquet")

EXAMPLES = """
\b
Examples:
  hpccarbon summary -o reports                  last month, in all four formats
  hpccarbon summary --month 2026-11 -o reports  November
  hpccarbon summary --month this -f html -o .   this month so far, the page alone
"""


@click.command("summary", epilog=EXAMPLES)
@click.option("-m", "--month", default="last", show_default=True, metavar="MONTH", help="2026-03, this or last.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where the files go; made where it is missing.",
)
@click.option(
    "-f", "--format", "formats", type=click.Choice(FORMATS), multiple=True, help="Only this; can be repeated."
)
@click.option("--cluster", metavar="NAME", help="Another cluster of the shared directory.")
@config_option
def command(
    month: str, output: Path, formats: tuple[Format, ...], cluster: str | None, config_path: Path | None
) -> None:
    """A month of the cluster for its administrators: one HTML file that needs no network, and the same as data.

    Writes summary-MONTH.html, .json, .csv and .parquet and prints their names: how well the month is known, totals
    against earlier months, who used it, the largest jobs, what was allocated and idle, when it was used. Budgets that
    are nearly used up are named on stderr.
    """
    from datetime import datetime, timezone

    from hpccarbon import config as configuration
    from hpccarbon.cli.output import make_folder, working, write_whole
    from hpccarbon.cli.shared import open_ledger
    from hpccarbon.report.month import summary
    from hpccarbon.report.render.months import content

    config = configuration.load(config_path)
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    period = parse_month(month, zone, now)
    if period[0] > now:
        raise click.UsageError(f"{month} has not begun yet")
    make_folder(output)  # before the work that a wrong name would waste
    with open_ledger(config, cluster) as ledger, working(f"adding up {period[0]:%B %Y}"):
        made = summary(config, ledger, period, now, zone)
    for fault in made.set_aside:
        warn(f"set aside, in no figure: {fault.path}: {fault.reason}")
    for line in made.budgets:
        if line.state in ("near", "spent"):
            warn(f"budget {line.name}: {line.used_percent:.0f} % of {line.limit:,g} {line.unit} used")
    if made.total.figures.energy_uj is None:
        warn(f"nothing was metered in {made.month}")
    for kind in formats or FORMATS:
        path = output / f"summary-{made.month}.{kind}"
        write_whole(path, content(made, kind))
        click.echo(str(path))
