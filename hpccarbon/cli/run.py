"""`hpccarbon run -- COMMAND`: one command, measured without Slurm. Keeps the command's output and exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option

if TYPE_CHECKING:
    from hpccarbon.carbon.footprint import Factors
    from hpccarbon.config import Config
    from hpccarbon.node.once import Outcome

EPILOG = """
\b
Examples:
  hpccarbon run -- python train.py
  hpccarbon run --format json -o run.json -- make -j8

The report goes to stderr, so that the command's own output stays as it is; with -o it goes to a file. The exit code is
the command's.
"""


@click.command("run", epilog=EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, required=True, metavar="COMMAND...")
@click.option("--zone", metavar="ZONE", help="Grid zone, where the configuration names none.")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text", help="Form of the report.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE.")
@config_option
def command(argv: tuple[str, ...], zone: str | None, form: str, output: Path | None, config_path: Path | None) -> None:
    """Run a program and measure what it uses, with or without Slurm.

    Reads this machine's meters (RAPL as root, else the model) and divides them between the command and the rest:
    static energy by the cores it kept busy, dynamic energy by CPU time.
    """
    import msgspec

    from hpccarbon import config as configuration
    from hpccarbon.node.once import measure

    config = configuration.load(config_path)
    if zone:
        config = msgspec.structs.replace(config, carbon=msgspec.structs.replace(config.carbon, zone=zone))
    factors = _factors(config)  # before the command: a mistyped zone must not cost hours
    outcome = measure(argv, config)
    text = as_json(outcome, factors) if form == "json" else as_text(outcome, factors)
    if output is not None:
        output.write_text(text)
    else:
        click.echo(text, nl=False, err=True)
    sys.exit(outcome.exit_code)


def _factors(config: Config) -> Factors | None:
    if not config.carbon.zone:
        return None
    from hpccarbon.carbon.footprint import Factors

    return Factors(config.carbon, config.shared("intensity"))


def as_text(outcome: Outcome, factors: Factors | None) -> str:
    """The report of one command, some lines."""
    from hpccarbon.report.render import words
    from hpccarbon.report.render.inert import inert

    share, machine = outcome.share, outcome.machine
    how = "modelled: no sensor can be read here" if outcome.modelled else "measured"
    lines = [
        f"Command   {inert(' '.join(outcome.argv))[:100]}",
        f"Ended     exit code {outcome.exit_code} after {outcome.elapsed_ns / 1e9:.1f} s, "
        f"{share.cpu_time_ns / 1e9:.1f} s of CPU time",
        f"Energy    {words.energy(share.energy_uj)} ({how}); the machine: {words.energy(machine.energy_uj)}",
        f"Carbon    {_carbon(outcome, factors)}",
    ]
    lines += [f"Not read  {inert(gap)}" for gap in outcome.gaps]
    return "\n".join(lines) + "\n"


def as_json(outcome: Outcome, factors: Factors | None) -> str:
    """The same with every figure in full."""
    import msgspec

    document = {
        "schema_version": 1,
        "kind": "run",
        **msgspec.to_builtins(outcome),
        "co2e_g": _grams(outcome, factors)[0],
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _carbon(outcome: Outcome, factors: Factors | None) -> str:
    from hpccarbon.report.render import words

    co2e_g, why = _grams(outcome, factors)
    return f"{words.grams(co2e_g)} CO2e ({why})" if co2e_g is not None else f"not known: {why}"


def _grams(outcome: Outcome, factors: Factors | None) -> tuple[float | None, str]:
    """Grams of the command's share and how they were found, or None and why not."""
    if factors is None:
        return None, "no grid zone; give --zone DE or set carbon.zone"
    from datetime import datetime, timezone

    from hpccarbon.units import NS_PER_S, kwh

    carbon = factors.carbon
    start = datetime.fromtimestamp(outcome.started_wall_ns / NS_PER_S, timezone.utc)
    factor = factors.at(start)
    if factor is None:
        return None, f"no {carbon.basis} intensity of {carbon.zone} for {start:%Y}"
    known = factors.pue_of(start)
    pue = f"PUE {known:g}" if known else "PUE unknown, taken as 1.0"
    why = f"{factor.g_per_kwh:.0f} g/kWh in {carbon.zone}, {factor.source}; {pue}"
    return kwh(outcome.share.energy_uj) * factor.factor, why
