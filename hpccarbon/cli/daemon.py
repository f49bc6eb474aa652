"""`hpccarbon daemon`: wires the node daemon to its configuration. Imports nothing that reports need."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(
    "daemon",
    epilog="Runs in the foreground until SIGTERM. systemd: docs/install.md; without systemd the prolog starts it.",
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="The site's TOML file.")
@click.option("--node", metavar="NAME", help="Node name as Slurm knows it [default: SLURMD_NODENAME, else host name].")
def command(config_path: Path | None, node: str | None) -> None:
    """Measure this node and divide its energy among its jobs."""
    from hpccarbon import config as configuration
    from hpccarbon.node.daemon import Daemon

    os.umask(os.umask(0o022) | 0o022)  # whoever starts it: nobody else writes what it leaves in its run directory
    config = configuration.load(config_path)
    Daemon(config, config_path, configuration.node_name(node)).run()
