"""`hpccarbon import`: old runs of another tracker, kept beside the ledger. Writes nothing into the ledger itself."""

from __future__ import annotations

from pathlib import Path

import click

from hpccarbon.cli.common import config_option

EPILOG = """
\b
Examples:
  hpccarbon import old/emissions.csv
  hpccarbon compare old-model 4711          an imported project beside a job of the ledger
"""


@click.command("import", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE...")
@config_option
def command(files: tuple[Path, ...], config_path: Path | None) -> None:
    """Import CodeCarbon's emissions.csv, so that old runs can be compared with new ones.

    The runs lie in a room of their own below the shared directory: no total of a job, user or month holds them.
    Importing a file again changes nothing.
    """
    from hpccarbon import config as configuration
    from hpccarbon.report.render import words
    from hpccarbon.site.imported import take

    room = configuration.load(config_path).shared("imported")
    for file in files:
        done = take(file, room)
        before = " (imported before, nothing to do)" if done.known else ""
        click.echo(f"{file}: {words.count(done.runs, 'run')} in {done.path}{before}")
