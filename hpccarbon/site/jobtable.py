"""One row per job as an Arrow table: what it used, and what accounting knows of it. The engine makes it, not Python.

A job that accounting alone knows has a row, too: no energy, and a coverage of 0.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import schema
from hpccarbon.site.engine import arrow, quoted
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.unseen import lacks
from hpccarbon.site.weigh import SCALE, Factors, weigh
from hpccarbon.units import UJ_PER_KWH

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_SUMS = ("cpu_uj", "dram_uj", "gpu_uj", "other_uj", "idle_uj", "modelled_uj", "cpu_time_us", "present_ms", "covered_ms")
_METERED = " OR ".join(f"{name} IS NOT NULL" for name in schema.ENERGY_COLUMNS)
"""Rows of which any energy is known: what nobody measured is null, and not 0 kWh."""
_USED = f"""
SELECT job_id, max(cluster) AS cluster, max("user") AS "user", max(account) AS account,
    max("partition") AS "partition", max(uid) AS uid,
    {", ".join(f"sum({name})::BIGINT AS {name}" for name in _SUMS)},
    (sum(energy_uj) FILTER ({_METERED}))::BIGINT AS energy_uj,
    (sum(alloc_cores::HUGEINT * present_ms) * 1000)::BIGINT AS core_us, count(DISTINCT node)::INTEGER AS nodes,
    CASE WHEN count(*) FILTER (scaled IS NULL AND energy_uj > 0) = 0 AND count(*) FILTER ({_METERED}) > 0
        THEN sum(energy_uj::HUGEINT * scaled) / {SCALE * UJ_PER_KWH}::DOUBLE END AS co2e_g
FROM weighed GROUP BY job_id
"""  # noqa: S608 - column names are our own
_RECORDS = """
SELECT * FROM read_parquet({files}, hive_partitioning = false)
QUALIFY row_number() OVER (PARTITION BY job_id ORDER BY restart DESC, submit DESC) = 1
"""
_NO_RECORDS = """
SELECT NULL::BIGINT AS job_id, NULL::INTEGER AS restart, NULL::BIGINT AS array_job_id, NULL::BIGINT AS array_task_id,
    NULL::BIGINT AS het_job_id, NULL::INTEGER AS het_offset, NULL::VARCHAR AS name, NULL::VARCHAR AS "user",
    NULL::BIGINT AS uid, NULL::VARCHAR AS account, NULL::VARCHAR AS "partition", NULL::VARCHAR AS qos,
    NULL::VARCHAR AS state, NULL::VARCHAR AS exit_code, NULL::TIMESTAMPTZ AS submit, NULL::TIMESTAMPTZ AS start,
    NULL::TIMESTAMPTZ AS "end", NULL::BIGINT AS elapsed_s, NULL::INTEGER AS alloc_nodes,
    NULL::INTEGER AS alloc_cores, NULL::VARCHAR AS alloc_tres, NULL::VARCHAR AS nodelist WHERE false
"""
_LACKS = """
SELECT job_id, max(cluster) AS cluster, sum(lack_ms) AS lack_ms FROM lacks GROUP BY job_id
"""
_NO_LACKS = "SELECT NULL::BIGINT AS job_id, NULL::VARCHAR AS cluster, NULL::BIGINT AS lack_ms WHERE false"
_JOBS = """
SELECT coalesce(used.cluster, lacking.cluster) AS cluster,
    CASE WHEN known.array_task_id IS NOT NULL THEN known.array_job_id || '_' || known.array_task_id
        WHEN known.het_offset IS NOT NULL THEN known.het_job_id || '+' || known.het_offset
        ELSE job_id::VARCHAR END AS job,
    job_id, known.name, coalesce(known."user", used."user") AS "user", coalesce(known.uid, used.uid) AS uid,
    coalesce(known.account, used.account) AS account, coalesce(known."partition", used."partition") AS "partition",
    known.qos, known.restart, known.state, known.exit_code, known.submit, known.start, known."end", known.elapsed_s,
    coalesce(known.alloc_nodes, used.nodes) AS alloc_nodes, known.alloc_cores, known.alloc_tres, known.nodelist,
    used.energy_uj, used.energy_uj / {uj_per_kwh} AS energy_kwh, used.co2e_g,
    used.cpu_uj, used.dram_uj, used.gpu_uj, used.other_uj,
    used.idle_uj AS static_uj, used.modelled_uj,
    100.0 * coalesce(used.covered_ms, 0)
        / nullif(coalesce(used.present_ms, 0) + coalesce(lacking.lack_ms, 0), 0) AS covered_percent,
    100.0 * (used.energy_uj - used.modelled_uj) / nullif(used.energy_uj, 0) AS measured_percent,
    coalesce(used.present_ms, 0) / 3.6e6 AS node_hours, coalesce(lacking.lack_ms, 0) / 3.6e6 AS unseen_node_hours,
    used.core_us / 3.6e9 AS core_hours, used.cpu_time_us / 3.6e9 AS cpu_hours,
    100.0 * used.cpu_time_us / nullif(used.core_us, 0) AS cpu_used_percent
FROM ({used}) AS used FULL JOIN ({lacks}) AS lacking USING (job_id) LEFT JOIN ({records}) AS known USING (job_id)
ORDER BY job_id
"""


def job_table(ledger: Ledger, selection: Selection, factors: Factors | None = None) -> pa.Table:
    """The jobs of the selection, by job id.

    Returns: one row per job with its last run's record; energy within the selection's time alone. Integers in µJ, times
        in UTC; what nobody knows is null, and so are the grams of a job of which an hour has no factor. Jobs of which
        no daemon saw anything (site/unseen.py) are there, all of their energy null.
    Raises: ShardError as `Ledger.energy`. Needs pyarrow.
    """
    files = ledger.job_files()
    records = _RECORDS.format(files=f"[{', '.join(map(quoted, files))}]") if files else _NO_RECORDS
    chosen = msgspec.structs.replace(selection, holders=("job",))

    def question(con: duckdb.DuckDBPyConnection, hours: list[datetime]) -> pa.Table:
        weigh(con, hours, factors)
        told = _LACKS if lacks(con, ledger, chosen) else _NO_LACKS
        sql = _JOBS.format(used=_USED, lacks=told, records=records, uj_per_kwh=f"{UJ_PER_KWH}::DOUBLE")
        return arrow(con, sql)

    table: pa.Table = ledger.ask(chosen, question, even_empty=True)
    return table
