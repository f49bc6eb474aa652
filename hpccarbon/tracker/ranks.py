"""Adds up what the nodes of a step used, for a rank that wants the sum. Reads their rows; asks no other node anything.

Every node's first rank leaves its row in the one emissions.csv, which lies where all nodes see it: training writes its
checkpoints there too. So nothing listens, nothing connects, and a node that died is one row that is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import Any

from hpccarbon.tracker.data import CODECARBON_COLUMNS, COLUMNS, SUMS, EmissionsData, slurm_number
from hpccarbon.tracker.rows import RowFile

log = logging.getLogger("hpccarbon")
_SAME = ("job_id", "step_id", "array_task", "section", "project_name")
"""What the rows of one section on all nodes of a step have in common."""
_ADDED = (*SUMS, "emissions_rate", "cpu_power", "gpu_power", "ram_power")
_COUNTED = ("cpu_count", "gpu_count")
_READ = (*_ADDED, *_COUNTED, "duration", "coverage_percent", "modelled_percent")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


def nodes_of_step() -> int:
    """On how many nodes this step runs (srun(1), SLURM_STEP_NUM_NODES); 1 outside of one."""
    return slurm_number("SLURM_STEP_NUM_NODES") or 1


def sum_of_nodes(path: Path, mine: EmissionsData, nodes: int, timeout_s: float) -> EmissionsData:
    """The finished rows of all nodes like `mine` together, once they are there.

    Args:
        path: the file that all nodes write.
        nodes: how many rows there will be.
        timeout_s: how long to wait for them; what is there by then is added up, and the log names what is missing.

    Returns: energies, grams and powers added, the longest duration, the coverage of the time of all; `node` names them.
    Raises: OSError, where the file cannot be read or locked.
    """
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    rows = RowFile(path, COLUMNS, CODECARBON_COLUMNS)
    while True:
        found = _latest([row for row in rows.read() if _belongs(row, mine)])
        if len(found) >= nodes or time.monotonic() > deadline:
            break
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    if len(found) < nodes:
        log.warning(
            "sum_nodes: rows of %d of %d nodes after %g s (%s): the sum is of these",
            len(found), nodes, timeout_s, ", ".join(sorted(found)) or "none",
        )  # fmt: skip
    return _sum(mine, [_data(row) for _, row in sorted(found.items())])


def _belongs(row: Mapping[str, str], mine: EmissionsData) -> bool:
    return row.get("state") == "finished" and all(row.get(name) == str(getattr(mine, name)) for name in _SAME)


def _latest(rows: Iterable[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Node -> its last row: a step that was started again in the same job has the same number on purpose."""
    return {row["node"]: row for row in rows}


def _data(row: Mapping[str, str]) -> EmissionsData:
    numbers: dict[str, Any] = {name: float(row.get(name) or 0) for name in _READ}
    return EmissionsData(**numbers, node=row["node"], method=row.get("method") or "")


def _sum(mine: EmissionsData, parts: Sequence[EmissionsData]) -> EmissionsData:
    if not parts:
        return mine

    def added(name: str) -> float:
        return fsum(getattr(part, name) for part in parts)

    spans, energy_j = added("duration") or 1.0, added("energy_joules")
    modelled_j = fsum(part.modelled_percent * part.energy_joules for part in parts)
    methods = {part.method for part in parts}
    sums: dict[str, Any] = {name: added(name) for name in _ADDED} | {name: int(added(name)) for name in _COUNTED}
    return replace(
        mine,
        **sums,
        duration=max(part.duration for part in parts),
        coverage_percent=fsum(part.coverage_percent * part.duration for part in parts) / spans,
        modelled_percent=modelled_j / energy_j if energy_j else mine.modelled_percent,
        method=methods.pop() if len(methods) == 1 else "mixed",
        node=",".join(part.node for part in parts),
        rank="",
    )
