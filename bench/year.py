"""A year of a large site, written straight into the packed ledger with its job records: what single questions cost.

python -m bench.year DIR [JOBS_PER_DAY]     365 days from 2026-01-01, 33,000 jobs each: 12 million
"""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb

from hpccarbon import schema
from hpccarbon.site import days, index, jobs
from hpccarbon.site.engine import connect, write_parquet
from hpccarbon.units import HOUR_S

CLUSTER = "year"
FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)
DAYS, NODES, USERS = 365, 1_000, 400
CONFIG = """
cluster = "year"
[paths]
shared_dir = "{shared}"
[slurm]
accounting = "none"
[carbon]
zone = "DE"
"""
# A job is a function of its number: three hours at most, on one to eight nodes, one of four in the hour it starts in.
_JOBS = """
SELECT n AS job_id, {first} + 86400 * (n // {per_day}) + 3600 * (hash(n, 1) % 24) AS start_s,
    1 + least(hash(n, 2) % 4, hash(n, 3) % 3)::INT AS hours, greatest(1, 8 >> (hash(n, 4) % 8)::INT) AS width,
    (hash(n, 5) % {nodes})::INT AS node_n, least(hash(n, 6) % {users}, hash(n, 7) % {users})::INT AS user_n
FROM range({begin}, {end}) _(n)
"""


def _jobs(per_day: int, begin: int, end: int) -> str:
    values = {"first": int(FIRST.timestamp()), "nodes": NODES, "users": USERS}
    return _JOBS.format(per_day=per_day, begin=begin, end=end, **values)


def _rows(per_day: int, day: int) -> str:
    """The ledger rows of a day: of the jobs that began on it, or on the day before."""
    begin_s = int(FIRST.timestamp()) + 86400 * day
    energy = "(1 + hash(job_id, node_n, hour_s, 8) % 900000000)::BIGINT"
    known = {
        "hour": "to_timestamp(hour_s)",
        "node": "'node' || lpad(((node_n + place) % 1000)::VARCHAR, 4, '0')",
        "holder": "'job'",
        "job_id": "job_id",
        "run": "'0.b00t.' || job_id",
        "uid": "1000 + user_n",
        '"user"': "'user' || lpad(user_n::VARCHAR, 3, '0')",
        "account": "'account' || user_n % 40",
        '"partition"': "'batch'",
        "cpu_uj": energy,
        "dram_uj": f"{energy} // 10 + hash(job_id, hour_s, 9) % 1000000",
        "idle_uj": f"{energy} // 3",
        "modelled_uj": "0",
        "cpu_time_us": "(hash(job_id, node_n, hour_s, 10) % 230400000000)::BIGINT",
        "present_ms": "3600000",
        "covered_ms": "3600000",
        "alloc_cores": "64",
        "first_bucket": "to_timestamp(hour_s)",
        "last_bucket": "to_timestamp(hour_s + 3540)",
    }
    columns = ", ".join(f"{value} AS {name}" for name, value in known.items())
    missing = {f'"{column.name}"' for column in schema.LEDGER} - {f'"{name.strip(chr(34))}"' for name in known}
    nulls = "".join(f", NULL AS {name}" for name in sorted(missing))
    begun = _jobs(per_day, max(0, day - 1) * per_day, (day + 1) * per_day)
    spread = (
        "SELECT *, start_s + 3600 * unnest(range(hours)) AS hour_s FROM"
        f" (SELECT *, unnest(range(width)) AS place FROM ({begun}))"
    )
    return f"(SELECT {columns}{nulls} FROM ({spread}) WHERE hour_s >= {begin_s} AND hour_s < {begin_s + 86400})"


def _entries(con: duckdb.DuckDBPyConnection, source: str) -> dict[datetime, index.HourEntry]:
    sql = f"SELECT epoch_us(hour) // 1000000, count(*), min(job_id), max(job_id) FROM {source} GROUP BY 1 ORDER BY 1"
    return {
        index.hour_of(hour_s): index.HourEntry(hour_s, 0, 0, "bench", NODES, 0, rows, low, high, (), True)
        for hour_s, rows, low, high in con.execute(sql).fetchall()
    }


def build(shared: Path, per_day: int = 33_000) -> Path:
    """Write the year below `shared`; returns the configuration file beside it."""
    with contextlib.closing(connect()) as con:
        for number in range(DAYS):
            day = FIRST + timedelta(days=number)
            con.execute(f"CREATE OR REPLACE TEMP TABLE made AS FROM {_rows(per_day, number)}")
            days.write_day(con, "made", index.day_path(shared, CLUSTER, day), CLUSTER, day, _entries(con, "made"))
        for month in range(1, 13):
            _records(con, shared, per_day, month)
        index.write(shared, CLUSTER, index.known(lambda: con, shared, CLUSTER)[0])
    jobs.write_cursor(shared, CLUSTER, FIRST + timedelta(days=DAYS))
    config = shared.parent / "year.toml"
    config.write_text(CONFIG.format(shared=shared))
    return config


def _records(con: duckdb.DuckDBPyConnection, shared: Path, per_day: int, month: int) -> None:
    first = FIRST.replace(month=month)
    following = first.replace(year=first.year + month // 12, month=month % 12 + 1)
    begin, end = (max(0, (moment - FIRST).days) * per_day for moment in (first, following))
    known = {
        "job_id": "job_id",
        "restart": "0",
        "name": "'job ' || job_id % 5000",
        '"user"': "'user' || lpad(user_n::VARCHAR, 3, '0')",
        "uid": "1000 + user_n",
        "account": "'account' || user_n % 40",
        '"partition"': "'batch'",
        "qos": "'normal'",
        "state": "'COMPLETED'",
        "exit_code": "'0:0'",
        "submit": "to_timestamp(start_s - 60)",
        "start": "to_timestamp(start_s)",
        '"end"': f"to_timestamp(start_s + {HOUR_S} * hours)",
        "elapsed_s": f"{HOUR_S} * hours",
        "alloc_nodes": "width",
        "alloc_cores": "64 * width",
    }
    types = {"int64": "BIGINT", "int32": "INTEGER", "word": "VARCHAR", "text": "VARCHAR", "second": "TIMESTAMPTZ"}
    columns = []
    for column in schema.JOBS:
        quoted = f'"{column.name}"' if f'"{column.name}"' in known else column.name
        columns.append(f'({known.get(quoted, "NULL")})::{types[column.type]} AS "{column.name}"')
    path = shared / "jobs" / CLUSTER / f"month={first:%Y-%m}.parquet"
    keys = {"schema": "jobs", "version": str(schema.JOBS_VERSION), "cluster": CLUSTER}
    query = f"SELECT {', '.join(columns)} FROM ({_jobs(per_day, begin, end)}) ORDER BY job_id, restart"
    write_parquet(con, query, path, keys, jobs.ROW_GROUP_ROWS)
    jobs.note_bounds(con, path)


if __name__ == "__main__":
    print(build(Path(sys.argv[1]).resolve() / "shared", *map(int, sys.argv[2:3])))
