"""`hpccarbon verify`: shows that jobs, system and unallocated add up to the meters, or names where they do not."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpccarbon.cli.common import config_option, parse_time, reader_zone


@click.command()
@config_option
@click.option("--since", metavar="TIME", help="Only hours from here on.")
@click.option("--until", metavar="TIME", help="Only hours before this.")
@click.option("--quiet", "-q", is_flag=True, help="Print failures only.")
def command(config_path: Path | None, since: str | None, until: str | None, quiet: bool) -> None:
    """Prove from the files alone that no energy was lost or invented.

    For each node, hour and component, what jobs, system and unallocated were charged must equal what the meters
    counted, as integers; and each ledger file must hold exactly the sums of the shards it was made of.
    """
    from datetime import datetime, timezone

    from hpccarbon.config import load
    from hpccarbon.report.render.inert import inert
    from hpccarbon.report.render.words import count
    from hpccarbon.site.verify import verify

    config = load(config_path)
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    begin, end = (parse_time(text, zone, now) if text else None for text in (since, until))
    verdict = verify(Path(config.paths.shared_dir), config.cluster, begin, end)
    for path, why in verdict.faults:
        click.echo(f"error: {inert(path)}: {inert(why)}", err=True)
    if not quiet:
        for line in _table(
            [("component", "jobs", "system", "unallocated", "meters", "difference")]
            + [
                (
                    one.component,
                    *map(_joules, (one.job_uj, one.system_uj, one.unallocated_uj, one.meter_uj)),
                    _micro(one.difference_uj),
                )
                for one in verdict.balances
            ]
        ):
            click.echo(line)
        verb = "waits" if verdict.waiting == 1 else "wait"
        waiting = f"; {count(verdict.waiting, 'hour')} {verb} for `hpccarbon aggregate`" if verdict.waiting else ""
        outcome = "everything adds up" if not verdict.faults else f"{len(verdict.faults)} faults"
        click.echo(
            f"verified {count(verdict.hours, 'hour')}, {count(verdict.shards, 'shard')},"
            f" {count(verdict.nodes, 'node')}: {outcome}{waiting}"
        )
    if verdict.faults:
        sys.exit(1)


def _joules(energy_uj: int) -> str:
    """All digits, in joules: what adds up must be seen to add up."""
    return f"{energy_uj // 1_000_000:,}.{energy_uj % 1_000_000:06d} J".replace(",", " ")


def _micro(difference_uj: int) -> str:
    return f"{difference_uj} µJ"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
