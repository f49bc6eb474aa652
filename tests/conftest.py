"""What holds for every test: a busy machine may make a property test slow, and that is no failure of the property.

`make test` runs two workers (pytest-xdist). One has the machine's own things, which there are only once: the private
cluster and real cgroups. It mostly waits for jobs; the other one does the rest meanwhile.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(  # few examples, and the same for every mutant (tests/mutants.py)
    "mutants", parent=settings.get_profile("unhurried"), max_examples=15, derandomize=True, database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))


def _once(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("lab", "root"))


@pytest.hookimpl(tryfirst=True)  # before xdist writes the groups into the names that it distributes by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What there is only once goes to one worker, and first: it takes longest."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    for item in items:
        if _once(item):
            item.add_marker(pytest.mark.xdist_group("once"))
    items.sort(key=lambda item: not _once(item))
