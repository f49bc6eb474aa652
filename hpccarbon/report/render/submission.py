"""What a user reads before a job is submitted: its cost, its start, the hours to come. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from math import fsum
from typing import TYPE_CHECKING

from hpccarbon.report.render import words
from hpccarbon.report.render.inert import inert

if TYPE_CHECKING:
    from hpccarbon.submit.choose import Choice
    from hpccarbon.submit.estimate import Estimate, Span
    from hpccarbon.submit.plan import Plan

_LABEL = "  g/kWh "
_SURE = {"forecast": "the forecast", "recent_days": "the last two weeks"}


def text(plan: Plan, width: int) -> str:
    """The lines, each with its newline; "" where there is nothing to say.

    Args:
        width: columns; only the chart is fitted, lines wrap as the terminal wraps them.
    """
    lines = [_expected(plan.estimate, plan.co2e_g)] if plan.estimate else []
    if plan.estimate is None:
        lines.append("no estimate: nothing is known of jobs like it yet")
    if plan.begin is not None and plan.choice is not None:
        lines.append(_begins(plan, plan.choice))
    elif plan.choice is not None and not plan.choice.delay:
        lines.append("--green: begins at once: no later start within reach is expected to be cleaner")
    lines += plan.notes
    said = [f"hpccarbon: {inert(line)}" for line in lines]
    if plan.begin is not None and plan.choice is not None:
        said += _chart(plan, plan.choice, width)
    return "".join(f"{line}\n" for line in said)


def _expected(found: Estimate, co2e_g: Span | None) -> str:
    if found.energy_uj is None:
        return f"about {_span(found.power_w, words.power)} while it runs (give --time to know more){_basis(found)}"
    parts = [_span(found.energy_uj, lambda value: words.energy(round(value)))]
    if co2e_g is not None:
        parts.append(f"{_span(co2e_g, words.grams)} CO2e")
    return f"about {', '.join(parts)} in {words.duration(found.length_s)}{_basis(found)}"


def _basis(found: Estimate) -> str:
    many = words.count(found.jobs, "job")
    return {
        "same": f", by your last {many} of this name",
        "name": f", by your last {many} of this name, scaled to this size",
        "partition": f", if it runs that long; by {many} of the partition",
        "cluster": f", if it runs that long; by {many} of the cluster",
    }[found.basis]


def _span(span: Span, write: Callable[[float], str]) -> str:
    if span.low is None or span.high is None:
        return write(span.middle)
    return f"{write(span.middle)} ({write(span.low)} to {write(span.high)})"


def _begins(plan: Plan, choice: Choice) -> str:
    wait = words.duration(choice.delay.total_seconds())
    sure = " and ".join(dict.fromkeys(_SURE.get(rung, "hourly values") for rung in choice.rungs))
    grams = ""
    if plan.co2e_g is not None and plan.co2e_then_g is not None:
        grams = f"{words.grams(plan.co2e_then_g.middle)} instead of {words.grams(plan.co2e_g.middle)}, "
    saved = f"{choice.saved_percent:.0f} % less ({choice.low_percent:.0f} to {choice.high_percent:.0f} %)"
    return f"--green: begins {plan.begin:%a %H:%M}, in {wait}: {grams}{saved}, by {sure}"


def _chart(plan: Plan, choice: Choice, width: int) -> list[str]:
    """The hours to come, from their least to their largest intensity, and under them the job."""
    coming = plan.coming
    values = [hour.g_per_kwh for hour in coming]
    least, most = min(values), max(values)
    size = math.ceil(len(values) / max(10, width - len(_LABEL) - 24))
    bins = [values[at : at + size] for at in range(0, len(values), size)]
    heights = [fsum(one) / len(one) for one in bins]
    reach = (most - least) or 1.0
    blocks = "".join(words.block((height - least) / reach) for height in heights)
    first = coming[0].start
    begin = (choice.best.start - first) / timedelta(hours=size)
    end = begin + (plan.length_s or 0.0) / 3600 / size
    marks = "".join("^" if at < end and at + 1 > begin else " " for at in range(len(bins))).rstrip()
    return [
        f"{_LABEL}{blocks}  {least:.0f} to {most:.0f}",
        f"{' ' * len(_LABEL)}{marks} {first:%H:%M} + {len(values)} h",
    ]
