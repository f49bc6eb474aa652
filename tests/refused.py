"""System calls that fail in a real process: what a full disk, a server without locks or a mean kernel answers.

strace puts the error in the place of the call, so the program meets it where it would meet the real one.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


@functools.cache
def missing() -> str:
    """Why no call can be refused here; empty where one can be."""
    if shutil.which("strace") is None:
        return "no strace here"
    done = subprocess.run([*before("getppid", "EPERM"), "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


def before(calls: str, error: str, at: Path | None = None, when: str = "1+") -> list[str]:
    """What stands before a command whose `calls` (comma separated) shall fail; strace is no parent of it.

    Args:
        at: only calls on this file, by name or by descriptor.
        when: which of them, as strace counts: 1 is the first, 2+ all but the first.
    """
    where = [] if at is None else ["-P", str(at)]
    inject = f"inject={calls}:error={error}:when={when}"
    return ["strace", "-D", "-f", "-qq", "-o", "/dev/null", *where, "-e", f"trace={calls}", "-e", inject]


def run(
    argv: Sequence[str], calls: str, error: str, at: Path | None = None, when: str = "1+"
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the test is skipped where no call can be refused."""
    if missing():
        pytest.skip(missing())
    return subprocess.run([*before(calls, error, at, when), *argv], capture_output=True, text=True, timeout=60)
