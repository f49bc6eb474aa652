"""Runs that another tracker measured: a room beside the ledger. They never enter it: no meter here vouches for them.

One Parquet file per imported CSV file, named by the hash of its content: importing it again changes nothing.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from hpccarbon.errors import HpcCarbonError

_NEEDED = frozenset(("timestamp", "project_name", "run_id", "duration", "emissions", "energy_consumed"))
_NUMBERS = ("duration", "emissions", "energy_consumed", "cpu_energy", "gpu_energy", "ram_energy")


class Imported(NamedTuple):
    """What one import brought: how many runs, where they lie now, and whether they were there before."""

    runs: int
    path: Path
    known: bool


def take(source: Path, room: Path) -> Imported:
    """Read a tracker's CSV file into the room. All of its columns are kept, as text but for the figures.

    Raises: HpcCarbonError naming the file, the row and what is wrong with it; then nothing was written.
    """
    try:
        content = source.read_bytes()
        found = list(csv.DictReader(content.decode("utf-8").splitlines()))
    except OSError as err:
        raise HpcCarbonError(f"cannot read {source}: {err.strerror}") from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise HpcCarbonError(f"cannot read {source}: {err}") from err
    missing = _NEEDED - (found[0].keys() if found else set())
    if missing:
        raise HpcCarbonError(f"cannot import {source}: no rows with the columns {', '.join(sorted(missing))}")
    rows = [_checked(source, number, row) for number, row in enumerate(found, 2)]
    path = room / f"{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if path.exists():
        return Imported(len(rows), path, True)
    _write(path, rows, source.name)
    return Imported(len(rows), path, False)


def _checked(source: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise HpcCarbonError(f"cannot import {source}: line {number} has not as many fields as the header")
    for name in _NUMBERS:
        if name in row:
            try:
                row[name] = float(row[name] or 0)
            except ValueError:
                raise HpcCarbonError(f"cannot import {source}: line {number}: {name} is {row[name]!r}") from None
            if not 0 <= row[name] < 1e12:
                raise HpcCarbonError(f"cannot import {source}: line {number}: {name} is {row[name]:g}")
    return row


def _write(path: Path, rows: list[dict[str, Any]], origin: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows).replace_schema_metadata({"hpccarbon.kind": "imported", "hpccarbon.file": origin})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part, compression="zstd")
        part.rename(path)
    except OSError as err:
        with contextlib.suppress(OSError):  # what cannot be written below cannot be looked for either
            part.unlink()
        raise HpcCarbonError(f"cannot write {path}: {err.strerror or err} (paths.shared_dir must be writable)") from err


def rows(room: Path, project: str | None = None) -> list[dict[str, Any]]:
    """The imported runs, of one project or of all. Raises: HpcCarbonError naming a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for path in sorted(room.glob("*.parquet")):
        try:
            table = pq.ParquetFile(path).read()
        except (OSError, pa.ArrowException) as err:
            raise HpcCarbonError(f"cannot use {path}: {err}") from err
        found += [row for row in table.to_pylist() if project is None or row["project_name"] == project]
    return found
