"""Reports as plain text for a terminal: fits its width, colours only where one looks on, every foreign string inert."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from math import fsum
from typing import NamedTuple

from hpccarbon.carbon.advice import Advice, Shift
from hpccarbon.carbon.footprint import NO_PUE, Description, RungShare
from hpccarbon.carbon.statement import Statement
from hpccarbon.report.figures import CarbonOf, Figures
from hpccarbon.report.job import Hint, JobPart, JobReport, PowerPoint, base_state, states
from hpccarbon.report.render import words
from hpccarbon.report.render.inert import columns, cut, inert
from hpccarbon.report.usage import TIMES, UsageReport, UsageRow
from hpccarbon.units import UJ_PER_J, UJ_PER_KWH, UJ_PER_WH

LABEL = 9
"""Width of the column of labels on a job's page."""
MIN_NAME = 6
"""Columns of a name that remain whatever the width."""
MAX_NODES = 8
MAX_JOBS = 40
MAX_STEPS = 20
MAX_RUNGS = 3
_ASCII = str.maketrans({"▁": "_", "▂": "_", "▃": ".", "▄": "-", "▅": "-", "▆": "=", "▇": "=", "█": "#", "×": "x"})
_BAD_STATES = frozenset(
    ("FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)


class Screen(NamedTuple):
    """What is written on: its width, whether it shows colours, the reader's zone."""

    width: int = 80
    colour: bool = False
    zone: tzinfo = timezone.utc

    def bold(self, text: str) -> str:
        """The text, stronger."""
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text

    def dim(self, text: str) -> str:
        """The text, weaker."""
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def warn(self, text: str) -> str:
        """The text, in yellow."""
        return f"\x1b[33m{text}\x1b[0m" if self.colour else text

    def state(self, state: str) -> str:
        """A state of Slurm: red where the job failed, green where it runs or is done."""
        if not self.colour:
            return state
        return f"\x1b[{31 if base_state(state) in _BAD_STATES else 32}m{state}\x1b[0m"


def encodable(text: str, encoding: str) -> str:
    """The text as an output of this encoding can hold it: plain signs for the blocks, escapes for the rest."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        plain = text.translate(_ASCII).replace("…", "...").replace("µ", "u").replace("·", "-")
        return plain.encode(encoding if encoding else "ascii", "backslashreplace").decode(encoding or "ascii")
    return text


# ---- a table --------------------------------------------------------------------------------------------------------


class Heading(NamedTuple):
    """A column of a table: numbers stand to the right; `keep` is higher for what must not be left out."""

    title: str
    right: bool = True
    keep: int = 9


def table(headings: Sequence[Heading], rows: Sequence[Sequence[str]], screen: Screen, indent: int = 2) -> list[str]:
    """The lines of a table. A column of nothing but `-` goes; where it is too wide the least needed ones go, too, and
    then names are cut."""
    shown = [i for i in range(len(headings)) if i == 0 or any(row[i] not in ("-", "") for row in rows)]

    def widths() -> list[int]:
        return [max([columns(headings[i].title), *(columns(row[i]) for row in rows)]) for i in shown]

    def total() -> int:
        return indent + sum(widths()) + 2 * (len(shown) - 1)

    while total() > screen.width and len(shown) > 2:
        least = min(shown[1:], key=lambda i: (headings[i].keep, -i))
        if headings[least].keep >= 9:
            break
        shown.remove(least)
    sizes = widths()
    names = [place for place, i in enumerate(shown) if not headings[i].right]
    while indent + sum(sizes) + 2 * (len(sizes) - 1) > screen.width:
        widest = max(names, key=lambda place: sizes[place], default=0)
        if sizes[widest] <= MIN_NAME:
            break
        sizes[widest] -= 1
    fitted = [[cut(row[i], size) for i, size in zip(shown, sizes, strict=True)] for row in rows]
    titles = [cut(headings[i].title, size) for i, size in zip(shown, sizes, strict=True)]
    lines = []
    for number, cells in enumerate([titles, *fitted]):
        padded = [_pad(cell, size, headings[i].right) for cell, size, i in zip(cells, sizes, shown, strict=True)]
        line = " " * indent + "  ".join(padded).rstrip()
        lines.append(screen.dim(line) if number == 0 else line)
    return lines


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * max(0, width - columns(text))
    return space + text if right else text + space


class Unit(NamedTuple):
    """The one unit of a column: its name, how much it is, and how many decimals its numbers have."""

    name: str
    scale: float
    decimals: int

    def write(self, value: float | None) -> str:
        """A number of the column; `-` for what is not known, and never `0.0` for what is not nothing."""
        if value is None:
            return "-"
        amount = value / self.scale
        smallest = 10.0**-self.decimals
        if 0 < amount < smallest / 2:
            return f"<{smallest:.{self.decimals}f}"
        return f"{amount:,.{self.decimals}f}"

    def named(self, value: float | None) -> str:
        """As `write`, with the unit."""
        return "-" if value is None else f"{self.write(value)} {self.name}"


def unit_of(largest: float | None, units: Sequence[tuple[float, str]], digits: int = 4) -> Unit:
    """The largest unit of which the largest value has at least one, with decimals for so many digits of it."""
    value = largest or 0
    scale, name = next((unit for unit in reversed(units) if value >= unit[0]), units[0])
    amount = value / scale
    decimals = 0 if amount <= 0 else min(3, max(0, digits - 1 - math.floor(math.log10(amount))))
    return Unit(name, scale, decimals)


ENERGY_UNITS = ((UJ_PER_J, "J"), (UJ_PER_WH, "Wh"), (UJ_PER_KWH, "kWh"), (1_000 * UJ_PER_KWH, "MWh"))
GRAM_UNITS = ((0.001, "mg"), (1.0, "g"), (1_000.0, "kg"), (1_000_000.0, "t"))


# ---- parts of a page ------------------------------------------------------------------------------------------------


def _between(left: str, right: str, screen: Screen) -> str:
    """`left` and `right` at the two ends of a line; `left` is cut where both do not fit."""
    right = cut(right, screen.width - 14)
    left = cut(left, screen.width - columns(right) - 2)
    return left + " " * max(2, screen.width - columns(left) - columns(right)) + right


def _wrapped(label: str, text: str, screen: Screen, mark: str = "") -> list[str]:
    """A labelled paragraph that hangs under its label, yellow with `mark`."""
    first, *rest = wrapped(label, text, screen, LABEL)
    head = _pad(label, LABEL, right=False)
    return [screen.warn(head) + first[LABEL:] if mark == "warn" else first, *rest]


def wrapped(label: str, text: str, screen: Screen, indent: int = LABEL) -> list[str]:
    """A paragraph that hangs under its label, `indent` columns wide."""
    room = max(20, screen.width - indent)
    lines, line = [], ""
    for word in text.split(" "):
        if line and columns(line) + 1 + columns(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return [
        (_pad(label, indent, right=False) if number == 0 else " " * indent) + line for number, line in enumerate(lines)
    ]


def _energy_lines(figures: Figures, screen: Screen) -> list[str]:
    said = [] if figures.energy_spread is None else [f"± {words.percent(100 * figures.energy_spread)}"]
    if figures.covered_percent is not None:
        said.append(f"{words.percent(figures.covered_percent)} covered")
    if figures.measured_percent is not None:
        said.append(f"{words.percent(figures.measured_percent)} measured")
    note = f"  ({', '.join(said)})" if said else ""
    amount = words.energy(figures.energy_uj)
    first, *rest = _wrapped("Energy", f"{amount}{note}", screen)
    return [first.replace(amount, screen.bold(amount), 1), *rest]


def carbon_lines(
    figures: Figures, carbon: Sequence[CarbonOf], screen: Screen, told: Statement | None = None
) -> list[str]:
    """Grams with their range and what they were made with; or why there are none.

    Args:
        told: knows the whole range: intensity, PUE and energy; without it that of the intensity is said.
    """
    notes = list(dict.fromkeys(note for one in carbon for note in one.method.notes if note != NO_PUE))
    if figures.co2e_g is None:
        return _wrapped("Carbon", f"{words.UNKNOWN}: {inert('; '.join(notes) or 'no intensity')}", screen)
    amount = f"{words.grams(figures.co2e_g)} CO2e"
    used = [one for one in carbon if one.energy_uj] or list(carbon)
    spread = _spread(used[0].method) if len(used) == 1 else None
    if told is not None and told.co2e_g and told.high_g:
        spread = 100 * (told.high_g / told.co2e_g - 1)
    first, *rest = _wrapped("Carbon", f"{amount}  (± {words.percent(spread)})" if spread else amount, screen)
    lines = [first.replace(amount, screen.bold(amount), 1), *rest]
    whole = sum(one.energy_uj for one in used)
    said = [_method(used[0].method)] if len(used) == 1 else [_of_place(one, whole) for one in used]
    return lines + [screen.dim(line) for text in [*said, *map(inert, notes)] for line in _wrapped("", text, screen)]


def statement_lines(told: Statement | None, screen: Screen) -> list[str]:
    """What carbon has to say beyond the grams of the electricity: only what the site has configured."""
    if told is None or told.co2e_g is None:
        return []
    lines = []
    if told.embodied_g is not None:
        low, high = words.grams(told.embodied_low_g), words.grams(told.embodied_high_g)
        lines += _wrapped(
            "Hardware", f"{words.grams(told.embodied_g)} CO2e of its manufacturing ({low} to {high})", screen
        )
    if told.embodied_unused_g is not None:
        lines += _wrapped("", f"{words.grams(told.embodied_unused_g)} CO2e more of hardware that no job held", screen)
    if told.sci_g is not None:
        each = f"per {told.sci_unit}" if told.sci_units == 1 else f"for each of {told.sci_units:,.10g} {told.sci_unit}"
        lines += _wrapped("SCI", f"{words.grams(told.sci_g)} CO2e {inert(each, 70)} (ISO/IEC 21031)", screen)
    if told.market_g is not None:
        lines += _wrapped(
            "Market", f"{words.grams(told.market_g)} CO2e by the site's contracts (scope 2, market-based)", screen
        )
    if told.water_l is not None:
        lines += _wrapped("Water", f"{words.number(told.water_l)} l at the site", screen)
    if told.comparison is not None:
        lines += [
            screen.dim(line) for line in _wrapped("Like", f"{told.comparison.text}, {told.comparison.note}", screen)
        ]
    return lines


def advice_lines(advice: Advice | None, screen: Screen) -> list[str]:
    """Other times and zones, where they were asked for."""
    if advice is None:
        return []
    lines: list[str] = []
    if advice.times:
        best, worst = advice.times[0], advice.times[-1]
        lines.append("The same energy at other hours of that week")
        lines += [_shift("best", best, screen), _shift("worst", worst, screen)]
    if advice.zones:
        lines.append("The same energy in the same hours elsewhere")
        headings = (
            Heading("zone", right=False),
            Heading("", right=False, keep=3),
            Heading("CO2e"),
            Heading("than here"),
        )
        rows = [
            [inert(one.zone, 20), inert(one.name, 30), words.grams(one.co2e_g), _less(one.saved_percent)]
            for one in advice.zones
        ]
        lines += table(headings, rows, screen)
    for note in advice.notes:
        lines += [screen.dim(line) for line in _wrapped("", inert(note, 300), screen)]
    return ["", *lines]


def _shift(word: str, one: Shift, screen: Screen) -> str:
    when = f"{one.start.astimezone(screen.zone):%a %m-%d %H:%M}"
    return f"  {word:<6} begun {when} ({one.shift_h:+d} h): {words.grams(one.co2e_g)}, {_less(one.saved_percent)}"


def _less(saved_percent: float) -> str:
    word = "less" if saved_percent >= 0 else "more"
    return f"{words.percent(abs(saved_percent))} {word}"


def _of_place(one: CarbonOf, whole: int) -> str:
    """`north, 63 %: 45 g/kWh in South Sweden (SE-SE4), ... (± 12 %)`."""
    spread = _spread(one.method)
    name = inert(one.place, 24) if one.place else "other nodes"
    share = words.percent(100 * one.energy_uj / whole if whole else None)
    return f"{name}, {share}: {_method(one.method)}{f' (± {words.percent(spread)})' if spread else ''}"


def _spread(carbon: Description) -> float | None:
    """One sigma of the grams in per cent: what all jobs share and what is this selection's own."""
    if carbon.common_percent is None or carbon.own_percent is None:
        return None
    return math.hypot(carbon.common_percent, carbon.own_percent)


def _method(carbon: Description) -> str:
    """`330 g/kWh in Germany (DE), life cycle, the year's mean 2025 × PUE 1.25 × node factor 1.1`."""
    basis = "life cycle" if carbon.basis == "lifecycle" else "direct emissions only"
    name, zone = inert(carbon.zone_name or "", 40), inert(carbon.zone or "?", 40)
    where = f"{name} ({zone})" if name and name != zone else zone
    intensity = "" if carbon.intensity_g_per_kwh is None else f"{words.number(carbon.intensity_g_per_kwh)} g/kWh in "
    rungs = carbon.rungs[:MAX_RUNGS]
    used = [_rung(rung) if len(carbon.rungs) == 1 else f"{words.percent(rung.percent)} {_rung(rung)}" for rung in rungs]
    used += ["others"] if len(carbon.rungs) > MAX_RUNGS else []
    pue = "PUE unknown, taken as 1.0" if carbon.pue is None else f"PUE {carbon.pue:.4g}"
    factor = "" if carbon.node_factor == 1 else f" × node factor {carbon.node_factor:.4g}"
    return f"{', '.join([f'{intensity}{where}', basis, *([' + '.join(used)] if used else [])])} × {pue}{factor}"


def _rung(rung: RungShare) -> str:
    years = rung.years
    span = "" if not years else f" {years[0]}" if years[0] == years[-1] else f" {years[0]}-{years[-1]}"
    return f"{inert(rung.words.replace(', ', ' '), 80)}{span}"


def _data(figures: Figures, carbon: Sequence[CarbonOf], screen: Screen) -> list[str]:
    """Where the intensities came from, with the attributions their licences ask for; nothing where no grams are."""
    if figures.co2e_g is None:
        return []
    notices = [notice for one in carbon for notice in one.method.notices]
    shares = [share for one in carbon for share in one.method.rungs]
    unnamed = [share.source for share in shares if not any(share.source in notice for notice in notices)]
    editions = dict.fromkeys(f"edition {one.edition}" for one in shares if one.edition and one.rung != "fixed")
    text = "; ".join(inert(one) for one in dict.fromkeys([*unnamed, *notices, *editions]))
    return [screen.dim(line) for line in _wrapped("Data", text, screen)]


def _cpu_lines(figures: Figures, screen: Screen) -> list[str]:
    if figures.cpu_used_percent is None or not figures.core_hours or figures.cpu_hours is None:
        return []
    used = words.core_hours(figures.cpu_hours, figures.core_hours)
    used_percent = words.percent(figures.cpu_used_percent)
    return _wrapped("CPU", f"{used_percent} of the cores' time was used ({used})", screen)


def _split(figures: Figures, screen: Screen, unheld: Sequence[str] = ()) -> list[str]:
    """The energy by component and by what it was for. A component without a meter has no number at all, not even 0.

    Args:
        unheld: components that are no part of what was held (a job without GPUs): these need no meter.
    """
    parts = {"cpu": figures.cpu_uj, "dram": figures.dram_uj, "gpu": figures.gpu_uj, "other": figures.other_uj}
    metered = {name: value for name, value in parts.items() if value is not None}
    whole = figures.energy_uj
    if not whole:
        return []
    bar = min(40, screen.width - 40)
    unit = unit_of(whole, ENERGY_UNITS)
    lines = [screen.dim(f"{'By component':<23}{'share':>10}")]
    for name, value in sorted(metered.items(), key=lambda part: -part[1]):
        # GPUs that nobody held used nothing of this: that is no line worth reading.
        if value or name not in unheld:
            lines.append(_share(name, value, whole, unit, bar))
    if unmetered := [name for name in parts if name not in metered and name not in unheld]:
        lines.append(f"  {'not metered':<13}{', '.join(unmetered)}")
    lines.append(screen.dim("By use"))
    lines.append(_share("active", whole - figures.static_uj, whole, unit, bar))
    lines.append(_share("static", figures.static_uj, whole, unit, bar))
    return lines


def _share(name: str, value: int, whole: int, unit: Unit, bar: int) -> str:
    part = 100 * value / whole
    return f"  {name:<8}{unit.named(value):>13}{words.percent(part):>10}  {'█' * round(bar * part / 100)}".rstrip()


def _unheld(jobs: Iterable[JobPart]) -> tuple[str, ...]:
    """`gpu`, where no job holds one by Slurm's own account."""
    return ("gpu",) if all(job.state is not None and not job.alloc_gpus for job in jobs) else ()


def sparkline(points: Sequence[PowerPoint], step_s: int, width: int) -> str:
    """Power from the first to the last point, from 0 W to the peak as blocks; blank where the job was not there."""
    first = points[0].at
    steps = int((points[-1].at - first).total_seconds()) // step_s + 1
    size = max(1, math.ceil(steps / width))
    sums: dict[int, list[float]] = {}
    for point in points:
        sums.setdefault(int((point.at - first).total_seconds()) // step_s // size, []).append(point.power_w)
    means = {place: fsum(values) / len(values) for place, values in sums.items()}
    peak = max(means.values())
    if peak <= 0:
        return ""
    return "".join(words.block(means[place] / peak) if place in means else " " for place in range(max(means) + 1))


def _power_lines(report: JobReport, screen: Screen) -> list[str]:
    points, step_s = report.power, report.power_step_s
    if len(points) < 2 or not step_s:
        return []
    job = report.jobs[0]
    mean = (job.figures.energy_uj or 0) / 1e6 / job.elapsed_s if job.elapsed_s else 0.0
    peak = max(point.power_w for point in points)
    step = "minute" if step_s == 60 else "hour" if step_s == 3600 else f"{step_s} s"
    line = sparkline(points, step_s, max(20, screen.width - LABEL - 4))
    if not line:
        return []
    start = points[0].at.astimezone(screen.zone)
    end = points[-1].at.astimezone(screen.zone) + timedelta(seconds=step_s)
    same = start.date() == end.date()
    left, right = (f"{at:%H:%M}" if same else f"{at:%m-%d %H:%M}" for at in (start, end))
    gap = len(line) - len(left) - len(right)
    axis = left + " " * gap + right if gap >= 2 else ""
    lines = [
        *_wrapped("Power", f"{words.power(mean)} mean, {words.power(peak)} in the highest {step}", screen),
        " " * LABEL + line,
    ]
    return [*lines, screen.dim(" " * LABEL + axis)] if axis else lines


# ---- a job's page ---------------------------------------------------------------------------------------------------


def jobs_text(report: JobReport, screen: Screen) -> str:
    """The page of one job, or of an array or several jobs with a line for each."""
    lines = _job_page(report, screen) if len(report.jobs) == 1 else _group_page(report, screen)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _job_page(report: JobReport, screen: Screen) -> list[str]:
    job = report.jobs[0]
    lines = [*_job_head(job, screen), ""]
    lines += _energy_lines(job.figures, screen)
    lines += carbon_lines(job.figures, report.carbon, screen, report.statement)
    lines += statement_lines(report.statement, screen)
    lines += _power_lines(report, screen)
    lines += _cpu_lines(job.figures, screen)
    lines += ["", *_split(job.figures, screen, _unheld([job]))]
    if len(job.runs) > 1:
        lines += ["", *_runs_table(job, screen)]
    if len(job.nodes) > 1:
        lines += ["", *_nodes_table(job, screen)]
    lines += _steps_lines(report.jobs, screen)
    if report.hints:
        lines.append("")
    for hint in report.hints:
        lines += _wrapped("Note" if hint.kind in _NOTES else "Hint", _hint(hint), screen, "warn")
    lines += advice_lines(report.advice, screen)
    data = _data(job.figures, report.carbon, screen)
    return [*lines, *([""] if data and not report.hints else []), *data]


def _job_head(job: JobPart, screen: Screen) -> list[str]:
    title = f"Job {job.job}" + (f"  {inert(job.name, 60)}" if job.name else "")
    state = inert(job.state, 40) if job.state else "state not known"
    if job.running:
        state += ", so far"
    head = _between(title, state, screen)
    if screen.colour:
        head = head[: len(head) - len(state)] + screen.state(state)
        head = head.replace(f"Job {job.job}", screen.bold(f"Job {job.job}"), 1)
    who = _who(job)
    if job.job != str(job.job_id) and job.job_id != job.array_job_id:
        who.append(f"job id {job.job_id}")
    return [head, *_plain(", ".join(who), screen), *_plain(_when(job, screen), screen)]


def _plain(text: str, screen: Screen) -> list[str]:
    return [cut(text, screen.width)] if text else []


def _who(job: JobPart) -> list[str]:
    said = [inert(job.user, 32) if job.user else "user not known"]
    said += [f"account {inert(job.account, 24)}"] if job.account else []
    said += [f"partition {inert(job.partition, 24)}"] if job.partition else []
    return said


def _when(job: JobPart, screen: Screen) -> str:
    held = []
    if job.alloc_nodes:
        held.append(words.count(job.alloc_nodes, "node"))
    if job.alloc_cores:
        held.append(words.count(job.alloc_cores, "core"))
    if job.alloc_gpus:
        held.append(words.count(job.alloc_gpus, "GPU"))
    elapsed = words.duration(job.elapsed_s) if job.elapsed_s is not None else ""
    lasted = f"{elapsed}{' so far' if job.running else ''}" if elapsed else ""
    period = words.period(job.start, job.end, screen.zone)
    held_text = ", ".join(held)
    return "; ".join(part for part in (period, lasted, held_text) if part)


def _units(parts: Iterable[Figures]) -> tuple[Unit, Unit]:
    """The units of energy and carbon that fit the largest part: the sum may be long, but no part vanishes in it."""
    parts = list(parts)
    largest = max((part.energy_uj or 0 for part in parts), default=0)
    heaviest = max((part.co2e_g or 0.0 for part in parts), default=0.0)
    return unit_of(largest, ENERGY_UNITS), unit_of(heaviest, GRAM_UNITS, 3)


def _metered(energy_uj: int | None, unit: Unit) -> str:
    return words.NOT_METERED if energy_uj is None else unit.named(energy_uj)


def _runs_table(job: JobPart, screen: Screen) -> list[str]:
    headings = [
        Heading("run", right=False),
        Heading("state", right=False, keep=6),
        Heading("when", right=False, keep=3),
        Heading("energy"),
        Heading("CO2e", keep=5),
        Heading("covered", keep=4),
    ]
    rows: list[list[str]] = []
    energy, carbon = _units(run.figures for run in job.runs)
    for number, run in enumerate(job.runs, 1):
        live = job.running and number == len(job.runs)
        rows.append(
            [
                str(number),
                inert(run.state or "-", 20),
                words.period(run.start, None if live else run.end, screen.zone),
                _metered(run.figures.energy_uj, energy),
                carbon.named(run.figures.co2e_g),
                words.percent(run.figures.covered_percent),
            ]
        )
    return [f"Runs: requeued {words.count(len(rows) - 1, 'time')}", *table(headings, rows, screen)]


def _nodes_table(job: JobPart, screen: Screen) -> list[str]:
    headings = [
        Heading("node", right=False),
        Heading("energy"),
        Heading("share", keep=6),
        Heading("cpu used", keep=5),
        Heading("covered", keep=4),
    ]
    nodes = sorted(job.nodes, key=lambda part: -(part.figures.energy_uj or 0))
    top = nodes[:MAX_NODES] if len(nodes) > MAX_NODES + 1 else nodes
    energy, _ = _units(part.figures for part in job.nodes)
    rows = [
        [
            inert(part.node, 40),
            _metered(part.figures.energy_uj, energy),
            words.percent(_of(part.figures, job.figures)),
            words.percent(part.figures.cpu_used_percent),
            words.percent(part.figures.covered_percent),
        ]
        for part in top
    ]
    left = nodes[len(top) :]
    if left:
        energy_uj = sum(part.figures.energy_uj or 0 for part in left)
        share = words.percent(100 * energy_uj / job.figures.energy_uj if job.figures.energy_uj else None)
        rows.append([f"{len(left):,} more", energy.named(energy_uj), share, "", ""])
    return ["By node", *table(headings, rows, screen)]


def _steps_lines(jobs: Sequence[JobPart], screen: Screen) -> list[str]:
    """A line for each step, most energy first; nothing where nobody asked for steps."""
    asked = [job for job in jobs if job.steps is not None]
    found = [(job, step) for job in asked for step in job.steps or ()]
    if not asked:
        return []
    if all(step.step is None for _job, step in found):
        why = "none were kept (daemon.steps is off on these nodes), or their raw shards are gone or closed to you"
        return ["", *_wrapped("Steps", why, screen, "warn")]
    headings = [
        Heading("step", right=False),
        Heading("energy"),
        Heading("share", keep=6),
        Heading("CO2e", keep=5),
        Heading("cpu time", keep=7),
        Heading("nodes", keep=3),
    ]
    found.sort(key=lambda one: (one[1].step is None, -one[1].energy_uj))
    energy = unit_of(max(step.energy_uj for _job, step in found), ENERGY_UNITS)
    carbon = unit_of(max(step.co2e_g or 0.0 for _job, step in found), GRAM_UNITS, 3)
    rows = [
        [
            _step_name(job, step.step),
            energy.named(step.energy_uj),
            words.percent(100 * step.energy_uj / job.figures.energy_uj if job.figures.energy_uj else None),
            carbon.named(step.co2e_g),
            words.duration(step.cpu_time_us / 1e6),
            str(step.nodes),
        ]
        for job, step in (found[:MAX_STEPS] if len(found) > MAX_STEPS + 1 else found)
    ]
    left = [step for _job, step in found[len(rows) :]]
    if left:
        energy_uj = sum(step.energy_uj for step in left)
        whole = sum(job.figures.energy_uj or 0 for job in asked)
        share = words.percent(100 * energy_uj / whole if whole else None)
        rows.append([f"{len(left):,} more", energy.named(energy_uj), share, "", "", ""])
    return ["", "By step", *table(headings, rows, screen)]


def _step_name(job: JobPart, step: str | None) -> str:
    """`123.0`; in words what has no name."""
    if step is None:
        return f"{job.job}: not kept by step"
    return f"{job.job}.{inert(step, 30)}" if step else f"{job.job}: too short to be named"


def _of(part: Figures, whole: Figures) -> float | None:
    return 100 * part.energy_uj / whole.energy_uj if part.energy_uj is not None and whole.energy_uj else None


_NOTES = ("not_covered", "modelled", "waited")
"""Hints that ask nobody to change anything."""


def _hint(hint: Hint) -> str:
    share = words.percent(hint.percent)
    if hint.kind == "idle_cores":
        return (
            f"{words.energy(hint.energy_uj)} ({share}) was the static energy of cores held and not used: on average"
            f" {words.number(hint.cores or 0, 2)} cores were idle. Ask for fewer cores next time."
        )
    if hint.kind == "idle_gpus":
        return (
            f"{words.energy(hint.energy_uj)} ({share}) went into {words.count(hint.gpus or 0, 'GPU')} that did next to"
            " nothing. Ask for none, or look why the program does not use them."
        )
    if hint.kind == "greener_hour":
        return (
            f"Begun {words.count(hint.shift_h or 0, 'hour')} later it would have cost {words.grams(hint.saved_g)} CO2e"
            f" ({share}) less, by the grid's mix of those hours."
        )
    if hint.kind == "waited":
        more = "less" if (hint.percent or 0) > 0 else "more"
        return (
            f"Begun {words.count(hint.shift_h or 0, 'hour')} after its submission, it cost"
            f" {words.grams(abs(hint.saved_g or 0))} CO2e ({words.percent(abs(hint.percent or 0))}) {more} than"
            " begun at once, by the grid's mix of those hours."
        )
    if hint.kind == "earlier_runs":
        return (
            f"{words.energy(hint.energy_uj)} ({share}) went into runs before the last one. Checkpoints keep such work."
        )
    if hint.kind == "modelled" and hint.sensors:
        return (
            f"{share} of the energy was estimated by a model, although these nodes have a sensor"
            f" ({', '.join(hint.sensors)}): it cannot be read. `hpccarbon doctor` there says why."
        )
    if hint.kind == "modelled":
        return f"{share} of the energy was estimated by a model: these nodes have no sensor that could be read."
    nodes = [inert(node, 40) for node in hint.nodes]
    named = f" Nothing came from {', '.join(nodes[:5])}{' and others' if len(nodes) > 5 else ''}." if nodes else ""
    return (
        f"{share} of the job's time on nodes is not covered by measurements:"
        f" it may have used more energy than is shown.{named}"
    )


# ---- several jobs ---------------------------------------------------------------------------------------------------


def _group_page(report: JobReport, screen: Screen) -> list[str]:
    jobs, total = report.jobs, report.total
    counted = ", ".join(f"{amount:,} {inert(state, 20)}" for state, amount in states(jobs))
    first = jobs[0]
    title = {
        "array": f"Array job {first.array_job_id}",
        "het": f"Heterogeneous job {first.het_job_id}",
    }.get(report.group, words.count(len(jobs), "job"))
    if report.group in ("array", "het") and first.name:
        title += f"  {inert(first.name, 40)}"
    parts = {"array": "task", "het": "component"}.get(report.group, "job")
    right = counted if report.group == "several" else f"{words.count(len(jobs), parts)}: {counted}"
    lines = [_between(title, right, screen)]
    owners = {(job.user, job.account, job.partition) for job in jobs}
    if len(owners) == 1:
        lines += _plain(", ".join(_who(first)), screen)
    starts = [job.start for job in jobs if job.start]
    ends = [job.end for job in jobs if job.end]
    running = any(job.running for job in jobs)
    if starts:
        end = None if running or not ends else max(ends)
        lines += _plain(words.period(min(starts), end, screen.zone) + (", so far" if running else ""), screen)
    lines += ["", *_energy_lines(total, screen), *carbon_lines(total, report.carbon, screen, report.statement)]
    lines += statement_lines(report.statement, screen)
    lines += _cpu_lines(total, screen)
    lines += ["", *_split(total, screen, _unheld(jobs)), "", *_jobs_table(report, screen)]
    lines += _steps_lines(jobs, screen)
    lines += advice_lines(report.advice, screen)
    data = _data(total, report.carbon, screen)
    return [*lines, *([""] if data else []), *data]


def _jobs_table(report: JobReport, screen: Screen) -> list[str]:
    mixed = report.group == "several"
    headings = [
        Heading({"array": "task", "het": "component"}.get(report.group, "job"), right=False),
        *([Heading("user", right=False, keep=6), Heading("name", right=False, keep=1)] if mixed else []),
        Heading("state", right=False, keep=6),
        Heading("time", keep=4),
        Heading("nodes", keep=3),
        Heading("energy"),
        Heading("CO2e", keep=7),
        Heading("cpu used", keep=5),
        Heading("covered", keep=8),
    ]
    jobs = report.jobs
    energy, carbon = _units(job.figures for job in jobs)
    top = jobs if len(jobs) <= MAX_JOBS + 1 else sorted(jobs, key=lambda job: -(job.figures.energy_uj or 0))[:MAX_JOBS]

    def line(label: str, job: JobPart | None, figures: Figures) -> list[str]:
        who = [] if not mixed else ["", ""] if job is None else [inert(job.user or "-", 12), inert(job.name or "-", 20)]
        return [
            label,
            *who,
            "" if job is None else inert(job.state or "-", 16),
            "" if job is None or job.elapsed_s is None else words.duration(job.elapsed_s),
            str(figures.nodes),
            _metered(figures.energy_uj, energy),
            carbon.named(figures.co2e_g),
            words.percent(figures.cpu_used_percent),
            words.percent(figures.covered_percent),
        ]

    rows = [line(job.job, job, job.figures) for job in top]
    rows.append(line("sum", None, report.total))
    lines = table(headings, rows, screen)
    lines[-1] = screen.bold(lines[-1])
    if len(top) < len(jobs):
        left = len(jobs) - len(top)
        note = f"The {len(top)} with the most energy; {left:,} more are in the sum (--format csv lists all)."
        lines += _wrapped("", note, screen)
    return lines


# ---- usage ----------------------------------------------------------------------------------------------------------


def usage_text(report: UsageReport, screen: Screen, top: int = 0) -> str:
    """The table, with what it is of above it and its method below.

    Args:
        top: how many lines of jobs are shown at most (0: all); the others become one.
    """
    lines = [*_usage_head(report, screen), ""]
    total = report.total
    if not report.rows:
        lines.append("No energy was metered for this selection.")
        return "\n".join(lines) + "\n"
    lines += _usage_table(report, screen, top)
    lines.append("")
    lines += _energy_lines(total.figures, screen)
    if total.figures.unseen_node_hours >= 0.05:
        text = (
            f"{total.figures.unseen_node_hours:,.1f} node-hours of jobs were seen by no daemon: their energy is in no"
        )
        lines += _wrapped("Unseen", f"{text} figure; `hpccarbon audit` names them", screen, mark="warn")
    lines += carbon_lines(total.figures, report.carbon, screen, report.statement)
    lines += statement_lines(report.statement, screen)
    if not report.filters.by_job:
        lines += [
            screen.dim(line)
            for line in _wrapped(
                "",
                "The total is what the meters counted. system: busy, but not with a job; unallocated: held by no job.",
                screen,
            )
        ]
    lines += advice_lines(report.advice, screen)
    lines += _data(total.figures, report.carbon, screen)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _usage_head(report: UsageReport, screen: Screen) -> list[str]:
    filters = report.filters
    said = [
        f"{title} {', '.join(inert(name, 32) for name in names)}"
        for title, names in (
            ("user", filters.users),
            ("account", filters.accounts),
            ("partition", filters.partitions),
            ("node", filters.nodes),
        )
        if names is not None
    ]
    what = f"Energy by {', '.join(report.by)} on {inert(report.cluster, 40)}"
    when = _span(report.since, report.until, screen.zone)
    fits = columns(what) + columns(when) + 2 <= screen.width
    lines = [_between(what, when, screen)] if fits else [cut(what, screen.width), cut(when, screen.width)]
    return [screen.bold(lines[0]), *lines[1:], *_plain("; ".join(said), screen)]


def _hour(text: str, zone: tzinfo) -> str:
    """`2026-03-01 11:00` in the reader's zone, from a UTC hour's key."""
    return words.moment(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc), zone)


def _span(since: datetime | None, until: datetime | None, zone: tzinfo) -> str:
    """`2026-03-01 to 2026-03-31`, both included, where the bounds are midnights; else with times."""
    if since is None and until is None:
        return "all time"
    begin = since.astimezone(zone) if since else None
    end = until.astimezone(zone) if until else None
    days = all(at is None or (at.hour, at.minute, at.second) == (0, 0, 0) for at in (begin, end))
    if days:
        first = f"{begin:%Y-%m-%d}" if begin else "the beginning"
        last = f"{end - timedelta(days=1):%Y-%m-%d}" if end else "now"
        return first if first == last else f"{first} to {last}"
    first = f"{begin:%Y-%m-%d %H:%M}" if begin else "the beginning"
    last = f"{end:%Y-%m-%d %H:%M %Z}" if end else "now"
    return f"{first} to {last}"


def _usage_table(report: UsageReport, screen: Screen, top: int) -> list[str]:
    rows, total, per_job = report.rows, report.total, "job" in report.by
    energy, carbon = _units(row.figures for row in rows)
    longest = max((row.figures.node_hours for row in rows), default=0)
    hours = Unit("h", 1.0, 1 if longest >= 1 else 3)
    headings = [
        *(Heading(word, right=False) for word in report.by),
        *([Heading("user", right=False, keep=7), Heading("name", right=False, keep=1)] if per_job else []),
        *([] if per_job else [Heading("jobs", keep=5)]),
        Heading("node hours", keep=2),
        Heading("core hours", keep=3),
        Heading(energy.name),
        Heading("of total", keep=6),
        *([] if total.figures.co2e_g is None else [Heading(f"{carbon.name} CO2e", keep=8)]),
        Heading("covered", keep=7),
        Heading("measured", keep=4),
    ]
    width = max(12, 36 // len(report.by))
    blank = [""] * (len(report.by) - 1)

    def cells(key: Iterable[str], row: UsageRow) -> list[str]:
        figures = row.figures
        return [
            *key,
            *([inert(row.user or "", 12), inert(row.name or "", 20)] if per_job else []),
            *([] if per_job else [f"{row.jobs:,}" if row.jobs else "-"]),
            hours.write(figures.node_hours),
            "-" if figures.core_hours is None else hours.write(figures.core_hours),
            energy.write(figures.energy_uj),
            words.percent(row.share_percent),
            *([] if total.figures.co2e_g is None else [carbon.write(figures.co2e_g)]),
            words.percent(figures.covered_percent),
            words.percent(figures.measured_percent),
        ]

    def name(row: UsageRow) -> list[str]:
        if not row.key:
            return [row.holder, *blank]
        return [
            "(not known)" if value is None else _hour(value, screen.zone) if word == "hour" else inert(value, width)
            for word, value in zip(report.by, row.key, strict=True)
        ]

    ours = [row for row in rows if row.key]
    others = [row for row in rows if not row.key]
    shown = ours if not top or len(ours) <= top + 1 or set(report.by) & TIMES else ours[:top]
    written = [cells(name(row), row) for row in shown]
    if len(shown) < len(ours):
        left = ours[len(shown) :]
        energy_uj = sum(row.figures.energy_uj or 0 for row in left)
        share = fsum(row.share_percent or 0 for row in left)
        line = [""] * len(headings)
        line[0] = f"{len(left):,} more"
        titles = [heading.title for heading in headings]
        line[titles.index(energy.name)] = energy.write(energy_uj)
        line[titles.index("of total")] = words.percent(share)
        grams = [row.figures.co2e_g for row in left if row.figures.energy_uj]
        if f"{carbon.name} CO2e" in titles and None not in grams:
            line[titles.index(f"{carbon.name} CO2e")] = carbon.write(sum(gram or 0 for gram in grams))
        written.append(line)
    written += [cells(name(row), row) for row in others]
    written.append(cells(["total", *blank], total))
    lines = table(headings, written, screen)
    lines[-1] = screen.bold(lines[-1])
    return lines
