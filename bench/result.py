"""One figure of a benchmark, and CPU time and memory of a child process. Runs nothing of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple


class Result(NamedTuple):
    """One figure: `bar` is the most it may be (None: told, not judged)."""

    name: str
    value: float
    unit: str
    bar: float | None
    what: str

    @property
    def ok(self) -> bool:
        """Whether the bar holds."""
        return self.bar is None or self.value <= self.bar


class Cost(NamedTuple):
    """What a command took."""

    cpu_ms: float
    wall_ms: float
    peak_mib: float
    out: str


def cost(argv: list[str], env: dict[str, str] | None = None) -> Cost:
    """Run a command in a process of its own and measure it alone. Raises: CalledProcessError.

    It may keep compiled modules, as every installation by pip has them, whatever this shell forbids: without them half
    of a report's time went into compiling hpccarbon.
    """
    code = (
        "import json, resource, subprocess, sys, time; t = time.perf_counter();"
        " done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True);"
        " wall = time.perf_counter() - t; r = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " sys.stdout.buffer.write(done.stdout);"
        " print(json.dumps([(r.ru_utime + r.ru_stime) * 1e3, wall * 1e3, r.ru_maxrss / 1024]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | (env or {}),
        check=True,
        capture_output=True,
        text=True,
    )
    cpu_ms, wall_ms, peak_mib = map(float, done.stderr.strip().splitlines()[-1].strip("[]").split(","))
    return Cost(cpu_ms, wall_ms, peak_mib, done.stdout)
