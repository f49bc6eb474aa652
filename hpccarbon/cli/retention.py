"""`hpccarbon retention`: shows which raw shards may go, and packs or removes them when told. Proves nothing itself."""

from __future__ import annotations

import sys
from datetime import date, datetime, timezone
from pathlib import Path

import click

from hpccarbon.cli.common import config_option

_DONE = {"pack": "packed", "remove": "removed", "keep": "kept"}
_WOULD = {"pack": "would be packed", "remove": "would be removed", "keep": "stays"}


def _day(ctx: click.Context, param: click.Parameter, value: str | None) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError:
        raise click.BadParameter(f"{value!r} is no day; write 2026-03-01") from None


@click.command()
@config_option
@click.option("--apply", is_flag=True, help="Do it. Without this nothing is changed.")
@click.option(
    "--restore", callback=_day, metavar="DATE", help="Bring a packed day back, so that its minutes can be read again."
)
@click.option("--quiet", "-q", is_flag=True, help="Print only days that had to be kept.")
def command(config_path: Path | None, apply: bool, restore: date | None, quiet: bool) -> None:
    """Pack the raw shards of old days into one file a day, and remove packs that are older still.

    The ages are retention.pack_days and retention.keep_days. A day is touched only where the ledger provably holds all
    of it: each hour is merged again from its shards and compared with the ledger row by row. A day of which that is not
    true is kept, and named. Reports are the same before and after, but power by the minute needs the shards.
    """
    from hpccarbon.config import load
    from hpccarbon.report.render.inert import inert
    from hpccarbon.report.render.words import count
    from hpccarbon.site import retention

    config = load(config_path)
    shared = Path(config.paths.shared_dir)
    if restore is not None:
        brought = retention.restore(shared, config.cluster, restore)
        click.echo(f"{restore}: {count(brought, 'shard')} brought back; the pack stays")
        return
    said = _DONE if apply else _WOULD
    kept = days = 0
    for step in retention.run(shared, config.cluster, config.retention, datetime.now(timezone.utc), apply=apply):
        days += 1
        kept += step.action == "keep"
        if step.action == "keep":
            click.echo(f"error: {step.day} {said['keep']}: {inert(step.reason)}", err=True)
        elif not quiet:
            click.echo(f"{step.day}  {count(step.shards, 'shard')}, {step.size / 1e6:.1f} MB  {said[step.action]}")
    if not quiet:
        hint = "" if apply or days == kept else "; nothing was changed, add --apply"
        click.echo(f"{count(days, 'day')} looked at, {kept} kept{hint}")
    if kept:
        sys.exit(1)
