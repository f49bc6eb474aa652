"""Opens the query engine (DuckDB, in memory, this process) the one way hpccarbon uses it. Knows no column."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpccarbon.schema import PRODUCED_BY

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory connection that fetches no extension, writes no temporary file and sees no Python variable.

    Args:
        threads: how many threads a query may use; None takes one per core.
    """
    from hpccarbon.duck import SETTINGS, duckdb

    settings = SETTINGS if threads is None else {**SETTINGS, "threads": threads}
    connection = duckdb.connect(":memory:", config=settings)
    # A footer is read once, not once for its keys and once more for its rows: a quarter of the time on 2,000 shards.
    connection.execute("SET parquet_metadata_cache = true")
    return connection


class OnDemand:
    """A connection that is opened when it is first called for, and closed with the block: opening one takes 20 ms."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __call__(self) -> duckdb.DuckDBPyConnection:
        """The connection."""
        if self._connection is None:
            self._connection = connect(self._threads)
        return self._connection

    def __enter__(self) -> OnDemand:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def reason(err: Exception) -> str:
    """The engine's message on one line, without the part that names its own internals."""
    message = str(err).strip().splitlines()[0]
    return message.removeprefix("Invalid Input Error: ").removeprefix("IO Error: ")[:200]


def arrow(con: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's rows as an Arrow table. Needs pyarrow. Raises: duckdb.Error."""
    import duckdb  # the whole package: its compiled half (hpccarbon/duck.py) hands out no tables

    rows: Any = duckdb.sql(query, connection=con)
    table: pa.Table = rows.to_arrow_table()
    return table


def write_parquet(
    con: duckdb.DuckDBPyConnection, query: str, target: Path, keys: Mapping[str, str], row_group_rows: int
) -> None:
    """Write a query's rows beside `target`, make them durable, rename them over it; its directory is made if need be.

    Args:
        query: SQL that ends in an ORDER BY over all that differs: then the same rows are the same bytes.
        keys: the file's metadata, without the prefix.

    Raises: duckdb.Error, OSError; then `target` is as it was.
    """
    pairs = ", ".join(f"{quoted(f'{PRODUCED_BY}.{key}')}: {quoted(value)}" for key, value in keys.items())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with _whole_groups(con):
            con.execute(
                f"COPY ({query}) TO {quoted(str(temporary))} (FORMAT parquet, COMPRESSION zstd,"
                f" ROW_GROUP_SIZE {row_group_rows}, KV_METADATA {{{pairs}}})"
            )
        durable(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    durable(target.parent)


@contextlib.contextmanager
def _whole_groups(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One thread for the time of a writing: with more of them DuckDB before 2 joins a small last row group to the one
    before it, and the same rows would be other bytes."""
    from hpccarbon.duck import duckdb

    if int(duckdb.__version__.partition(".")[0]) >= 2:
        yield
        return
    ((before,),) = con.execute("SELECT current_setting('threads')").fetchall()
    con.execute("SET threads = 1")
    try:
        yield
    finally:
        con.execute(f"SET threads = {int(before)}")


def durable(path: Path) -> None:
    """Wait until a file's or a directory's content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
