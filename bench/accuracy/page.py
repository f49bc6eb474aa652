"""Writes docs/accuracy.md: what was simulated, the tables, how to read them, where others come out better. No sums."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.accuracy.judge import TIE, Result, Verdict
from bench.accuracy.truth import World

_PROSE = Path(__file__).with_name("prose.md")


def prose() -> dict[str, str]:
    """The parts of prose.md by name: head, short, tail, and `note KEY` for each scenario."""
    pieces = re.split(r"^<!-- (head|short|tail|note \w+) -->$", _PROSE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def number(value: float) -> str:
    """A percentage with as many digits as it deserves."""
    size = abs(value)
    text = f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"
    return "0.00" if text == "-0.00" else text


def _node(world: World) -> str:
    return (
        f"Unless a scenario says otherwise: {world.packages} sockets, {world.cpus} CPUs, {world.mem_gib} GiB, "
        f"{world.idle_mw // 1000} W idle in the packages and {world.dram_idle_mw // 1000} W in the memory, "
        "4 W and 0.3 W more per busy CPU"
    )


def row(verdict: Verdict) -> str:
    """One formula's line."""
    name = verdict.name + (" †" if verdict.whole else "")
    cells = [
        f"{number(verdict.dynamic_mean)} / {number(verdict.dynamic_worst)}",
        number(verdict.misplaced),
        number(verdict.static_mean),
        f"{number(verdict.total_mean)} / {number(verdict.total_worst)}",
        f"{verdict.together:+.1f}" if abs(verdict.together) >= 0.05 else "0.0",
        f"{verdict.billed:.1f}",
    ]
    return f"| {name if verdict.peer else f'**{name}**'} | {' | '.join(cells)} |"


def section(result: Result) -> str:
    """A scenario: what it is, the truth, the table, and what to make of it."""
    scenario = result.scenario
    lines = [f"### {scenario.title}", "", scenario.about + " " + _truth(result), ""]
    lines += [
        "| formula | dynamic, mean / worst % | misplaced % | static, mean % | total, mean / worst % "
        "| jobs together % | named % |",
        "|---|---|---|---|---|---|---|",
        *(row(verdict) for verdict in result.verdicts),
        "",
    ]
    lost = result.ours.lost_uj or 0
    lines.append(f"Of the counters' energy, {lost:,} µJ are in no row of ours." if lost else "Ours adds up to the µJ.")
    lines[-1] += " " + prose()[f"note {scenario.key}"]
    if result.better:
        names = ", ".join(verdict.name.rstrip(" *") for verdict in result.better)
        lines += ["", f"Smaller dynamic error than ours, in the mean or misplaced: {names}."]
    return "\n".join(lines)


def _truth(result: Result) -> str:
    if len(result.truth) > 3:
        parts = next(iter(result.truth.values()))
        return f"Truth, each: {parts.dynamic / 1e6:.1f} J dynamic, {parts.static / 1e6:.1f} J static."
    told = "; ".join(
        f"job {job} {parts.dynamic / 1e6:,.1f} J dynamic, {parts.static / 1e6:,.1f} J static"
        for job, parts in result.truth.items()
    )
    return f"Truth: {told}."


def summary(results: Sequence[Result]) -> str:
    """Ours and the best of the others, scenario by scenario."""
    lines = [
        "| scenario | dynamic error per job, mean %: ours | the best other | all jobs together %: ours | others "
        "| µJ in no row of ours |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        others = [verdict for verdict in result.verdicts if verdict.peer]
        best = min(others, key=lambda verdict: verdict.dynamic_mean)
        together = [verdict.together for verdict in others]
        mark = " (smaller)" if result.better else ""
        lines.append(
            f"| {result.scenario.title} | {number(result.ours.dynamic_mean)} | {number(best.dynamic_mean)} "
            f"{best.name.rstrip(' *')}{mark} | {number(result.ours.together)} "
            f"| {min(together):+,.0f} to {max(together):+,.0f} | {result.ours.lost_uj or 0:,} |"
        )
    return "\n".join(lines)


def page(results: Sequence[Result], lead_s: float) -> str:
    """The whole page."""
    world = next(result.world for result in results if result.scenario.key == "two_equal")
    words = prose()
    head = words["head"].format(tie=TIE, node=_node(world), lead=lead_s)
    where = [result.scenario.title for result in results if result.better]
    told = f"In {len(where)} of {len(results)} scenarios some formula has a smaller dynamic error per job than ours: "
    told += "; ".join(where) + ". The reasons stand below each table." if where else "none."
    short = f"## In short\n\n{words['short']}\n\n{summary(results)}\n\n{told}"
    return "\n\n".join([head, short, "## Scenario by scenario", *map(section, results), words["tail"]]) + "\n"
