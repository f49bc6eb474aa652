"""Notes what users' last jobs of each name used, out of the ledger (read in site/habits.py). Guesses nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from hpccarbon import schema
from hpccarbon.config import Config
from hpccarbon.errors import ShardError
from hpccarbon.site import extracts
from hpccarbon.site.engine import durable, quoted
from hpccarbon.site.habits import VERSION, Habits, Partitions, Past, Typical, partitions
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.lock import exclusive
from hpccarbon.site.weigh import ENERGY

if TYPE_CHECKING:
    import duckdb

WINDOW = timedelta(days=60)
LAST_JOBS = 12
"""Per user and name: enough for a median and a range."""
LAST_NAMES = 200
"""Per user: names with a date or a number in them never come back."""
FEWEST = 10
"""Jobs, and users a third of that where they see their own alone, before a partition's figures are told."""
_REST_FACTOR = 20
"""How many times as long as it took to write them the habits are left alone: at most a twentieth of the work."""

# One run each: what a requeued job used in its earlier runs is no habit. Jobs that failed early are none either.
_PAST = f"""
CREATE OR REPLACE TEMP TABLE past AS
WITH ended AS (
    SELECT job_id, any_value(uid) AS uid, any_value(name) AS name, any_value("partition") AS "partition",
        any_value("end") AS ended, any_value(elapsed_s) AS elapsed_s, any_value(alloc_cores) AS cores,
        any_value(coalesce(regexp_extract(alloc_tres, {quoted(schema.GPUS_IN_TRES)}, 1), '')) AS gpus
    FROM read_parquet($files, hive_partitioning = false)
    WHERE "end" IS NOT NULL AND submit >= to_timestamp($since)
    GROUP BY job_id HAVING count(*) = 1 AND any_value(state) IN ('COMPLETED', 'TIMEOUT')
), last AS (
    SELECT * FROM ended WHERE uid IS NOT NULL AND name IS NOT NULL AND elapsed_s >= 1 AND cores >= 1
    QUALIFY row_number() OVER (PARTITION BY uid, name ORDER BY ended DESC, job_id DESC) <= $jobs
), used AS (
    SELECT job_id, sum({ENERGY}) AS energy_uj
    FROM selected SEMI JOIN last USING (job_id) GROUP BY job_id
    HAVING sum(covered_ms) >= 0.9 * sum(present_ms)
)
SELECT uid, name, "partition", epoch(ended)::BIGINT AS ended_s, elapsed_s, cores,
    coalesce(try_cast(gpus AS INTEGER), 0) AS gpus, energy_uj::BIGINT AS energy_uj
FROM (SELECT *, max(ended) OVER (PARTITION BY uid, name) AS newest FROM last JOIN used USING (job_id))
WHERE energy_uj > 0 QUALIFY dense_rank() OVER (PARTITION BY uid ORDER BY newest DESC, name) <= $names
"""  # noqa: S608 - column names are our own
_USERS = """
SELECT uid, name, "partition", ended_s, elapsed_s, cores, gpus, energy_uj FROM past ORDER BY uid, ended_s DESC, name
"""
_TYPICAL = """
SELECT CASE WHEN grouping("partition") = 1 THEN '' ELSE "partition" END, count(*), {quantiles} FROM (
    SELECT uid, "partition", energy_uj / 1e6 / elapsed_s / {held} AS power_w FROM past
    WHERE {which} AND "partition" IS NOT NULL
) GROUP BY GROUPING SETS (("partition"), ())
HAVING count(*) >= {fewest} AND count(DISTINCT uid) >= {users}
"""
_QUANTILES = ", ".join(f"quantile_cont(power_w, {part})" for part in (0.1, 0.5, 0.9))


def update(config: Config, ledger: Ledger, now: datetime) -> int:
    """Write the habits anew, if they are due; returns of how many users.

    Args:
        ledger: the whole one.
        now: aware.

    Raises: HpcCarbonError, if another process is at it, or a file cannot be read or written.
    """
    room = config.shared("habits") / config.cluster
    made = partitions(config)
    if made is not None and 0 <= now.timestamp() - made.made_s < _REST_FACTOR * made.took_s:
        return 0
    files = ledger.job_files()
    if not files:
        return 0
    fewest_users = FEWEST // 3 if config.privacy == "own" else 1
    begun = time.monotonic()
    since = now - WINDOW
    values = {"files": files, "since": since.timestamp(), "jobs": LAST_JOBS, "names": LAST_NAMES}

    def question(
        con: duckdb.DuckDBPyConnection, hours: list[datetime]
    ) -> tuple[dict[int, Habits], dict[str, Typical], dict[str, Typical]]:
        con.execute(_PAST, values)
        return _of_users(con), _typical(con, "cores", fewest_users), _typical(con, "gpus", fewest_users)

    answer = ledger.ask(Selection(holders=("job",), since=since), question)
    if answer is None:
        return 0
    users, per_core, per_gpu = answer
    try:
        with exclusive(room / ".lock"):
            for folder in (room.parent, room):
                folder.chmod(0o755)
            _hand_out(config, room, {uid: msgspec.json.encode(habits) for uid, habits in users.items()})
            known = Partitions(VERSION, now.timestamp(), time.monotonic() - begun, per_core, per_gpu)
            _write(room / "partitions.json", msgspec.json.encode(known))
    except OSError as err:
        raise ShardError(room, f"{err.strerror} (may this user write there?)") from err
    return len(users)


def _hand_out(config: Config, room: Path, files: Mapping[int, bytes]) -> None:
    """Each user's habits, where nobody else can read them if the site wants it so."""
    if config.privacy == "group":
        for uid, text in files.items():
            _write(room / f"{uid}.json", text)
        return
    extracts.give(config, files, "habits.json")
    for open_to_all in room.glob("[0-9]*.json"):  # from before the site chose so
        open_to_all.unlink()


def _of_users(con: duckdb.DuckDBPyConnection) -> dict[int, Habits]:
    found: dict[int, Habits] = {}
    for uid, *facts in con.execute(_USERS).fetchall():
        found.setdefault(uid, Habits(VERSION, [])).jobs.append(Past(*facts))
    return found


def _typical(con: duckdb.DuckDBPyConnection, held: Literal["cores", "gpus"], users: int) -> dict[str, Typical]:
    which = "gpus = 0" if held == "cores" else "gpus > 0"
    sql = _TYPICAL.format(quantiles=_QUANTILES, held=held, which=which, fewest=FEWEST, users=users)
    rows = con.execute(sql).fetchall()
    return {name: Typical(*figures) for name, *figures in rows}


def _write(path: Path, text: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(text)
    temporary.chmod(0o644)
    durable(temporary)
    temporary.replace(path)
