"""What several commands share: the configuration's option, times as people write them. Loads nothing until asked to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from hpccarbon.config import Config

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The site's TOML file [default: $HPCCARBON_CONFIG, else /etc/hpccarbon/hpccarbon.toml].",
)
SAMPLE = Path(__file__).resolve().parent.parent / "sample" / "hpccarbon.toml"


def _use_sample(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    """From here on the configuration is the sample's, whatever the environment says."""
    if asked:
        os.environ["HPCCARBON_CONFIG"] = str(SAMPLE)
        click.echo(f"the sample ledger of the package: {SAMPLE.with_name('README.md')}", err=True)


demo_option = click.option(
    "--demo",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_use_sample,
    help="Read the sample ledger in the package, without a site.",
)
_AGO = re.compile(r"(\d{1,5})\s*(min|h|d|w)")
_EVERY = re.compile(r"(\d{1,6}(?:\.\d+)?)\s*(s|min|h)?")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


def duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds from a duration as people write it: `60s`, `5min`, `1h`."""
    found = _EVERY.fullmatch(value.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
    if seconds < 1:
        raise click.BadParameter(f"{value!r} is no duration of a second or more; write 60s, 5min or 1h")
    return seconds


def warn(message: str) -> None:
    """One line on stderr, harmless whatever it quotes."""
    from hpccarbon.report.render.inert import inert

    click.echo(f"warning: {inert(message)}", err=True)


def reader_zone(config: Config) -> tzinfo:
    """The zone of `report.timezone`. Raises: ConfigError, if there is none of that name."""
    return config.zone()


def parse_time(text: str, zone: tzinfo, now: datetime) -> datetime:
    """A moment as people write it, aware: a date (its midnight), a date and time, `30d`, `12h`, `today`, `now`.

    Args:
        text: without an offset it is meant in `zone`; `30d` and `2w` begin at a midnight, `12h` and `90min` do not.
        now: aware.

    Raises: click.BadParameter saying what is allowed.
    """
    from datetime import datetime, timedelta

    word = text.strip().lower()
    today = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": 0, "yesterday": 1}.get(word)
    if word == "now":
        return now
    if days is not None:
        return _midnight(today, days)
    if found := _AGO.fullmatch(word):
        amount, unit = int(found[1]), found[2]
        if unit in ("d", "w"):
            return _midnight(today, amount * (7 if unit == "w" else 1))
        return now - timedelta(**{"hours" if unit == "h" else "minutes": amount})
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time; write 2026-03-01, 2026-03-01T14:30, 30d, 12h, today or now"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _midnight(today: datetime, days_ago: int) -> datetime:
    from datetime import timedelta

    # Arithmetic on an aware datetime with a zone moves the wall clock: a midnight stays one over a change of DST.
    return today - timedelta(days=days_ago)


def parse_month(text: str, zone: tzinfo, now: datetime) -> tuple[datetime, datetime]:
    """The first and the next midnight of a month: `2026-03`, `this`, `last`. Raises: click.BadParameter."""
    from datetime import datetime

    local = now.astimezone(zone)
    number = {"this": 0, "last": -1}.get(text.strip().lower())
    if number is not None:
        number += local.year * 12 + local.month - 1
    elif found := re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", text.strip()):
        number = int(found[1]) * 12 + int(found[2]) - 1
    if number is None or number < 12 or number >= 9999 * 12:
        raise click.BadParameter(f"{text!r} is no month; write 2026-03, this or last")
    first, following = (datetime(n // 12, n % 12 + 1, 1, tzinfo=zone) for n in (number, number + 1))
    return first, following


def listed(values: Iterable[str]) -> tuple[str, ...] | None:
    """Values of an option that may be repeated or hold several with commas between; None where it was not given."""
    words = dict.fromkeys(word.strip() for value in values for word in value.split(","))
    return tuple(word for word in words if word) or None


def my_name() -> str:
    """The name of the user this process runs as; the number, where it has no name."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
