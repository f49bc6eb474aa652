"""`hpccarbon aggregate`: merges what is new, once or for ever, and says what became of it. Adds nothing up itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option, duration, parse_time, reader_zone, warn
from hpccarbon.cli.progress import shown

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime

    from hpccarbon.config import Config
    from hpccarbon.site.executor import Crew
    from hpccarbon.site.ledger import Ledger

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
    "--executor",
    type=click.Choice(["local", "dask", "slurm"]),
    default="local",
    show_default=True,
    help="Where hours are merged: on this machine, on a Dask scheduler's workers, on workers that run as Slurm jobs.",
)
@click.option(
    "--workers", type=click.IntRange(1, 1024), help="Hours merged at once [default: one per core; slurm: 4 jobs]."
)
@click.option("--scheduler", metavar="ADDRESS", help="With --executor dask: its address, such as tcp://head:8786.")
@click.option(
    "--slurm-option", multiple=True, metavar="OPTION", help="With --executor slurm: for sbatch, as --partition=short."
)
@click.option("--interface", metavar="NAME", help="With --executor slurm: network interface of the workers, as ib0.")
@click.option("--no-pack", is_flag=True, help="Leave closed days as one file per hour.")
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
    scheduler: str | None,
    slurm_option: tuple[str, ...],
    interface: str | None,
    no_pack: bool,
    no_accounting: bool,
    quiet: bool,
) -> None:
    """Merge the nodes' shards into the ledger, and fetch job records from Slurm's accounting.

    Only hours whose shards have changed are merged, each into one file that is replaced as a whole. A shard that cannot
    be trusted is named, left out and counted; it stops no other. Running it twice changes nothing. Days that ended two
    days ago are packed into one file each, unless --since or --until say to look at a part only.
    """
    from datetime import datetime, timezone

    from hpccarbon.config import load

    if (scheduler is not None) != (executor == "dask"):
        raise click.UsageError("--scheduler ADDRESS and --executor dask go together")
    if executor != "slurm" and (slurm_option or interface):
        raise click.UsageError("--slurm-option and --interface go with --executor slurm")
    config = load(config_path)
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    begin, end = (parse_time(text, zone, now) if text else None for text in (since, until))
    with _crew(config, executor, workers, scheduler, slurm_option, interface) as crew:

        def once(only_news: bool) -> bool:
            return _once(
                config,
                crew,
                begin,
                end,
                pack=not no_pack and begin is None and end is None,
                accounting=not no_accounting,
                quiet=quiet,
                only_news=only_news,
            )

        if watch:
            _watch(once, every)
            return
        if not once(False):
            sys.exit(1)


def _crew(
    config: Config,
    executor: str,
    workers: int | None,
    scheduler: str | None,
    slurm_options: tuple[str, ...],
    interface: str | None,
) -> AbstractContextManager[Crew]:
    if scheduler is not None:
        from hpccarbon.site.remote import dask_crew

        return dask_crew(scheduler)
    if executor == "slurm":
        from hpccarbon.site.remote import Batch, slurm_crew

        scratch = Path(config.paths.shared_dir) / "ledger" / config.cluster
        return slurm_crew(Batch(config.slurm, workers or 4, slurm_options, interface), scratch)
    from hpccarbon.site.executor import open_crew

    return open_crew(workers)


def _once(
    config: Config,
    crew: Crew,
    since: datetime | None,
    until: datetime | None,
    *,
    pack: bool,
    accounting: bool,
    quiet: bool,
    only_news: bool,
) -> bool:
    """One pass; prints its result, and returns whether all of it succeeded."""
    from datetime import datetime, timezone

    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.site import extracts, habits, jobs
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
    with shown("hours", quiet=quiet) as progress:
        outcome = aggregate(
            Path(config.paths.shared_dir),
            config.cluster,
            crew,
            since=since,
            until=until,
            pack_at=datetime.now(timezone.utc) if pack else None,
            progress=progress,
        )
    for path, why in outcome.set_aside:
        warn(f"set aside {path}: {why}")
    for _, why in outcome.failed:
        click.echo(f"error: {_inert(why)}", err=True)
    if not quiet and (outcome.hours or outcome.packed or records or outcome.failed or not only_news):
        aside = f" ({len(outcome.set_aside)} set aside)" if outcome.set_aside else ""
        told = f", {_count(records, 'job record')}" if accounting else ""
        merged = f"{_count(outcome.hours, 'hour')} from {_count(outcome.shards, 'shard')}{aside}"
        packed = f", packed {_count(outcome.packed, 'day')}" if outcome.packed else ""
        click.echo(f"aggregated {merged}{packed}{told}; {time.monotonic() - start:.1f} s")
    if config.privacy == "own":
        extracts.update(config, datetime.now(timezone.utc), EXTRACTS_EVERY_S if only_news else 0)
    if outcome.hours or records or (not only_news and habits.partitions(config) is None):
        well = _habits(config) and well
    if accounting and config.slurm.admin_comment:
        well = _annotate(config, quiet=quiet) and well
    return well and not outcome.failed


def _habits(config: Config) -> bool:
    """Note what users' last jobs used, for those to come."""
    from datetime import datetime, timezone

    from hpccarbon.site import observe

    return _tried(config, "habits", lambda ledger: observe.update(config, ledger, datetime.now(timezone.utc)))


def _annotate(config: Config, *, quiet: bool) -> bool:
    """Comment the jobs that ended lately; where Slurm refuses the next pass tries again."""
    from datetime import datetime, timedelta, timezone

    from hpccarbon.cli.annotate import COMMENTED, annotate, told

    def comment(ledger: Ledger) -> None:
        now = datetime.now(timezone.utc)
        outcome = annotate(config, ledger, now - timedelta(hours=COMMENTED), now)
        if not quiet and outcome.written:
            click.echo(told(outcome))

    return _tried(config, "admin comments", comment)


def _tried(config: Config, what: str, work: Callable[[Ledger], object]) -> bool:
    """Do something with the ledger that nothing else waits for; False (and said) where it fails."""
    from hpccarbon.cli.shared import open_ledger
    from hpccarbon.errors import HpcCarbonError

    try:
        with open_ledger(config) as ledger:
            work(ledger)
    except HpcCarbonError as err:
        click.echo(f"error: {what}: {_inert(str(err))}", err=True)
        return False
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


def _inert(text: str) -> str:
    from hpccarbon.report.render.inert import inert

    return inert(text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
