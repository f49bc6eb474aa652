"""Which nodes have stopped sealing, told from the shards' names and times alone. Opens no shard."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from hpccarbon.errors import ShardError

GRACE_S = 300
"""A seal may be late: a slow file server, a busy node, a clock that is off."""


class NodeSeen(msgspec.Struct, frozen=True):
    """A node and the time of its newest shard."""

    node: str
    last: datetime
    silent: bool


def nodes(shared: Path, cluster: str, now: datetime, seal_s: int, days: int = 3) -> list[NodeSeen]:
    """Every node that has sealed in the last days, the longest silent first.

    Args:
        seal_s: how often a daemon seals at least.
        days: how far back: a node that has said nothing for longer has left.

    Raises: ShardError, if the directory of the cluster's shards cannot be read.
    """
    root = shared / "shards" / cluster
    newest: dict[str, float] = {}
    hours = [now - timedelta(hours=hour) for hour in range(-1, days * 24)]
    try:
        with os.scandir(root):
            pass
        for hour in hours:
            _look(root / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}", newest)
    except OSError as err:
        raise ShardError(root, f"{err.strerror} (is paths.shared_dir mounted, and the cluster's name right?)") from err
    limit = now.timestamp() - 2 * seal_s - GRACE_S
    seen = [NodeSeen(node, datetime.fromtimestamp(at, timezone.utc), at < limit) for node, at in newest.items()]
    return sorted(seen, key=lambda one: (one.last, one.node))


def _look(directory: Path, newest: dict[str, float]) -> None:
    """Note the nodes of an hour; hours come newest first, so a node's first file is its newest."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    found: dict[str, float] = {}
    for entry in entries:
        node, _, rest = entry.name.removesuffix(".parquet").rpartition(".")
        if entry.name.endswith(".parquet") and rest and not entry.name.startswith(".") and node not in newest:
            found[node] = max(found.get(node, 0.0), entry.stat(follow_symlinks=False).st_mtime)
    newest.update(found)
