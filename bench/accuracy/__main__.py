"""`make accuracy`: plays all scenarios, prints the tables, writes docs/accuracy.md and .svg; 1 if a bar is missed."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.accuracy.chart import chart
from bench.accuracy.judge import Result, run
from bench.accuracy.page import number, page
from bench.accuracy.scenarios import LEAD_S, SCENARIOS

DOCS = Path(__file__).parents[2] / "docs"


def show(result: Result) -> None:
    """A scenario's lines on the terminal."""
    print(f"\n{result.scenario.title}: {result.scenario.about}")
    print(f"  {'':42}{'dynamic %':>20}{'misplaced':>11}{'static %':>10}{'total %':>20}{'named %':>9}")
    for v in result.verdicts:
        dynamic = f"{number(v.dynamic_mean)} / {number(v.dynamic_worst)}"
        total = f"{number(v.total_mean)} / {number(v.total_worst)}"
        print(
            f"  {v.name + (' †' if v.whole else ''):42}{dynamic:>20}{number(v.misplaced):>11}"
            f"{number(v.static_mean):>10}{total:>20}{v.billed:>9.1f}"
        )


def main() -> int:
    """Play, print, write."""
    results, missed = [], []
    for scenario in SCENARIOS:
        result = run(scenario)
        results.append(result)
        show(result)
        missed += [f"{scenario.title}: {miss}" for miss in result.misses()]
    (DOCS / "accuracy.md").write_text(page(results, LEAD_S), encoding="utf-8")
    (DOCS / "accuracy.svg").write_text(chart(results), encoding="utf-8")
    for miss in missed:
        print(f"bar missed: {miss}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
