"""What several commands share: the option that names the configuration. Loads nothing until it is asked to."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The site's TOML file [default: $HPCCARBON_CONFIG, else /etc/hpccarbon/hpccarbon.toml].",
)


def warn(message: str) -> None:
    """One line on stderr, harmless whatever it quotes."""
    from hpccarbon.report.render.inert import inert

    click.echo(f"warning: {inert(message)}", err=True)
