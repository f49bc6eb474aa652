"""A short, seeded run of every fuzz target; `make fuzz` runs 100,000 inputs and more, half of them led by coverage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.table import TARGETS, Tally, judged, mutate_for, opened
from tests.fuzz.target import WrongTotal
from tests.stubs.nvml import build

INPUTS = {"node": 4, "shard": 14, "drawn shard": 8, "ledger": 6, "kernel file": 40, "NVIDIA library": 20, "report": 40}
SEED = 20261124
FOUND = Path(__file__).with_name("found")
"""Inputs that broke something, named TARGET.WHAT.bin."""


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks(name: str) -> None:
    if name == "NVIDIA library" and build.missing():
        pytest.skip(build.missing())
    tally = mutate_for(TARGETS[name], INPUTS.get(name, 100), SEED)
    assert list(tally.kept) == []
    assert tally.inputs == INPUTS.get(name, 100)


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.bin")), ids=lambda path: path.stem)
def test_what_was_found_once_stays_mended(path: Path) -> None:
    tally = Tally()
    with opened(TARGETS[path.name.partition(".")[0]]) as check:
        judged(check, path.read_bytes(), tally)
    assert list(tally.kept) == []


def test_a_shard_that_the_engine_does_not_survive_is_set_aside() -> None:
    tally = Tally()
    with opened(TARGETS["shard"]) as check:  # which holds the good shard beside it to its sums
        judged(check, (FOUND / "ledger.engine-gives-up.bin").read_bytes()[1:], tally)
    assert list(tally.kept) == []


def test_the_same_seed_gives_the_same_inputs() -> None:
    seen: list[list[bytes]] = [[], []]
    for inputs in seen:
        mutate_for(TARGETS["node list"], 50, 3, inputs.append)
    assert seen[0] == seen[1] and len(set(seen[0])) > 30


def test_what_breaks_is_counted_and_kept() -> None:
    def check(data: bytes) -> None:
        if data == b"wrong":
            raise WrongTotal("1 is not 2")
        if data == b"crash":
            raise ZeroDivisionError

    tally = Tally()
    for data in (b"good", b"wrong", b"crash", b"crash"):
        judged(check, data, tally)
    assert (tally.inputs, tally.wrong, tally.crashes, tally.hangs) == (4, 1, 2, 0)
    assert set(tally.kept.values()) == {b"wrong", b"crash"}


def test_mutation_reaches_every_kind_of_damage() -> None:
    import random

    rng = random.Random(1)
    made = {mutated(rng, [b"energy_uj 123456\n"]) for _ in range(2000)}
    assert len(made) > 1000
    assert any(b"9" * 5000 in data for data in made) and b"" in made
