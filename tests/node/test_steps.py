"""Steps: what a job used is divided among its `srun`s, and together they are the job, to the µJ and the ns."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from hpccarbon.node.attribution import Share
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.store import Store
from hpccarbon.node.usage.steps import UNNAMED, StepUse, divide
from hpccarbon.units import NS_PER_S
from tests.node.test_sampler import commit
from tests.node.virtual import Node, tick


def sampler_of(node: Node) -> Sampler:
    return node.sampler(node.config(steps="true"))


def store_of(node: Node) -> Store:
    return Store(node.directory / "state" / "store.sqlite", "virtual", "n1")


def uses(sampler: Sampler, job: int) -> dict[str, StepUse]:
    """What the job's steps used, all hours together."""
    found: dict[str, StepUse] = {}
    for (_hour, run, step), use in sampler.pending.steps.items():
        if run[0] == job:
            found.setdefault(step, StepUse()).add(use)
    return found


def test_steps_are_charged_by_their_cpu_time(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = sampler_of(node)
    tick(sampler, node)
    node.start(7, cores=8)
    for step in ("extern", "batch", "0"):
        node.start_step(7, step)
    tick(sampler, node)
    for _ in range(90):
        node.run(NS_PER_S, steps={(7, "batch"): 0.5, (7, "0"): 1.5})
        tick(sampler, node)
    sampler.settle()
    found = uses(sampler, 7)
    assert {step: use.cpu_time_ns for step, use in found.items()} == {"batch": 45 * NS_PER_S, "0": 135 * NS_PER_S}
    whole = sum(share.cpu_uj or 0 for (_b, holder), share in sampler.pending.shares.items() if holder[0] == 7)
    assert found["batch"].cpu_uj is not None and found["0"].cpu_uj is not None
    assert found["batch"].cpu_uj + found["0"].cpu_uj == whole
    assert found["batch"].cpu_uj == pytest.approx(whole / 4, rel=1e-6)


def test_steps_that_come_and_go_between_two_ticks_are_known_by_name(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = sampler_of(node)
    tick(sampler, node)
    node.start(7)
    node.start_step(7, "extern")
    tick(sampler, node)
    node.run(NS_PER_S // 4)
    for step in ("0", "1"):
        node.start_step(7, step)
        node.run(NS_PER_S // 4, steps={(7, step): 1.0})
        node.end_step(7, step)
    tick(sampler, node)
    sampler.settle()
    found = uses(sampler, 7)
    assert {step: use.cpu_time_ns for step, use in found.items() if use.cpu_time_ns} == {
        "0": NS_PER_S // 4,
        "1": NS_PER_S // 4,
    }


def test_what_vanished_steps_used_at_last_is_theirs_and_not_the_extern_steps(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = sampler_of(node)
    tick(sampler, node)
    node.start(7)
    for step in ("extern", "batch", "0"):
        node.start_step(7, step)
    tick(sampler, node)
    for _ in range(5):
        node.run(NS_PER_S, steps={(7, "0"): 1.0})
        tick(sampler, node)
    node.run(NS_PER_S, steps={(7, "0"): 1.0})
    node.end(7)
    tick(sampler, node)
    sampler.settle()
    found = {step: use.cpu_time_ns for step, use in uses(sampler, 7).items()}
    assert found.get("extern", 0) + found.get("batch", 0) < 10
    assert sum(found.values()) == 6 * NS_PER_S


def test_an_idle_job_belongs_to_the_steps_that_are_there() -> None:
    share = Share(cpu_uj=101, dram_uj=None, cpu_time_ns=0)
    assert divide(share, {"extern": 0, "batch": 0, "0": 0}) == {"batch": StepUse(cpu_uj=51), "0": StepUse(cpu_uj=50)}
    assert divide(share, {"extern": 0}) == {UNNAMED: StepUse(cpu_uj=101)}
    assert divide(share, {}) == {UNNAMED: StepUse(cpu_uj=101)}


def test_nothing_is_kept_where_nobody_asks(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    node.start(7)
    node.start_step(7, "0")
    node.run(NS_PER_S, steps={(7, "0"): 1.0})
    tick(sampler, node)
    mark = sampler.settle()
    assert mark is not None and mark.steps is None
    assert not sampler.pending.steps


@pytest.mark.parametrize("seed", range(25))
def test_steps_add_up_to_their_jobs_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Random jobs, steps, ticks and kills: in each hour the steps of a run are the run, every component."""
    rng = random.Random(seed)
    node = Node(tmp_path)
    store = store_of(node)
    sampler = sampler_of(node)
    tick(sampler, node)
    job, steps = 0, 0
    for _ in range(120):
        action = rng.random()
        jobs = list(node.usage_ns)
        if action < 0.15 and len(jobs) < 4:
            job += 1
            node.start(job)
            node.start_step(job, "extern")
        elif action < 0.4 and jobs:
            steps += 1
            node.start_step(rng.choice(jobs), str(steps))
        elif action < 0.5 and node.step_ns:
            node.end_step(*rng.choice(list(node.step_ns)))
        elif action < 0.6 and jobs:
            node.end(rng.choice(jobs))
        elif action < 0.66:
            commit(sampler, store)
        elif action < 0.7 and store.resume() is not None:
            sampler.close()
            sampler = sampler_of(node)
            resumed = store.resume()
            assert resumed is not None
            sampler.resume(*resumed)
        load = {step: rng.random() for step in node.step_ns if rng.random() < 0.8}
        node.run(rng.choice([1, 10**6, 3 * 10**8, 10**9, 25 * 10**9]), {}, rng.random(), steps=load)
        if rng.random() < 0.8:
            tick(sampler, node)
    tick(sampler, node)
    commit(sampler, store)
    assert store.hours()
    for hour in store.hours():
        shares: dict[tuple[int, str], list[int]] = {}
        for row in store.shares(hour):
            if row.run is not None:
                whole = shares.setdefault((row.run.job_id, row.run.run), [0, 0, 0])
                for place, value in enumerate((row.cpu_uj or 0, row.dram_uj or 0, row.cpu_time_ns)):
                    whole[place] += value
        kept: dict[tuple[int, str], list[int]] = {}
        for step in store.steps(hour):
            whole = kept.setdefault((step.job_id, step.run), [0, 0, 0])
            for place, value in enumerate((step.use.cpu_uj or 0, step.use.dram_uj or 0, step.use.cpu_time_ns)):
                whole[place] += value
        assert kept == {run: sums for run, sums in shares.items() if any(sums) or run in kept}


def test_a_kill_moves_nothing_from_one_step_to_another(tmp_path: Path) -> None:
    node = Node(tmp_path)
    store = store_of(node)
    sampler = sampler_of(node)
    tick(sampler, node)
    node.start(7)
    for step in ("0", "1"):
        node.start_step(7, step)
    for _ in range(20):
        node.run(NS_PER_S, steps={(7, "0"): 0.75, (7, "1"): 0.25})
        tick(sampler, node)
        if node.at_ns // NS_PER_S % 3 == 0:
            commit(sampler, store)
            sampler.close()  # kill -9: nothing but the store and the files is left
            sampler = sampler_of(node)
            resumed = store.resume()
            assert resumed is not None
            sampler.resume(*resumed)
    tick(sampler, node)
    commit(sampler, store)
    used: dict[str, int] = {}
    for hour in store.hours():
        for row in store.steps(hour):
            used[row.step] = used.get(row.step, 0) + row.use.cpu_time_ns
    assert used == {"0": 15 * NS_PER_S, "1": 5 * NS_PER_S}


def test_a_store_of_a_release_without_steps_goes_on(tmp_path: Path) -> None:
    node = Node(tmp_path)
    store_of(node).close()
    path = tmp_path / "state" / "store.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE step")
    store = store_of(node)
    sampler = sampler_of(node)
    tick(sampler, node)
    node.start(7)
    node.start_step(7, "0")
    tick(sampler, node)
    node.run(NS_PER_S, steps={(7, "0"): 1.0})
    tick(sampler, node)
    commit(sampler, store)
    assert [row.step for hour in store.hours() for row in store.steps(hour)] == ["0"]
    store.drop_before(10**9)
    assert store.hours(), "an hour that is in no shard stays"
    store.mark_sealed((hour.boot_id, hour.hour, hour.version) for hour in store.hours())
    store.drop_before(10**9)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM step").fetchone() == (0,)
