"""`make fuzz`: every target, mutated from a seed and led by coverage, each in a process of its own; prints a table.

    python -m tests.fuzz --inputs 100000 --seed 1 [--only shard] [--keep DIR]

Exit status 1, if anything crashed, hung, or gave a figure that is not true. The inputs that did lie in --keep.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tests.fuzz.table import TARGETS, Tally, judged, mutate_for, opened
from tests.fuzz.target import Target

HEADINGS = ("target", "led by", "inputs", "crashes", "hangs", "wrong totals", "slowest (CPU)")
_CHILD_S = 3600
Job = tuple[Target, str, int]
"""A target, what leads its inputs, and how many they are."""


def main() -> int:
    """Run all, print the table."""
    options = _options()
    if options.child:
        return _child(options)
    chosen = [target for name, target in TARGETS.items() if not options.only or name in options.only]
    weights = sum(target.weight for target in chosen)
    has_atheris = importlib.util.find_spec("atheris") is not None
    jobs: list[Job] = []
    for target in chosen:
        inputs = max(20, -(-options.inputs * target.weight // weights))
        ways = {"coverage": inputs // 2, "mutation": inputs - inputs // 2}
        if not (has_atheris and target.guided):
            ways = {"mutation": inputs}
        jobs += [(target, way, count) for way, count in ways.items()]
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as crew:
        tallies = list(crew.map(lambda job: _run(job, options.seed), jobs))
    _print(jobs, tallies)
    if not has_atheris:
        print("no atheris for this Python: every input was mutated from a seed, none was led by coverage")
    _report(jobs, tallies, options.keep)
    return 1 if any(tally.kept for tally in tallies) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(TARGETS))
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--child", nargs=2, metavar=("TARGET", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--last", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(job: Job, seed: int) -> Tally:
    """One target in a process of its own: what kills that process is a crash like any other."""
    target, way, inputs = job
    with tempfile.TemporaryDirectory(prefix="hpccarbon-fuzz-run-") as room:
        last = Path(room) / "last"
        words = ["--child", target.name, way, "--inputs", str(inputs), "--seed", str(seed), "--last", str(last)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *words], capture_output=True, timeout=_CHILD_S, check=False
        )
        lines = done.stdout.decode(errors="replace").splitlines()
        if done.returncode == 0 and lines:
            return msgspec.json.decode(lines[-1], type=Tally)
        said = done.stderr.decode(errors="replace")[-300:]
        data = last.read_bytes() if last.exists() else b""
        return Tally(crashes=1, kept={f"crash: the process ended with {done.returncode}: {said}": data})


def _child(options: argparse.Namespace) -> int:
    name, way = options.child
    target, last = TARGETS[name], options.last
    fd = os.open(last, os.O_RDWR | os.O_CREAT, 0o600)

    def note(data: bytes) -> None:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))

    if way == "mutation":
        tally = mutate_for(target, options.inputs, options.seed, note)
        print(msgspec.json.encode(tally).decode(), flush=True)
        return 0
    return _guided(target, options, note)


def _guided(target: Target, options: argparse.Namespace, note: Callable[[bytes], None]) -> int:
    """libFuzzer leads: what reaches code that no input reached before is kept and mutated on."""
    import atexit

    import atheris

    from tests.fuzz.mutate import TOKENS

    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="hpccarbon-corpus-") as corpus, opened(target) as check:
        for number, good in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(good)
        words = Path(corpus).with_suffix(".dict")
        words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS if 0 < len(token) < 64))

        def one(data: bytes) -> None:
            note(data)
            judged(check, data, tally)
            if tally.inputs >= options.inputs:
                print(msgspec.json.encode(tally).decode(), flush=True)
                os._exit(0)  # libFuzzer would go on

        arguments = ["fuzz", f"-seed={options.seed}", "-max_len=8192", "-timeout=60", "-rss_limit_mb=0", "-verbosity=0"]
        atheris.Setup([*arguments, f"-dict={words}", corpus], one)
        atexit.register(words.unlink)
        atheris.Fuzz()
    return 0


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _print(jobs: list[Job], tallies: list[Tally]) -> None:
    rows: list[tuple[str, ...]] = []
    for (target, way, _), tally in zip(jobs, tallies, strict=True):
        counts = (tally.crashes, tally.hangs, tally.wrong)
        rows.append((target.name, way, f"{tally.inputs:,}", *map(str, counts), f"{tally.slowest_s:.2f} s"))
    total = [sum(getattr(tally, name) for tally in tallies) for name in ("inputs", "crashes", "hangs", "wrong")]
    slowest_s = max(tally.slowest_s for tally in tallies)
    rows.append(("all", "", f"{total[0]:,}", *map(str, total[1:]), f"{slowest_s:.2f} s"))
    widths = [max(len(row[at]) for row in (HEADINGS, *rows)) for at in range(len(HEADINGS))]
    for row in (HEADINGS, *rows):
        cells = zip(row, widths, strict=True)
        padded = [word.ljust(width) if at < 2 else word.rjust(width) for at, (word, width) in enumerate(cells)]
        print("  ".join(padded).rstrip())


def _report(jobs: list[Job], tallies: list[Tally], keep: Path) -> None:
    """Name every finding, and keep the input that shows it."""
    for (target, _, _), tally in zip(jobs, tallies, strict=True):
        for title, data in tally.kept.items():
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"{target.name.replace(' ', '-')}-{abs(hash(data)) % 10**8}.bin"
            path.write_bytes(data)
            print(f"{target.name}: {title}\n    {path}: {json.dumps(base64.b64encode(data[:60]).decode())}")


if __name__ == "__main__":
    sys.exit(main())
