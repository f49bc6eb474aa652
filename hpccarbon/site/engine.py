"""Opens the query engine (DuckDB, in memory, this process) the one way hpccarbon uses it. Knows no column."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory connection that fetches no extension, writes no temporary file and sees no Python variable.

    Args:
        threads: how many threads a query may use; None takes one per core.
    """
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "temp_directory": "",
        "python_enable_replacements": "false",
    }
    if threads is not None:
        settings["threads"] = threads
    connection = duckdb.connect(":memory:", config=settings)
    # A footer is read once, not once for its keys and once more for its rows: a quarter of the time on 2,000 shards.
    connection.execute("SET parquet_metadata_cache = true")
    return connection


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def reason(err: Exception) -> str:
    """The engine's message on one line, without the part that names its own internals."""
    message = str(err).strip().splitlines()[0]
    return message.removeprefix("Invalid Input Error: ").removeprefix("IO Error: ")[:200]


def durable(path: Path) -> None:
    """Wait until a file's or a directory's content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
