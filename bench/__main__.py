"""`make bench`: runs the benchmarks, prints a table, writes build/bench.json. Says what it ran on.

python -m bench [NAME ...]     tick, hooks, srun, cli, submit, summary, carbon, hour, known; all of them without a name
                               by name alone, for they take minutes: advise, day, dask, big, year
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from bench import grid, hooks, month, scale, submit
from bench.result import Result, cost

CHECKOUT = Path(__file__).parents[1]
HPCCARBON = Path(sys.executable).parent / "hpccarbon"


def run_tick() -> Iterator[Result]:
    """A tick against C, in a fresh interpreter, and its weight."""
    rounds = _tick_rounds()
    best = min(rounds, key=lambda figures: figures["tick_us"] / figures["floor_us"])
    middle = statistics.median(figures["tick_us"] / figures["floor_us"] for figures in rounds)
    what = (
        f"128 job cgroups (v{best['cgroup']:.0f}) and 4 RAPL zones, all of them moving; 3 rounds of 1,000 ticks, median"
    )
    yield Result("tick / C floor", middle, "x", 2.5, what)
    yield Result("tick", best["tick_us"], "µs", None, f"the C program: {best['floor_us']:.0f} µs, taking turns with us")
    yield Result("daemon's core after 1,000 ticks", max(f["pss_mib"] for f in rounds), "MiB PSS", 25, "128 jobs")
    yield Result("foreign modules loaded", max(f["foreign"] for f in rounds), "", 0, "pyarrow, pandas, numpy, duckdb")
    rounds = _tick_rounds("gpus")
    middle = statistics.median(f["tick_us"] / (2.5 * f["floor_us"] + f["nvml_us"]) for f in rounds)
    bare = statistics.median(f["tick_us"] / f["floor_us"] for f in rounds)
    figures = min(rounds, key=lambda f: f["tick_us"])
    what = (
        f"8 zones, 128 jobs: {figures['tick_us']:.0f} µs, with asking the GPUs' drivers 20 ms before; C without GPUs"
        f" {figures['floor_us']:.0f} µs ({bare:.2f} times), asking 8 GPUs {figures['nvml_us']:.0f} µs"
    )
    yield Result("tick with 8 GPUs / (2.5 x C floor + NVML)", middle, "x", 1.0, what)


def _tick_rounds(*options: str) -> list[dict[str, float]]:
    """Three rounds of `bench.tick`, each in a fresh interpreter."""
    argv = [sys.executable, "-m", "bench.tick", *options]
    done = [subprocess.run(argv, cwd=CHECKOUT, check=True, capture_output=True, text=True) for _ in range(3)]
    return [json.loads(one.stdout) for one in done]


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


def run_summary() -> Iterator[Result]:
    """A month of a large site: the page and its data, then publishing it twice."""
    with tempfile.TemporaryDirectory() as folder:
        config = str(month.build(Path(folder) / "shared"))
        what = f"{month.JOBS:,} jobs of {month.USERS} users on {month.NODES} nodes; page, CSV, Parquet, JSON"
        took = waited(["summary", "--month", f"{month.FIRST:%Y-%m}", "-o", folder, "--config", config])
        yield Result("summary of a month", took.clock_s, "s", 10, f"{what}; {took.cpu_s:.1f} s of CPU time")
        yield Result("summary's memory", took.peak_mib, "MiB", 1024, "largest resident size")
        page = Path(folder) / f"summary-{month.FIRST:%Y-%m}.html"
        yield Result("the month's page", page.stat().st_size / 1e6, "MB", 3, f"{month.USERS} users")
        publish = ["publish", "--quiet", "-o", f"{folder}/web", "--config", config]
        first, again = waited(publish), waited(publish)
        yield Result("publish, nothing new", again.clock_s, "s", 1, f"the first time: {first.clock_s:.1f} s")


LOOKUP = (
    "import hpccarbon.config as c, datetime as d, time; z=c.Carbon(zone='DE');"
    "h=d.datetime(2025,1,1,tzinfo=d.timezone.utc); t=time.process_time();"
    "from hpccarbon.carbon.footprint import Factors; f=Factors(z); f.mapping([h]); f.describe({h:1});"
    "print(time.process_time()-t)"
)


def run_carbon() -> Iterator[Result]:
    """One factor, and the same month by user with a constant and with an intensity for each hour."""
    took = [float(cost([sys.executable, "-c", LOOKUP]).out) * 1e3 for _ in range(15)]
    yield Result("the year's factor of a zone", statistics.median(took), "ms", 15, "import and look-up, median of 15")
    with tempfile.TemporaryDirectory() as folder:
        hourly = month.build(Path(folder) / "shared")
        text = hourly.read_text()
        constant = Path(folder) / "constant.toml"
        constant.write_text(text.replace("[carbon]", '[carbon]\nfixed_g_per_kwh = 300.0\nfixed_source = "plant"'))
        starts = [month.FIRST + timedelta(hours=number) for number in range(month.HOURS)]
        give_hours(Path(folder), hourly, [(at, 200 + number % 97) for number, at in enumerate(starts)])
        report = ["report", "--by", "user", "--month", f"{month.FIRST:%Y-%m}", "--config"]
        rounds = [(waited([*report, str(constant)]), waited([*report, str(hourly)])) for _ in range(3)]
        best = min(took.clock_s for _, took in rounds)
        ratio = statistics.median(its.cpu_s / constants.cpu_s for constants, its in rounds)
        what = f"{month.JOBS:,} jobs, {month.HOURS} hours, by user; 3 rounds"
        yield Result("report of a month, hourly intensity", best, "s", 3, f"{what}, the quickest")
        yield Result("hourly / constant intensity", ratio, "x", 1.5, f"{what}, median of CPU time")


def give_hours(folder: Path, config: Path, values: Iterable[tuple[datetime, float]]) -> None:
    """Import an intensity for each of these hours."""
    hours = folder / "hours.csv"
    lines = [f"{at:%Y-%m-%dT%H:%M:%SZ},DE,{g_per_kwh}" for at, g_per_kwh in values]
    hours.write_text("\n".join(["start,zone,intensity_gco2e_per_kwh", *lines]) + "\n")
    waited(["intensity", "import", str(hours), "--basis", "lifecycle", "--source", "bench", "--config", str(config)])


def run_advise() -> Iterator[Result]:
    """The same month of jobs begun again, alone and on the nodes there are, in the hours of Germany's October 2019."""
    with tempfile.TemporaryDirectory() as folder:
        config = month.build(Path(folder) / "shared", records=True)
        since_then = timedelta(days=(month.FIRST - month.FIRST.replace(year=2019)).days)
        give_hours(
            Path(folder),
            config,
            [(at + since_then, g) for at, g in grid.hours("DE").items() if at.month in (9, 10, 11)],
        )
        asked = ["advise", "--month", f"{month.FIRST:%Y-%m}", "--config", str(config)]
        everybody = ",".join(f"account{number:02d}" for number in range(month.ACCOUNTS))
        alone = waited([*asked, "--account", everybody])
        crowd = waited([*asked, "--capacity"])
        mine = waited([*asked, "--user", "user250"])
        what = f"{month.JOBS:,} jobs, {month.HOURS} hours, four longest waits"
        yield Result("advise, everybody", alone.cpu_s, "s CPU", 45, f"{what}; {alone.clock_s:.1f} s on the clock")
        yield Result("advise --capacity", crowd.cpu_s, "s CPU", 60, f"on {month.NODES} nodes; {crowd.clock_s:.1f} s")
        yield Result("advise, one user", mine.cpu_s, "s CPU", 10, f"of {month.USERS}; {mine.clock_s:.1f} s")
        yield Result("advise's memory", max(alone.peak_mib, crowd.peak_mib), "MiB", 3072, "largest resident size")


class Waited(NamedTuple):
    """What a command took: on the clock, of all cores, of memory."""

    clock_s: float
    cpu_s: float
    peak_mib: float


def waited(args: list[str]) -> Waited:
    """Run a command of ours to its end."""
    begin = time.monotonic()
    with subprocess.Popen([str(HPCCARBON), *args], stdout=subprocess.DEVNULL) as running:
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, args
    return Waited(time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def run_tracker() -> Iterator[Result]:
    """The tracker beside CodeCarbon; not among those that run without a name: it installs CodeCarbon."""
    from bench import tracker

    for one in tracker.figures():
        what = f"CodeCarbon {tracker.VERSION}: {one.theirs:.1f} {one.unit}, in turns"
        yield Result(f"tracker: {one.name}", one.ours, one.unit, one.bar, what)


BENCHMARKS: dict[str, Callable[[], Iterator[Result]]] = {
    "tick": run_tick,
    "hooks": run_hooks,
    "srun": run_srun,
    "cli": run_cli,
    "submit": submit.run,
    "summary": run_summary,
    "carbon": run_carbon,
    "advise": run_advise,
    "tracker": run_tracker,
    **scale.BENCHMARKS,
}
SLOW = (scale.BENCHMARKS.keys() - set(scale.QUICK)) | {"tracker", "advise"}
"""Those that run by name alone."""


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
    cpus = f"{model}, {os.cpu_count()} CPUs (load {os.getloadavg()[0]:.1f})"
    return f"{cpus}, Linux {platform.release()}, Python {platform.python_version()}"


def main(names: list[str]) -> int:
    """Run, print, write; 1 when a bar is missed."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"error: no benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    chosen = names or [name for name in BENCHMARKS if name not in SLOW]
    results = [result for name in chosen for result in BENCHMARKS[name]()]
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
