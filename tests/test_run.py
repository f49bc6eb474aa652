"""`hpccarbon run` as a user runs it: a real process around a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BURN = "end = __import__('time').process_time() + {seconds}\nwhile __import__('time').process_time() < end: pass"


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hpccarbon", "run", *argv], capture_output=True, text=True, timeout=60)


def test_output_and_exit_code_are_the_commands_own() -> None:
    done = run("--", sys.executable, "-c", "print('hello'); raise SystemExit(3)")
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert "Energy" in done.stderr
    assert "exit code 3" in done.stderr


def test_energy_follows_cpu_time(tmp_path: Path) -> None:
    found = {}
    for seconds in (0.2, 0.8):
        out = tmp_path / f"{seconds}.json"
        done = run("-f", "json", "-o", str(out), "--", sys.executable, "-c", BURN.format(seconds=seconds))
        assert done.returncode == 0, done.stderr
        found[seconds] = json.loads(out.read_text())
    short, long = found[0.2], found[0.8]
    assert long["share"]["cpu_time_ns"] > 2 * short["share"]["cpu_time_ns"] > 0
    energy = [(one["share"]["cpu_uj"] or 0) - one["share"]["idle_uj"] for one in (short, long)]
    assert energy[1] > 2 * energy[0] > 0
    for one in (short, long):
        assert 0 < one["share"]["cpu_uj"] <= one["machine"]["cpu_uj"]


def test_a_zone_gives_grams_and_their_source() -> None:
    done = run("--zone", "DE", "--", sys.executable, "-c", BURN.format(seconds=0.2))
    assert "g/kWh in DE" in done.stderr
    assert "PUE unknown, taken as 1.0" in done.stderr
    assert "give --zone" in run("--", "true").stderr


def test_what_cannot_be_started_or_found_is_named() -> None:
    done = run("--", "/no/such/program")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: cannot run /no/such/program: No such file or directory"
    unknown = run("--zone", "DEE", "--", "true")
    assert "unknown zone" in unknown.stderr or "unknown grid zone" in unknown.stderr
