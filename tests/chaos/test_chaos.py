"""A small part of `make chaos`, with the same judges: no energy lost, no job lost, every promise kept."""

from __future__ import annotations

import os

import pytest

from tests.chaos.__main__ import VIRTUAL, Fault, run
from tests.chaos.real_faults import full_disk, killed_processes

SEED = 7


@pytest.mark.parametrize("fault", [*VIRTUAL, killed_processes], ids=lambda fault: fault.__name__)
def test_nothing_is_lost(fault: Fault) -> None:
    outcome = run(fault, SEED, short=True)
    assert (outcome.energy_lost_uj, outcome.jobs_lost, outcome.wrong) == (0, 0, [])


@pytest.mark.root
def test_nothing_is_lost_on_a_full_disk() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    outcome = run(full_disk, SEED, short=True)
    assert outcome.faults
    assert (outcome.energy_lost_uj, outcome.jobs_lost, outcome.wrong) == (0, 0, [])
