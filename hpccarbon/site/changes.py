"""Tells whether anything that a month's figures are made from has changed, from names, sizes and times alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path


def months(shared: Path, cluster: str) -> list[str]:
    """The months (YYYY-MM, of UTC days) that have shards or a ledger, in order."""
    days = {
        name for room in ("ledger", "shards") for name in _names(shared / room / cluster) if name.startswith("date=")
    }
    return sorted({day[5:12] for day in days})


def fingerprint(shared: Path, cluster: str, month: str) -> str:
    """Stands for all files that the figures of a month (YYYY-MM) are made from; another one once any has changed.

    A day before and one after are part of it, because the reader's months do not begin with the UTC ones.
    """
    first = date.fromisoformat(f"{month}-01") - timedelta(days=1)
    digest = hashlib.sha256()
    for number in range(33):
        day = f"date={first + timedelta(days=number):%Y-%m-%d}"
        for room in ("ledger", "shards"):
            for line in _look(shared / room / cluster / day):
                digest.update(f"{room}/{day}/{line}\n".encode())
    for line in _look(shared / "jobs" / cluster):
        # A job's record lies in the month of its submission, which may be long ago.
        digest.update(f"jobs/{line}\n".encode())
    for folder, _, files in sorted(os.walk(shared / "intensity")):
        for name in sorted(files):
            digest.update(f"{folder}/{name} {_stamp(Path(folder) / name)}\n".encode())
    return digest.hexdigest()


def _look(folder: Path) -> Iterator[str]:
    """A directory's files and directories with their times: a shard that is replaced changes its directory's."""
    for name in _names(folder):
        if not name.startswith("."):
            yield f"{name} {_stamp(folder / name)}"


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except FileNotFoundError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
