"""`hpccarbon status`: how the daemon of this node is, or which nodes of the cluster are silent."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option

if TYPE_CHECKING:
    from hpccarbon.config import Config

_SIGNS = {"ok": ("ok", "green"), "note": ("--", "yellow"), "problem": ("!!", "red")}


@click.command("status", epilog="Exit code: 0 well, 1 something is not (for monitoring), 2 wrong configuration.")
@click.option("--node", metavar="NAME", help="Node name as Slurm knows it [default: SLURMD_NODENAME, else host name].")
@click.option("--cluster", "whole", is_flag=True, help="The nodes that have stopped sealing, from the shards alone.")
@click.option("--days", type=click.IntRange(1, 60), default=3, show_default=True, help="With --cluster: how far back.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")
@config_option
def command(node: str | None, whole: bool, days: int, form: str, config_path: Path | None) -> None:
    """Say when the last tick, write and seal were, how far behind the daemon is, and what it cannot read.

    With --cluster no daemon is asked: a node is silent whose newest shard is older than it should be.
    """
    from hpccarbon import config as configuration

    config = configuration.load(config_path)
    well = _cluster(config, days, form) if whole else _node(config, configuration.node_name(node), form)
    sys.exit(0 if well else 1)


def _node(config: Config, node: str, form: str) -> bool:
    from hpccarbon.node import health as room

    health = room.read(config.run_dir(node))
    remarks = room.remarks(health, time.time(), config.daemon.seal_s)
    if form == "json":
        import msgspec

        document = {"kind": "status", "health": health, "remarks": remarks}
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        click.echo(f"Node {health.node} of cluster {health.cluster}, hpccarbon {health.version}\n")
        for one in remarks:
            sign, colour = _SIGNS[one.verdict]
            click.echo(f"  {click.style(sign, fg=colour)} {one.subject}: {one.text}")
            if one.advice:
                click.echo(f"       -> {one.advice}")
    return all(one.verdict != "problem" for one in remarks)


def _cluster(config: Config, days: int, form: str) -> bool:
    from hpccarbon.cli.output import working
    from hpccarbon.site.silence import nodes

    now = datetime.now(timezone.utc)
    with working("looking at the shards"):
        seen = nodes(Path(config.paths.shared_dir), config.cluster, now, config.daemon.seal_s, days)
    silent = [one for one in seen if one.silent]
    if form == "json":
        import msgspec

        document = {"kind": "cluster_status", "cluster": config.cluster, "at": now, "nodes": seen}
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        from hpccarbon.report.render.inert import inert

        click.echo(f"Cluster {config.cluster}: {len(seen)} nodes in the last {days} days, {len(silent)} silent")
        for one in silent:
            click.echo(
                f"  {click.style('!!', fg='red')} {inert(one.node, 64)}: last shard {one.last:%Y-%m-%d %H:%M} UTC"
            )
        if silent:
            click.echo("       -> hpccarbon status on the node says why; a node that was taken out is silent, too")
        if not seen:
            click.echo("       -> no node has sealed anything: hpccarbon status on a node says why")
    return bool(seen) and not silent
