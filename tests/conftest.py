"""What holds for every test: a busy machine may make a property test slow, and that is no failure of the property."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(  # few examples, and the same for every mutant (tests/mutants.py)
    "mutants", parent=settings.get_profile("unhurried"), max_examples=15, derandomize=True, database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unhurried"))
