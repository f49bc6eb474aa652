"""`hpccarbon compare`: runs and jobs beside each other. Wires tracker rows and the ledger to the comparison."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from hpccarbon.cli.common import config_option

DEFAULT = Path("emissions.csv")
_EVER = timedelta(days=50 * 366)
EPILOG = """
\b
Examples:
  hpccarbon compare emissions.csv                       every project in a tracker's file
  hpccarbon compare small large -o models.html          two projects of ./emissions.csv, with charts
  hpccarbon compare 4711 4712                           jobs, from the ledger
"""


@click.command("compare", epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-m", "--metric", metavar="NAME", help="What the models achieved. [default: the first that all have]")
@click.option("--lower-is-better", is_flag=True, help="The metric is a loss or an error.")
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where projects are looked for. [default: emissions.csv]")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write .html, .png, .svg, .csv or .json.")  # fmt: skip
@config_option
def command(
    runs: tuple[str, ...],
    metric: str | None,
    lower_is_better: bool,
    files: tuple[Path, ...],
    output: Path | None,
    config_path: Path | None,
) -> None:
    """Compare models by energy, CO2e, time and what they achieved.

    A RUN is a tracker's CSV file, a project name in one, or a job id of the ledger. Runs of one project are one model.
    """
    from hpccarbon.report.compare import compare

    found = [row for run in runs for row in _rows(run, files or (DEFAULT,), config_path)]
    comparison = compare(found, metric, higher_is_better=not lower_is_better)
    if output is not None:
        from hpccarbon.cli.output import write_whole
        from hpccarbon.report.render.comparison import content

        write_whole(output, content(comparison, output.suffix.lower()))
    else:
        click.echo(str(comparison), nl=False)


def _rows(run: str, files: tuple[Path, ...], config_path: Path | None) -> list[dict[str, Any]]:
    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.report.compare import read

    if run.isdigit():
        return _job(int(run), config_path)
    if run.endswith(".csv"):
        return read(Path(run))
    there = [file for file in files if file.exists() or file != DEFAULT]
    rows = [row for file in there for row in read(file) if row["project_name"] == run]
    rows += _imported(run, config_path)
    if not rows:
        places = ", ".join(map(str, files))
        raise HpcCarbonError(
            f"no project {run!r} in {places}, nor imported (a job id, a CSV file or --file FILE name other runs)"
        )
    return rows


def _job(job_id: int, config_path: Path | None) -> list[dict[str, Any]]:
    """A job of the ledger, as a row of a tracker would tell it."""
    from datetime import datetime, timezone

    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.report.frames import load_jobs

    now = datetime.now(timezone.utc)
    table = load_jobs(now - _EVER, now, job_ids=[job_id], config=config_path).table
    job = next(iter(table.to_pylist()), None)
    if job is None or job["energy_uj"] is None:
        raise HpcCarbonError(f"no job {job_id} with energy in the ledger")
    if job["co2e_g"] is None:
        raise HpcCarbonError(f"the grams of job {job_id} are not known: set carbon.zone (see hpccarbon report --job)")
    measured = job["measured_percent"]
    return [
        {
            "project_name": f"{job['name'] or 'job'} ({job['job']})",
            "duration": job["elapsed_s"] or job["node_hours"] * 3600 / max(job["alloc_nodes"], 1),
            "energy_consumed": job["energy_kwh"],
            "emissions": job["co2e_g"] / 1000,
            "energy_joules": job["energy_uj"] / 1e6,
            "static_joules": job["static_uj"] / 1e6,
            "method": "measured" if measured == 100 else "modelled" if measured == 0 else "mixed",
        }
    ]


def _imported(project: str, config_path: Path | None) -> list[dict[str, Any]]:
    """Runs of a project that `hpccarbon import` brought."""
    from hpccarbon import config as configuration
    from hpccarbon.site import imported

    return imported.rows(configuration.load(config_path).shared("imported"), project)
