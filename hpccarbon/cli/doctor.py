"""`hpccarbon doctor`: one screen on what this node can measure."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_SIGNS = {"ok": ("ok", "green"), "note": ("--", "yellow"), "problem": ("!!", "red")}


@click.command("doctor", epilog="Exit code: 0 when nothing is a problem, 1 when something is.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="The site's TOML file.")
@click.option("--node", metavar="NAME", help="Node name as Slurm knows it [default: SLURMD_NODENAME, else host name].")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def command(config_path: Path | None, node: str | None, form: str) -> None:
    """Say what this node can measure, what it cannot, why, and what to do about it."""
    from hpccarbon import config as configuration
    from hpccarbon.node.doctor import diagnose

    diagnosis = diagnose(configuration.load(config_path), configuration.node_name(node))
    if form == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    else:
        cpu = "measured" if diagnosis.measured else "modelled, not measured" if diagnosis.modelled else "not known"
        click.echo(f"Node {diagnosis.node} of cluster {diagnosis.cluster}, {diagnosis.cpus} CPUs. CPU energy: {cpu}.")
        area = ""
        for check in diagnosis.checks:
            if check.area != area:
                area = check.area
                click.echo(f"\n{area}")
            sign, colour = _SIGNS[check.verdict]
            click.echo(f"  {click.style(sign, fg=colour)} {check.subject}: {check.found}")
            if check.advice:
                click.echo(f"       -> {check.advice}")
    sys.exit(0 if diagnosis.healthy else 1)
