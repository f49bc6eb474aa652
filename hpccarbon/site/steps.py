"""Reads what the steps of jobs used, from the metadata of the nodes' shards, packed or not. Adds nothing up."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon.errors import ShardError
from hpccarbon.records import STEPS, StepEnergy
from hpccarbon.schema import PRODUCED_BY
from hpccarbon.site import shards
from hpccarbon.site.engine import reason

if TYPE_CHECKING:
    import duckdb

KEY = f"{PRODUCED_BY}.{STEPS}"
Place = tuple[datetime, str]
"""(UTC hour, node)"""
Spent = Mapping[tuple[int, str], int]
"""(job id, run) -> energy_uj of one node in one hour"""


class StepRow(msgspec.Struct, frozen=True):
    """What one step of a job used on one node in one hour."""

    node: str
    hour: datetime
    energy: StepEnergy


def read(
    con: duckdb.DuckDBPyConnection, shared: Path, cluster: str, spent: Mapping[Place, Spent]
) -> tuple[list[StepRow], list[ShardError]]:
    """The steps of the runs in `spent`, and what had to be left out.

    Args:
        spent: what the ledger says of these runs: steps that claim more than their job used are not believed.
    """
    rows: list[StepRow] = []
    faults: list[ShardError] = []
    by_hour: dict[datetime, set[str]] = {}
    for hour, node in spent:
        by_hour.setdefault(hour, set()).add(node)
    for hour, nodes in sorted(by_hour.items()):
        told: dict[str, list[StepEnergy]] = {}
        try:
            for path, text in _told(con, shared / "shards" / cluster, hour, nodes):
                node = shards.ShardFile(path.rsplit("/", 1)[-1], 0, 0, path).node
                told.setdefault(node, []).extend(_decoded(path, text))
        except ShardError as fault:
            faults.append(fault)
        for node, steps in sorted(told.items()):
            known = spent[hour, node]
            mine = [step for step in steps if (step.job_id, step.run) in known]
            if why := _absurd(mine, known):
                faults.append(ShardError(shared / "shards" / cluster / f"{hour:date=%Y-%m-%d/hour=%H}" / node, why))
                continue
            rows += [StepRow(node, hour, step) for step in mine]
    return rows, faults


def _told(
    con: duckdb.DuckDBPyConnection, root: Path, hour: datetime, nodes: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(path, text) of the shards of these nodes that tell of steps."""
    from hpccarbon.duck import duckdb
    from hpccarbon.site import packs  # a report without steps need not wait for tarfile and OpenSSL

    day = root / f"{hour:date=%Y-%m-%d}"
    name = f"{hour:hour=%H}"
    live = [one for one in shards.list_hour(f"{day}/{name}") if one.node in nodes and one.size != shards.NO_FILE]
    if live:
        sql = "SELECT file_name, decode(value) FROM parquet_kv_metadata($files) WHERE key = $key::BLOB"
        try:
            yield from con.execute(sql, {"files": [one.path for one in live], "key": KEY}).fetchall()
        except duckdb.Error as err:
            raise ShardError(f"{day}/{name}", reason(err)) from err
    there = {one.name for one in live}
    for shard, content in packs.contents(day, name, nodes):
        if shard.name not in there and (text := _of_file(shard.path, content)) is not None:
            yield shard.path, text


def _of_file(path: str, content: bytes) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        value = (pq.read_metadata(io.BytesIO(content)).metadata or {}).get(KEY.encode())
        return None if value is None else value.decode()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        raise ShardError(path, f"cannot be read: {err}") from err


def _decoded(path: str, text: str) -> list[StepEnergy]:
    try:
        return msgspec.json.decode(text, type=list[StepEnergy])
    except (msgspec.DecodeError, msgspec.ValidationError) as err:
        raise ShardError(path, f"its steps cannot be read: {err}") from err


def _absurd(steps: Sequence[StepEnergy], spent: Spent) -> str:
    """Why these steps are not believed; empty where they are."""
    sums: dict[tuple[int, str], int] = {}
    for step in steps:
        if min(step.cpu_uj or 0, step.dram_uj or 0, step.gpu_uj or 0, step.other_uj or 0, step.cpu_time_us) < 0:
            return f"step {step.job_id}.{step.step[:20]!r} has negative values"
        key = (step.job_id, step.run)
        sums[key] = sums.get(key, 0) + step.energy_uj
    for key, energy_uj in sums.items():
        if energy_uj > spent[key]:
            return f"the steps of job {key[0]} have {energy_uj} µJ, the job itself {spent[key]}"
    return ""
