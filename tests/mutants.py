"""Breaks our arithmetic on purpose, one place at a time, and asks whether a test notices (`make mutants`; minutes).

    python -m tests.mutants [PATTERN ...]

mutmut makes the mutants (it forks for each, and runs only the tests that come by the function) in a copy of the
checkout below build/mutants. A pattern names mutants, e.g. `hpccarbon.units.*`. Prints a table and every mutant that
lived, as a diff. Why the known ones live stands in docs/mutants.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter

from mutmut.stats import status_by_exit_code

from tests.compat import CHECKOUT, copy_checkout

COPY = CHECKOUT / "build" / "mutants"
MODULES = (
    "hpccarbon/units.py",
    "hpccarbon/node/attribution.py",
    "hpccarbon/node/sampler.py",
    "hpccarbon/site/aggregate.py",
    "hpccarbon/carbon/footprint.py",
)
"""Where a joule or a gram is worked out. [tool.mutmut] in pyproject.toml names them too, and their tests."""
LIVED = ("survived", "no tests", "suspicious")


def verdicts(module: str) -> dict[str, str]:
    """Mutant -> what became of it."""
    told = json.loads((COPY / "mutants" / f"{module}.meta").read_text(encoding="utf-8"))
    return {name: status_by_exit_code[code] for name, code in told["exit_code_by_key"].items()}


def main() -> int:
    """Run, and tell; 1 where fewer than 90 % were noticed in a module."""
    shutil.rmtree(COPY / "tests", ignore_errors=True)
    COPY.mkdir(parents=True, exist_ok=True)
    copy_checkout(COPY)
    began = time.monotonic()
    mutmut = [sys.executable, "-m", "mutmut"]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "mutants"}
    log = COPY / "run.log"  # of spinners, mostly
    with log.open("wb") as out:
        argv = [*mutmut, "run", *sys.argv[1:]]
        done = subprocess.run(argv, cwd=COPY, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        print(f"error: mutmut stopped, see {log}:", log.read_text(encoding="utf-8")[-3000:], file=sys.stderr)
        return 1
    poor = False
    lived: list[str] = []
    print(f"{'module':<34}{'mutants':>8}{'killed':>8}{'timeout':>8}{'lived':>7}{'noticed':>9}")
    for module in MODULES:
        of = verdicts(module)
        count = Counter(of.values())
        alive = [name for name, verdict in of.items() if verdict in LIVED]
        lived += alive
        tried = len(of) - count["not checked"]
        noticed = 100 * (tried - len(alive)) / tried if tried else 100.0
        poor = poor or noticed < 90
        print(f"{module:<34}{tried:>8}{count['killed']:>8}{count['timeout']:>8}{len(alive):>7}{noticed:>8.1f} %")
    print(f"{time.monotonic() - began:.0f} s")
    for name in lived:
        print(subprocess.run([*mutmut, "show", name], cwd=COPY, capture_output=True, text=True, check=False).stdout)
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
