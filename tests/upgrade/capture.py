"""Writes what a release leaves behind, for later ones to read: `python -m tests.upgrade.capture DIR`, run in that one.

A node of plain files runs for two minutes with one job; its store, its shards and the ledger made of them stay.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from hpccarbon.node import seal
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.store import Store
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.units import NS_PER_S
from tests.node.virtual import Node, tick

SECONDS = 120


def live(node: Node, sampler: Sampler) -> None:
    """What the node of the capture did: it can be done again, to the same counters."""
    tick(sampler, node)
    node.start(7, cores=2)
    for _ in range(SECONDS):
        node.run(NS_PER_S, {7: 1.5}, system=0.25)
        tick(sampler, node)
    node.end(7, cores=2)
    node.run(NS_PER_S)
    tick(sampler, node)


def main(target: Path) -> None:
    """Live, store, seal, aggregate; `expected.json` says what must be read in it."""
    with tempfile.TemporaryDirectory() as name:
        node = Node(Path(name))
        config = node.config()
        store = Store(target / seal.STORE_NAME, config.cluster, "n1")
        sampler = node.sampler(config)
        live(node, sampler)
        mark = sampler.settle()
        assert mark is not None
        store.commit(sampler.pending, mark, sampler.channels, "{}")
        for hour in store.hours():
            path = seal.shard_path(target / "shards", config.cluster, "n1", hour.boot_id, hour.hour)
            metadata = seal.shard_metadata(config, "n1", hour, store)
            table = seal.shard_table(list(store.shares(hour)), list(store.meters(hour)), metadata)
            seal.write_shard(table, path, target / "shards")
        store.close()
        sampler.close()
        with open_crew(1) as crew:
            aggregate(target, config.cluster, crew)
        (target / "expected.json").write_text(json.dumps({"total_uj": node.total_uj, "dynamic_uj": node.dynamic_uj}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
