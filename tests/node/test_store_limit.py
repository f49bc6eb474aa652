"""The store's limit: which hours go, that what goes is said, and that what is counted afterwards is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpccarbon.config import parse
from hpccarbon.errors import ConfigError
from hpccarbon.node import health
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.store import GivenUp, Store
from hpccarbon.units import HOUR_S, NS_PER_S
from tests.node.virtual import Node, tick

HOURS, JOBS = 8, 20


def commit(sampler: Sampler, store: Store) -> None:
    mark = sampler.settle()
    assert mark is not None
    store.commit(sampler.pending, mark, sampler.channels, "{}")
    sampler.committed()


def open_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite", "virtual", "n1")


def hour_of(node: Node) -> int:
    return node.wall_ns // NS_PER_S // HOUR_S


def fill(tmp_path: Path) -> tuple[Node, Sampler, Store]:
    """Eight hours of twenty jobs; the fifth of them lies in its shard."""
    node, store = Node(tmp_path), open_store(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    for job in range(1, JOBS + 1):
        node.start(job)
    while len(store.hours()) < HOURS:
        node.run(60 * NS_PER_S, dict.fromkeys(range(1, JOBS + 1), 0.1))
        tick(sampler, node)
        commit(sampler, store)
    fifth = store.hours()[4]
    store.mark_sealed([(fifth.boot_id, fifth.hour, fifth.version)])
    return node, sampler, store


def test_the_oldest_go_first_and_sealed_ones_before_all(tmp_path: Path) -> None:
    node, _sampler, store = fill(tmp_path)
    before = [hour.hour for hour in store.hours()]
    size = store.used_bytes()
    now = hour_of(node)
    assert store.keep_within(size, now) == GivenUp(), "it fits: nothing goes"
    assert store.keep_within(size - 1, now) == GivenUp(), "the sealed hour is enough, and costs nothing"
    assert [hour.hour for hour in store.hours()] == before[:4] + before[5:]
    lost = store.keep_within(store.used_bytes() - size // HOURS - 1, now)
    assert lost == GivenUp(2, before[0], before[1])
    assert [hour.hour for hour in store.hours()] == [before[2], before[3], *before[5:]]
    assert store.used_bytes() < size * 5 / HOURS + 40_000
    assert store.keep_within(0, now).hours == 4, "all but the running hour"
    assert [hour.hour for hour in store.hours()] == [now]
    store.close()
    again = open_store(tmp_path)
    assert again.given_up() == GivenUp(6, before[0], before[6]), "a restart forgets none of it"
    again.close()


def test_what_is_counted_after_a_loss_is_right(tmp_path: Path) -> None:
    node, sampler, store = fill(tmp_path)
    store.keep_within(0, hour_of(node))
    kept = sum(row.energy_uj for hour in store.hours() for row in store.meters(hour))
    drawn = sum(node.total_uj.values())
    sampler.close()
    resumed = store.resume()
    assert resumed is not None
    sampler = node.sampler()
    sampler.resume(*resumed)
    for _ in range(5):
        node.run(60 * NS_PER_S, dict.fromkeys(range(1, JOBS + 1), 0.1))
        tick(sampler, node)
        commit(sampler, store)
    now = sum(row.energy_uj for hour in store.hours() for row in store.meters(hour))
    assert now - kept == sum(node.total_uj.values()) - drawn
    for hour in store.hours():
        shares = sum((row.cpu_uj or 0) + (row.dram_uj or 0) for row in store.shares(hour))
        assert shares == sum(row.energy_uj for row in store.meters(hour))
    sampler.close()


def test_status_says_it_for_good_and_loudly_for_a_week() -> None:
    now = 1_790_000_000.0
    said = health.Health(
        version="1", pid=1, cluster="c", node="n1", started=now - 60, at=now, last_tick=now, last_commit=now,
        last_seal=now, seal_running_s=None, unsealed_hours=0, oldest_unsealed=None, store_bytes=1, waiting_rows=0,
        jobs=0, meters=["rapl/x"], gaps={}, given_up_hours=3, given_up_last=now - 86_400,
    )  # fmt: skip
    (remark,) = (one for one in health.remarks(said, now, 900) if one.subject == "rows")
    assert (remark.verdict, remark.text) == (
        "problem",
        "3 hour(s) given up at the store's limit, the latest 24.0 h ago",
    )
    (later,) = (one for one in health.remarks(said, now + 8 * 86_400, 900) if one.subject == "rows")
    assert later.verdict == "note"


def test_a_limit_that_no_store_could_keep_is_refused() -> None:
    with pytest.raises(ConfigError, match="store_limit_mb"):
        parse("[daemon]\nstore_limit_mb = 1")
