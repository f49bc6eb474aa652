"""`python -m tests.lab up|down|status|run`: the lab from a shell. Speech goes to stderr."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.lab.cluster import USERS, Lab
from tests.lab.processes import LabError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="a private Slurm cluster on this machine")
    parser.add_argument("--dir", type=Path, help="the lab's folder (default: $HPCCARBON_LAB, else .lab)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what does not run yet")
    up.add_argument("--gpus", action="store_true", default=None, help="the second node gets four GPUs")
    up.add_argument("--prefix", help="prefix of the nodes' names (default n)")
    commands.add_parser("down", help="end it and remove every trace")
    commands.add_parser("status", help="what runs")
    run = commands.add_parser("run", help="run a command in the lab")
    run.add_argument("--user", choices=sorted(USERS))
    run.add_argument("argv", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    lab = Lab(given.dir)
    try:
        if given.command == "run":
            return _run(lab, given.argv, given.user)
        start = time.monotonic()
        if given.command == "up":
            started = lab.up(gpus=given.gpus, prefix=given.prefix)
            word = "up" if started else "was up"
            print(f"lab {word} in {lab.dir} ({time.monotonic() - start:.1f} s)", file=sys.stderr)
        elif given.command == "down":
            lab.down()
            print(f"lab down ({time.monotonic() - start:.1f} s)", file=sys.stderr)
        else:
            for service, running in lab.status().items():
                print(f"{service:12} {running}")
            return 0 if lab.healthy() else 1
    except LabError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


def _run(lab: Lab, argv: list[str], user: str | None) -> int:
    """Become the command: its output, its status, its signals."""
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        print("error: run: no command given", file=sys.stderr)
        return 2
    if not lab.status():
        raise LabError(f"no lab in {lab.dir}; `python -m tests.lab up` starts one")
    command = lab.command(argv, user)
    os.chdir(lab.dir / "work" / (user or "root"))
    # Not the caller's environment: sbatch would hand all of it to the job.
    os.execve(command[0], command, {"TERM": os.environ.get("TERM", "dumb"), **lab.env(user)})


if __name__ == "__main__":
    sys.exit(main())
