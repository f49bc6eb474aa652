"""`hpccarbon aggregate`: merges what is new, once or for ever, and says what became of it. Adds nothing up itself."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option, duration, parse_time, reader_zone, warn

if TYPE_CHECKING:
    from datetime import datetime

    from hpccarbon.config import Config
    from hpccarbon.site.executor import Crew

EXTRACTS_EVERY_S = 3600
"""How often --watch writes users' extracts: each time reads the whole running month."""


@click.command()
@config_option
@click.option("--watch", is_flag=True, help="Stay, and merge again whenever shards have changed.")
@click.option(
    "--every", callback=duration, metavar="DURATION", default="60s", show_default=True, help="How often --watch looks."
)
@click.option("--since", metavar="TIME", help="Only hours from here on; accounting is asked from here on, too.")
@click.option("--until", metavar="TIME", help="Only hours before this.")
@click.option(
    "--executor", type=click.Choice(["local"]), default="local", show_default=True, help="Where hours are merged."
)
@click.option("--workers", type=click.IntRange(1, 1024), help="Hours merged at once [default: one per core].")
@click.option("--no-accounting", is_flag=True, help="Do not ask Slurm for job records.")
@click.option("--quiet", "-q", is_flag=True, help="Print failures only.")
def command(
    config_path: Path | None,
    watch: bool,
    every: float,
    since: str | None,
    until: str | None,
    executor: str,
    workers: int | None,
    no_accounting: bool,
    quiet: bool,
) -> None:
    """Merge the nodes' shards into the ledger, and fetch job records from Slurm's accounting.

    Only hours whose shards have changed are merged, each into one file that is replaced as a whole. A shard that cannot
    be trusted is named, left out and counted; it stops no other. Running it twice changes nothing.
    """
    from datetime import datetime, timezone

    from hpccarbon.config import load
    from hpccarbon.site.executor import open_crew

    config = load(config_path)
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    begin, end = (parse_time(text, zone, now) if text else None for text in (since, until))
    with open_crew(executor, workers) as crew:

        def once(only_news: bool) -> bool:
            return _once(config, crew, begin, end, accounting=not no_accounting, quiet=quiet, only_news=only_news)

        if watch:
            _watch(once, every)
            return
        if not once(False):
            sys.exit(1)


def _once(
    config: Config,
    crew: Crew,
    since: datetime | None,
    until: datetime | None,
    *,
    accounting: bool,
    quiet: bool,
    only_news: bool,
) -> bool:
    """One pass; prints its result, and returns whether all of it succeeded."""
    from datetime import datetime, timezone

    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.site import extracts, jobs
    from hpccarbon.site.aggregate import aggregate

    if config.privacy == "own":
        extracts.guard(config)  # before anything is written that others could read
    start = time.monotonic()
    records, well = 0, True
    # Records first: the ledger finds a job's hours by them.
    if accounting:
        try:
            records = jobs.update(config, since, until)
        except HpcCarbonError as err:
            well = False
            click.echo(f"error: job records: {_inert(str(err))}", err=True)
    with _bar(quiet) as progress:
        outcome = aggregate(
            Path(config.paths.shared_dir), config.cluster, crew, since=since, until=until, progress=progress
        )
    for path, why in outcome.set_aside:
        warn(f"set aside {path}: {why}")
    for _, why in outcome.failed:
        click.echo(f"error: {_inert(why)}", err=True)
    if not quiet and (outcome.hours or records or outcome.failed or not only_news):
        aside = f" ({len(outcome.set_aside)} set aside)" if outcome.set_aside else ""
        told = f", {_count(records, 'job record')}" if accounting else ""
        merged = f"{_count(outcome.hours, 'hour')} from {_count(outcome.shards, 'shard')}{aside}"
        click.echo(f"aggregated {merged}{told}; {time.monotonic() - start:.1f} s")
    if config.privacy == "own":
        extracts.update(config, datetime.now(timezone.utc), EXTRACTS_EVERY_S if only_news else 0)
    if accounting and config.slurm.admin_comment:
        well = _annotate(config, quiet=quiet) and well
    return well and not outcome.failed


def _annotate(config: Config, *, quiet: bool) -> bool:
    """Comment the jobs that ended lately; False (and said) where Slurm refuses: the next pass tries again."""
    from datetime import datetime, timedelta, timezone

    from hpccarbon.cli.annotate import COMMENTED, annotate, told
    from hpccarbon.cli.shared import open_ledger
    from hpccarbon.errors import HpcCarbonError

    now = datetime.now(timezone.utc)
    try:
        with open_ledger(config) as ledger:
            outcome = annotate(config, ledger, now - timedelta(hours=COMMENTED), now)
    except HpcCarbonError as err:
        click.echo(f"error: admin comments: {_inert(str(err))}", err=True)
        return False
    if not quiet and outcome.written:
        click.echo(told(outcome))
    return True


def _watch(once: Callable[[bool], bool], every: float) -> None:
    """Pass after pass until SIGTERM or SIGINT; a pass under way is finished first."""
    import signal
    import threading

    from hpccarbon.errors import HpcCarbonError

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    only_news, said = False, ""
    while not stop.is_set():
        try:
            once(only_news)
            said = ""
        except HpcCarbonError as err:
            # A file system that is away for a night is one line, not a thousand.
            if str(err) != said:
                said = str(err)
                click.echo(f"error: {_inert(said)}", err=True)
        sys.stdout.flush()
        only_news = True
        stop.wait(every)


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; nothing, and nothing imported, where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("hours", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _inert(text: str) -> str:
    from hpccarbon.report.render.inert import inert

    return inert(text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
