"""`hpccarbon now`: what a running job has used on this node so far, asked of the node's daemon. Reads no file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option

if TYPE_CHECKING:
    from hpccarbon.node.control import Answer


@click.command("now")
@click.option("-j", "--job", type=click.IntRange(1), metavar="ID", help="[default: $SLURM_JOB_ID]")
@click.option(
    "--node", metavar="NAME", help="This node's name in Slurm [default: $SLURMD_NODENAME, else its host name]."
)
@click.option("-f", "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@config_option
def command(job: int | None, node: str | None, format_: str, config_path: Path | None) -> None:
    """Energy of one of my jobs on this node so far, to the moment. Only for the job's owner, and only where it runs.

    The whole job, with its carbon, is `hpccarbon report --job ID` after the nodes have sealed.
    """
    from hpccarbon import config as configuration
    from hpccarbon.node.control import SOCKET_NAME, ask

    given = os.environ.get("SLURM_JOB_ID", "")
    asked = job or (int(given) if given.isdecimal() else None)
    if asked is None:
        raise click.UsageError("outside of a job: name one with --job ID")
    config = configuration.load(config_path)
    answer = ask(config.run_dir(configuration.node_name(node)) / SOCKET_NAME, asked)
    if format_ == "json":
        import msgspec

        click.echo(msgspec.json.encode(answer).decode())
    else:
        click.echo(_text(answer))


def _text(answer: Answer) -> str:
    from hpccarbon.report.figures import percent, plus
    from hpccarbon.report.render import words

    energy_uj = plus((answer.cpu_uj, answer.dram_uj, answer.gpu_uj, answer.other_uj))
    if energy_uj is None:
        return f"job {answer.job_id}: nothing is metered on {answer.node}"
    measured = words.percent(percent(energy_uj - answer.modelled_uj, energy_uj))
    covered = words.percent(percent(answer.covered_us, answer.present_us))
    return f"job {answer.job_id}: {words.energy(energy_uj)} on {answer.node} ({covered} covered, {measured} measured)"
