"""The arithmetic from joules to grams as text or JSON, one step a line. Formats only."""

from __future__ import annotations

from typing import Literal

import msgspec

from hpccarbon.carbon.explain import Explanation, Line
from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.job import JobReport
from hpccarbon.report.render import files
from hpccarbon.report.render.inert import inert
from hpccarbon.report.render.text import Screen, wrapped


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """`hpccarbon report --job ID --explain --format json`."""

    kind: Literal["explanation"] = "explanation"
    jobs: list[str]
    explanation: Explanation


def content(
    told: Explanation, report: JobReport, kind: Literal["text", "json", "csv", "parquet"], screen: Screen
) -> str | bytes:
    """The explanation in one format. Raises: HpcCarbonError for one that has no steps."""
    if kind not in ("text", "json"):
        raise HpcCarbonError(f"--explain is steps to read, not a table: --format text or json, not {kind}")
    jobs = [job.job for job in report.jobs]
    if kind == "json":
        return files.json_text(Explained(jobs=jobs, explanation=told))
    return text(told, jobs, screen)


def text(told: Explanation, jobs: list[str], screen: Screen) -> str:
    """A paragraph for each step: what it is, the numbers, the result, and beneath it where they come from."""
    lines = [screen.bold(f"How the grams of job {', '.join(jobs)} were computed"), ""]
    for step in told.lines:
        lines += _step(step, screen)
    if told.co2e_g is None:
        said = "An hour without an intensity leaves the sum unknown: nothing is assumed."
        lines += ["", *wrapped("", said, screen, indent=0)]
    said = "Each line is rounded to 0.1 mg as printed; sums are those of the printed lines."
    lines += ["", *wrapped("", said, screen, indent=0)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _step(step: Line, screen: Screen) -> list[str]:
    result = f"{step.result} {step.unit}".strip()
    head = f"{inert(step.label, 100)}: " + (f"{step.expression} = {result}" if step.expression else result)
    beneath = "; ".join(part for part in (step.time, inert(step.source, 400)) if part)
    lines = wrapped("", head, screen, indent=0)
    return lines + [screen.dim(line) for line in (wrapped("", beneath, screen, indent=4) if beneath else [])]
