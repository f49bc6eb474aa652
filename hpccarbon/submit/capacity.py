"""Jobs begun later on a cluster that has only so many nodes: never more of them busy than there are. Knows no carbon.

Greedy: the job with the most to save is moved first, to the best of its starts at which there is room, and stays there.
Nodes are counted in thousandths, because jobs share them, and time in steps: a job holds every step that it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hpccarbon.schema import GPUS_IN_TRES
from hpccarbon.submit.columns import numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Numbers = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

STEP_S = 300
NODE = 1000
"""A whole node."""


class Room(NamedTuple):
    """What shares its nodes: partitions that overlap, and how many nodes they have together."""

    partitions: frozenset[str | None]
    nodes: int


def place(
    begin_s: Numbers, length_s: Numbers, need: Integers, nodes: int, order: Integers, wishes: Sequence[Sequence[float]]
) -> Numbers:
    """When each job begins, if those in `order` may begin at one of their wishes.

    Args:
        begin_s, length_s: of all jobs as they ran, in s from 0 on. need: thousandths of nodes each held.
        nodes: how many there are. Where more seem to have been busy, because a need was rated too high, as many as
            were busy then count as being there.
        order: the jobs to move, by their place in the columns, first things first.
        wishes: for each of `order` the starts to try in s, best first, all after `begin_s`; a job for which none has
            room stays where it was.
    """
    import numpy as np

    ends = begin_s + length_s
    horizon = max(
        [float(ends.max(initial=0.0)), *(max(w) + length_s[j] for j, w in zip(order, wishes, strict=True) if w)]
    )
    steps = int(-(-horizon // STEP_S)) + 1
    busy = held(begin_s, length_s, need, steps)
    free = np.maximum(busy, nodes * NODE) - busy
    found: Numbers = begin_s.copy()
    for job, starts in zip(order.tolist(), wishes, strict=True):
        length, takes = float(length_s[job]), int(need[job])
        own = _steps(float(begin_s[job]), length)
        free[own] += takes
        for start in starts:
            span = _steps(start, length)
            if free[span].min() >= takes:
                found[job], own = start, span
                break
        free[own] -= takes
    return found


def held(begin_s: Numbers, length_s: Numbers, need: Integers, steps: int) -> Integers:
    """Thousandths of nodes that are busy in each step."""
    import numpy as np

    edges = np.zeros(steps + 1, np.int64)
    np.add.at(edges, (begin_s // STEP_S).astype(np.int64), need)
    np.add.at(edges, (-(-(begin_s + length_s) // STEP_S)).astype(np.int64), -need)
    busy: Integers = np.cumsum(edges)[:steps]
    return busy


def rooms_of(pairs: Iterable[tuple[str, str | None]]) -> list[Room]:
    """Partitions that share a node, together, with all their nodes.

    Args:
        pairs: every (node, partition) on which a job was seen.
    """
    rooms: list[tuple[set[str | None], set[str]]] = []
    by_partition: dict[str | None, set[str]] = {}
    for node, partition in pairs:
        by_partition.setdefault(partition, set()).add(node)
    for partition, nodes in by_partition.items():
        together = [room for room in rooms if room[1] & nodes]
        rooms = [room for room in rooms if not room[1] & nodes]
        rooms.append(({partition}.union(*(room[0] for room in together)), nodes.union(*(room[1] for room in together))))
    return [Room(frozenset(partitions), len(nodes)) for partitions, nodes in rooms]


def needs_of(jobs: pa.Table) -> Integers:
    """Thousandths of nodes that the jobs of one room held: of a node's cores or of its GPUs, whichever is more.

    A node is taken to have what the widest job held of one. What accounting does not know is a whole node.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    nodes = np.maximum(np.nan_to_num(numbers(jobs["alloc_nodes"]), nan=1.0), 1.0)
    matched = pc.extract_regex(jobs["alloc_tres"], GPUS_IN_TRES)
    gpus = np.nan_to_num(numbers(pc.struct_field(matched, "gpus").cast(pa.float64())))
    shares = []
    for amount in (numbers(jobs["alloc_cores"]) / nodes, gpus / nodes):
        widest = float(np.nanmax(amount, initial=0.0))
        shares.append(np.nan_to_num(amount / widest, nan=1.0) if widest else np.zeros(jobs.num_rows))
    share = np.where(shares[0] + shares[1] > 0, np.maximum(*shares), 1.0)
    found: Integers = np.ceil(NODE * nodes * share).astype(np.int64)
    return found


def _steps(begin_s: float, length_s: float) -> slice:
    return slice(int(begin_s // STEP_S), int(-(-(begin_s + length_s) // STEP_S)))
