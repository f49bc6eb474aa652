"""`hpccarbon publish`: a static site of months, accounts and users. Makes anew only what has changed."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from hpccarbon.cli.common import config_option, parse_month, warn

if TYPE_CHECKING:
    from hpccarbon.config import Config
    from hpccarbon.report.publish import Made
    from hpccarbon.report.summary import Summary

STATE = ".hpccarbon-publish.json"
DATA = "data"
DATA_KINDS: tuple[Literal["json", "csv", "parquet"], ...] = ("json", "csv", "parquet")
_MONTH = "[0-9][0-9][0-9][0-9]-[0-9][0-9]"


@click.command("publish")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The site's root, which a web server may show; made where it is missing.",
)
@click.option(
    "-S",
    "--since",
    metavar="MONTH",
    help="No month before this; what the site has of them goes. [default: all there are]",
)
@click.option("--all", "anew", is_flag=True, help="Make everything anew.")
@click.option("--cluster", metavar="NAME", help="Another cluster of the shared directory.")
@click.option("--quiet", "-q", is_flag=True, help="Print failures only.")
@config_option
def command(
    output: Path, since: str | None, anew: bool, cluster: str | None, quiet: bool, config_path: Path | None
) -> None:
    """A static site: a page for each month, account and user, linked with one another, and the months' data.

    Only what has changed since the last run is made anew, so it can run from cron. Where the configuration says
    `privacy = "own"`, users and single jobs appear nowhere in it.
    """
    from datetime import timezone

    from hpccarbon import config as configuration
    from hpccarbon.site.access import require_data
    from hpccarbon.site.changes import fingerprint, months

    config = configuration.load(config_path)
    now = datetime.now(timezone.utc)
    require_data(config, cluster)
    shared, wanted = Path(config.paths.shared_dir), cluster or config.cluster
    first = f"{parse_month(since, config.zone(), now)[0]:%Y-%m}" if since else ""
    there = months(shared, wanted)
    chosen = [month for month in there if month >= first]
    prints = {month: fingerprint(shared, wanted, month) for month in there}
    if chosen and prints:
        current = f"{now:%Y-%m-%dT%H}"
        # Of the running month even the hours without data count.
        prints[there[-1]] += current if there[-1] == current[:7] else ""
    made = _Site(config, wanted, output, now).bring_up(chosen, prints, anew=anew)
    if not quiet:
        click.echo(f"published {made} of {len(chosen)} months; the others are as they were")


class _Site:
    """The site below one directory."""

    def __init__(self, config: Config, cluster: str, root: Path, now: datetime) -> None:
        self._config, self._cluster, self._root, self._now = config, cluster, root, now

    def bring_up(self, months: list[str], prints: dict[str, str], *, anew: bool) -> int:
        """Make the months anew that have changed, then what is made from all of them; returns how many were made."""
        from hpccarbon.cli.output import make_folder, working
        from hpccarbon.report.publish import Made, needs

        budgets = bool(self._config.budgets)
        wanted = Made(self._program(), {month: needs(month, prints, budgets=budgets) for month in months})
        before = Made() if anew else self._state()
        stale = [
            month
            for month in months
            if before.program != wanted.program
            or before.months.get(month) != wanted.months[month]
            or not self._page(month).exists()
        ]
        if not stale and before == wanted:
            return 0
        make_folder(self._root / DATA)
        for month in stale:
            with working(f"adding up {month}"):
                self._make_month(month)
        with working("writing accounts and users"):
            self._make_rest(months)
        self._write(STATE, msgspec.json.encode(wanted))
        return len(stale)

    def _program(self) -> str:
        """Stands for the release and for all of the configuration that a figure depends on."""
        from hpccarbon import __version__

        config = self._config
        parts = (__version__, self._cluster, config.privacy, config.report, config.carbon, config.budgets)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _state(self) -> Made:
        from hpccarbon.report.publish import Made

        try:
            return msgspec.json.decode((self._root / STATE).read_bytes(), type=Made)
        except (OSError, msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
            return Made()

    def _page(self, month: str) -> Path:
        return self._root / f"{month}.html"

    def _make_month(self, month: str) -> None:
        from hpccarbon.cli.shared import open_ledger
        from hpccarbon.report.month import summary
        from hpccarbon.report.publish import public
        from hpccarbon.report.render.months import content
        from hpccarbon.report.render.site import month_page

        period = parse_month(month, self._config.zone(), self._now + timedelta(days=1))
        with open_ledger(self._config, self._cluster) as ledger:
            made = summary(self._config, ledger, period, self._now, self._config.zone())
        for fault in made.set_aside:
            warn(f"set aside, in no figure: {fault.path}: {fault.reason}")
        shown = public(made, self._config.privacy)
        self._write(f"{month}.html", month_page(shown).encode())
        for kind in DATA_KINDS:
            self._write(f"{DATA}/summary-{month}.{kind}", content(shown, kind))

    def _make_rest(self, months: list[str]) -> None:
        """Index, accounts and users, from the months' data. What no month names any more goes, and so do other months.

        A page of before would go on naming people when the site has become private.
        """
        from hpccarbon.report.publish import pages, path_of
        from hpccarbon.report.render.site import index_page, person_page

        summaries = [self._read(month) for month in months]
        everyone = pages(summaries)
        self._write("index.html", index_page(self._cluster, summaries, everyone).encode())
        named = {path_of(page.kind, page.name) for page in everyone}
        for page in everyone:
            self._write(path_of(page.kind, page.name), person_page(self._cluster, page).encode())
        named |= {f"{month}.html" for month in months}
        named |= {f"{DATA}/summary-{month}.{kind}" for month in months for kind in DATA_KINDS}
        for pattern in (f"{_MONTH}.html", "accounts/*.html", "users/*.html", f"{DATA}/summary-{_MONTH}.*"):
            for path in self._root.glob(pattern):
                if str(path.relative_to(self._root)) not in named:
                    path.unlink()

    def _read(self, month: str) -> Summary:
        from hpccarbon.report.summary import Summary

        return msgspec.json.decode((self._root / DATA / f"summary-{month}.json").read_bytes(), type=Summary)

    def _write(self, relative: str, data: bytes) -> None:
        """Write a file of the site, unless it is that already: what did not change keeps its time."""
        from hpccarbon.cli.output import make_folder, write_whole

        path = self._root / relative
        try:
            if path.read_bytes() == data:
                return
        except OSError:
            make_folder(path.parent)
        write_whole(path, data)
