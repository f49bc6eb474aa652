"""`make chaos`: every class of faults from one seed; prints a table.

    python -m tests.chaos --seed 1 [--short] [--only crash]

Exit status 1, if any energy or any job was lost, or another promise was not kept.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos import real_faults, virtual_faults
from tests.chaos.outcome import Outcome

Fault = Callable[[Path, random.Random, bool], Outcome]
VIRTUAL: tuple[Fault, ...] = (
    virtual_faults.bounded,  # first: the memory that others leave behind would hide growth
    virtual_faults.day,
    virtual_faults.crash,
    virtual_faults.crash_after_commit,
    virtual_faults.power_cut,
    virtual_faults.clocks,
    virtual_faults.leap_smear,
    virtual_faults.storm_of_short_jobs,
    virtual_faults.storm_at_once,
    virtual_faults.odd_lives,
)
BY_NAME: tuple[Fault, ...] = (virtual_faults.bounded_long,)
REAL: tuple[Fault, ...] = (real_faults.killed_processes, real_faults.full_disk)
HEADINGS = ("class", "faults", "energy lost", "jobs lost", "longest tick", "longest hook", "seconds")


def run(fault: Fault, seed: int, short: bool) -> Outcome:
    """One class of faults in a directory of its own; the same seed brings the same faults whichever others run."""
    with tempfile.TemporaryDirectory(prefix="hpccarbon-chaos-") as directory:
        return fault(Path(directory), random.Random(f"{seed}/{fault.__name__}"), short)


def main() -> int:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a small part of each class")
    parser.add_argument("--only", action="append", choices=[fault.__name__ for fault in VIRTUAL + REAL + BY_NAME])
    options = parser.parse_args()
    failed = False
    print(_line(HEADINGS))
    chosen = [fault for fault in VIRTUAL + REAL + BY_NAME if fault.__name__ in (options.only or ())]
    for fault in chosen or VIRTUAL + REAL:
        begun = time.monotonic()
        outcome = run(fault, options.seed, options.short)
        figures = (f"{outcome.energy_lost_uj} µJ", f"{outcome.jobs_lost}", _ms(outcome.tick_ms), _ms(outcome.hook_ms))
        print(_line((outcome.name, f"{outcome.faults:,}", *figures, f"{time.monotonic() - begun:.0f}")), flush=True)
        if outcome.note:
            print(f"    {outcome.note}")
        for sentence in outcome.wrong + outcome.slow:
            print(f"    NOT KEPT: {sentence}")
        failed = failed or not outcome.kept
    print(f"seed {options.seed}: " + ("a promise was not kept" if failed else "every promise was kept"))
    return int(failed)


def _line(cells: tuple[str, ...]) -> str:
    widths = (22, 8, 12, 10, 13, 13, 8)
    return "".join(
        cell.rjust(width) if at else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _ms(duration_ms: float | None) -> str:
    return "-" if duration_ms is None else f"{duration_ms:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
