"""What a period's jobs could have saved, as text, JSON, CSV or Parquet. Formats only; computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hpccarbon.report.render import files, words
from hpccarbon.report.render.inert import inert
from hpccarbon.report.render.jobrows import csv_bytes
from hpccarbon.report.render.text import Heading, Screen, table, wrapped

if TYPE_CHECKING:
    from hpccarbon.submit.advise import Advice, Advised

Kind = Literal["text", "json", "csv", "parquet"]
_WAITING = (
    Heading("WAIT AT MOST"),
    Heading("JOBS", keep=4),
    Heading("WAIT", keep=8),
    Heading("SAVED"),
    Heading("", keep=7),
    Heading("AT BEST", keep=5),
    Heading("", keep=5),
)
_LARGEST = (
    Heading("JOB", right=False),
    Heading("NAME", right=False, keep=7),
    Heading("USER", right=False, keep=5),
    Heading("BEGAN", right=False, keep=4),
    Heading("RAN", keep=3),
    Heading("ENERGY", keep=2),
    Heading("CO2E", keep=6),
    Heading("WAIT", keep=8),
    Heading("SAVED"),
    Heading("AT BEST", keep=1),
)
_PLACES = (
    Heading("PLACE", right=False),
    Heading("ZONE", right=False, keep=5),
    Heading("JOBS", keep=4),
    Heading("CO2E"),
    Heading("THERE"),
    Heading("SAVED"),
)
_HARDWARE = (
    Heading("NAME", right=False),
    Heading("USER", right=False, keep=5),
    Heading("PARTITION", right=False),
    Heading("JOBS", keep=4),
    Heading("ENERGY"),
    Heading("RAN", keep=6),
    Heading("CO2E", keep=7),
)


def content(advice: Advice, kind: Kind, screen: Screen) -> str | bytes:
    """The advice in one format: text and JSON tell the whole, CSV and Parquet every job that was weighed."""
    if kind == "text":
        return text(advice.told, screen)
    if kind == "json":
        return files.json_text(advice.told)
    return csv_bytes(advice.table) if kind == "csv" else files.table_as_parquet(advice.table)


def text(told: Advised, screen: Screen) -> str:
    """A page for a terminal. Negative savings keep their sign."""
    lines = [screen.bold(_title(told, screen)), ""]
    lines += [f"{words.count(one.jobs, 'job')} left out: {one.why}" for one in told.left_out]
    if told.weighed:
        lines += [
            f"{words.count(told.weighed, 'job')}, {words.energy(told.energy_uj)}, {words.grams(told.co2e_g)} CO2e. "
            "Had each waited for cleaner hours:",
            "",
            *table(_WAITING, _waiting(told), screen),
            "",
            "WAIT: the mean of those that wait. SAVED: choosing by what was known then, without a forecast.",
            "AT BEST: had the hours to come been known.",
        ]
    for title, headings, rows in (
        (
            f"The jobs that would have saved most, waiting {_hours(told.max_delay_h)} at most",
            _LARGEST,
            _largest(told, screen),
        ),
        ("The same jobs at the same hours in the other places", _PLACES, _places(told)),
        ("The same names on several partitions, medians", _HARDWARE, _hardware(told)),
    ):
        if rows:
            lines += ["", screen.bold(title), "", *table(headings, rows, screen)]
    lines.append("")
    for note in told.notes:
        lines += wrapped("", inert(note), screen, 0)
    return "\n".join(lines).strip("\n") + "\n"


def _title(told: Advised, screen: Screen) -> str:
    begin, end = (moment.astimezone(screen.zone) for moment in (told.since, told.until))
    return f"{inert(told.cluster)}, {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M %Z}: {words.count(told.jobs, 'job')}"


def _waiting(told: Advised) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            _hours(one.max_delay_h),
            f"{one.moved:,}",
            _hours(one.mean_wait_h),
            _saved(one.saved_g),
            _percent(one.saved_percent),
            _saved(one.most_g),
            _percent(one.most_percent),
        )
        for one in told.waiting
    ]
    if told.crowd is not None:
        one = told.crowd
        label = f"{_hours(one.max_delay_h)} on {words.count(one.nodes, 'node')}"
        few = (f"{one.moved:,}", _hours(one.mean_wait_h), _saved(one.saved_g), _percent(one.saved_percent))
        rows.append((label, *few, "-", "-"))
    return rows


def _largest(told: Advised, screen: Screen) -> list[tuple[str, ...]]:
    return [
        (
            one.job,
            inert(one.name or "-", 24),
            inert(one.user or "-", 16),
            words.moment(one.start, screen.zone),
            words.duration(one.elapsed_s),
            words.energy(one.energy_uj),
            words.grams(one.co2e_g),
            words.duration(one.wait_s),
            _saved(one.saved_g),
            _saved(one.most_g),
        )
        for one in told.largest
    ]


def _places(told: Advised) -> list[tuple[str, ...]]:
    return [
        (
            inert(one.place or "(the cluster)", 24),
            inert(one.zone or "-", 16),
            f"{one.jobs:,}",
            words.grams(one.co2e_g),
            words.grams(one.there_g),
            _percent(one.saved_percent),
        )
        for one in told.places
    ]


def _hardware(told: Advised) -> list[tuple[str, ...]]:
    return [
        (
            inert(one.name, 24),
            inert(one.user, 16),
            inert(one.partition, 16),
            f"{one.jobs:,}",
            words.energy(one.energy_uj),
            words.duration(one.elapsed_s),
            words.grams(one.co2e_g),
        )
        for one in told.hardware
    ]


def _hours(hours: float) -> str:
    return words.duration(hours * 3600)


def _saved(grams: float) -> str:
    return f"-{words.grams(-grams)}" if grams < 0 else words.grams(grams)


def _percent(value: float) -> str:
    return f"{value:.1f} %"
