"""`make bench`: runs the benchmarks, prints a table, writes build/bench.json. Says what it ran on.

python -m bench [NAME ...]     tick, hooks, srun, cli; all of them without a name
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench import hooks

CHECKOUT = Path(__file__).parents[1]
HPCCARBON = Path(sys.executable).parent / "hpccarbon"


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


def run_tick() -> Iterator[Result]:
    """A tick against C, in a fresh interpreter, and its weight."""
    rounds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-m", "bench.tick"], cwd=CHECKOUT, check=True, capture_output=True, text=True
        )
        rounds.append(json.loads(done.stdout))
    best = min(rounds, key=lambda figures: figures["tick_us"] / figures["floor_us"])
    middle = statistics.median(figures["tick_us"] / figures["floor_us"] for figures in rounds)
    what = (
        f"128 job cgroups (v{best['cgroup']:.0f}) and 4 RAPL zones, all of them moving; 3 rounds of 1,000 ticks, median"
    )
    yield Result("tick / C floor", middle, "x", 2.5, what)
    yield Result("tick", best["tick_us"], "µs", None, f"the C program: {best['floor_us']:.0f} µs, taking turns with us")
    yield Result("daemon's core after 1,000 ticks", max(f["pss_mib"] for f in rounds), "MiB PSS", 25, "128 jobs")
    yield Result("foreign modules loaded", max(f["foreign"] for f in rounds), "", 0, "pyarrow, pandas, numpy, duckdb")


def run_hooks() -> Iterator[Result]:
    """Each hook alone."""
    for kind, took_ms in hooks.alone().items():
        yield Result(f"{kind}.sh", took_ms, "ms", 5, "200 runs as slurmd starts it, median")


def run_srun() -> Iterator[Result]:
    """`srun true` with and without hooks."""
    result = hooks.srun()
    if isinstance(result, str):
        print(f"left out: srun with and without hooks: {result}", file=sys.stderr)
        return
    with_ms, without_ms = result
    what = f"{with_ms:.0f} ms / {without_ms:.0f} ms, {hooks.RUNS} runs each, two clusters taking turns, daemons running"
    yield Result("srun true, hooks / no hooks", with_ms / without_ms, "x", 1.10, what)


def cpu_ms(argv: list[str], env: dict[str, str], runs: int = 15) -> float:
    """Median user + system CPU time of a command, ms."""
    took = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
    return statistics.median(took)


def run_cli() -> Iterator[Result]:
    """What a user waits for."""
    floor = cpu_ms([sys.executable, "-c", "pass"], {})
    what = f"15 runs, median of user+sys; python -c pass: {floor:.0f} ms"
    yield Result("hpccarbon --help", cpu_ms([str(HPCCARBON), "--help"], {}), "ms", 100, what)
    config = CHECKOUT / ".demo" / "hpccarbon.toml"
    if not config.exists():
        print("left out: report --job: run `make demo` first, it is measured on the demo's ledger", file=sys.stderr)
        return
    env = {"HPCCARBON_CONFIG": str(config)}
    yield Result(
        "report --job", cpu_ms([str(HPCCARBON), "report", "--job", "1"], env), "ms", 350, f"demo's ledger; {what}"
    )


BENCHMARKS: dict[str, Callable[[], Iterator[Result]]] = {
    "tick": run_tick,
    "hooks": run_hooks,
    "srun": run_srun,
    "cli": run_cli,
}


def machine() -> str:
    """What the figures were taken on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def main(names: list[str]) -> int:
    """Run, print, write; 1 when a bar is missed."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"error: no benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results = [result for name in names or BENCHMARKS for result in BENCHMARKS[name]()]
    print(f"{'':34}{'value':>10} {'unit':8}{'bar':>8}   what\n{'-' * 100}")
    for result in results:
        bar = "" if result.bar is None else f"{result.bar:g}"
        sign = "   " if result.bar is None else " ok" if result.ok else " !!"
        print(f"{result.name:34}{result.value:>10.2f} {result.unit:8}{bar:>8}{sign}  {result.what}")
    print(f"on {machine()}")
    build = CHECKOUT / "build"
    build.mkdir(exist_ok=True)
    (build / "bench.json").write_text(
        json.dumps([{**result._asdict(), "ok": result.ok, "ran_on": machine()} for result in results], indent=1) + "\n"
    )
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
