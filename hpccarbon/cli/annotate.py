"""`hpccarbon annotate`: a job's summary into its AdminComment, after its end and away from every hook."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from hpccarbon.cli.common import config_option, duration, parse_time, reader_zone

if TYPE_CHECKING:
    from hpccarbon.config import Config
    from hpccarbon.site.ledger import Ledger

COMMENTED = 2
"""Hours for which a job's comment is kept up to date after its end: nodes may seal late."""
GRACE_S = 60.0
"""How long after `daemon.seal_after_job_s` all nodes of a job have sealed."""


class Outcome(NamedTuple):
    """What became of the jobs that ended: `foreign` have a comment of somebody else, which stays."""

    written: int
    unchanged: int
    foreign: int
    unmetered: int


@click.command("annotate")
@click.option(
    "-S", "--since", default=f"{COMMENTED}h", show_default=True, metavar="TIME", help="Jobs that ended from here on."
)
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option(
    "--grace",
    callback=duration,
    default=f"{GRACE_S:g}s",
    show_default=True,
    metavar="DURATION",
    help="How long after its end (and daemon.seal_after_job_s) a job's nodes have sealed.",
)
@config_option
def command(since: str, dry_run: bool, grace: float, config_path: Path | None) -> None:
    """Write a summary of each job that ended into its AdminComment, where `sacct` and dashboards find it.

    For operators: it needs Slurm's administrator rights. A comment that somebody else wrote (jobstats, for one) stays.
    Running it again changes only what has changed. `aggregate --watch` does the same by itself where the configuration
    says `slurm.admin_comment = true`.
    """
    from datetime import timezone

    from hpccarbon import config as configuration
    from hpccarbon.cli.output import working
    from hpccarbon.cli.shared import open_ledger

    config = configuration.load(config_path)
    now = datetime.now(timezone.utc)
    begin = parse_time(since, reader_zone(config), now)
    with open_ledger(config) as ledger, working("asking Slurm"):
        outcome = annotate(config, ledger, begin, now, dry_run=dry_run, grace_s=grace)
    click.echo(("nothing written: " if dry_run else "") + told(outcome), err=True)


def told(outcome: Outcome) -> str:
    """The outcome as a line."""
    aside = [f"{outcome.foreign} left alone (their comment is not ours)"] if outcome.foreign else []
    aside += [f"{outcome.unmetered} without energy"] if outcome.unmetered else []
    return ", ".join([f"annotated {outcome.written} jobs", f"{outcome.unchanged} unchanged", *aside])


def annotate(
    config: Config, ledger: Ledger, since: datetime, now: datetime, *, dry_run: bool = False, grace_s: float = GRACE_S
) -> Outcome:
    """Bring the comments of all jobs that ended in [since, now) up to date.

    Raises: SlurmError, if accounting does not answer or refuses; what was written stays, and the next run goes on.
    """
    from hpccarbon.report.comment import comment_text, is_ours
    from hpccarbon.report.figures import added_groups
    from hpccarbon.report.month import Period
    from hpccarbon.site.groups import Grouping
    from hpccarbon.site.ledger import Selection
    from hpccarbon.slurm import comment

    settled = now - timedelta(seconds=config.daemon.seal_after_job_s + grace_s)
    records = [one for one in ledger.jobs(Selection(since=since, until=now)) if one.end is not None]
    ended = {one.job_id: one for one in records if one.end is not None and since <= one.end <= settled}
    if not ended:
        return Outcome(0, 0, 0, 0)
    first = min(one.start or one.end or now for one in ended.values())
    period = Period(config, ledger, first.replace(minute=0, second=0), now)
    selection = Selection(job_ids=tuple(ended), holders=("job",))
    (groups,) = period.groups([Grouping(("job",), counted=False)], selection)
    texts = {int(str(one.energy.key[0])): comment_text(added_groups([one])) for one in groups}
    standing = comment.read(config.slurm, (job_id for job_id, text in texts.items() if text))
    written = unchanged = foreign = 0
    for job_id, there in sorted(standing.items()):
        text = texts[job_id]
        if text is None or there.text == text:
            unchanged += 1
        elif not is_ours(there.text):
            foreign += 1
        else:
            if dry_run:
                click.echo(f"{there.name}: {text}")
            else:
                comment.write(config.slurm, there.name, text)
            written += 1
    return Outcome(written, unchanged, foreign, len(ended) - written - unchanged - foreign)
