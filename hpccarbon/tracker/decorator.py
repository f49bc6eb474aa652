"""`@track_emissions`: a function's every call is a run. The function's result and exceptions are its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hpccarbon.tracker.emissions import EmissionsTracker


def track_emissions(fn: Callable[..., Any] | None = None, *, offline: bool = False, **arguments: Any) -> Any:
    """Track each call of a function; bare, or with the tracker's arguments. `offline` changes nothing: both are."""
    if fn is None:
        return functools.partial(track_emissions, offline=offline, **arguments)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        with EmissionsTracker(**arguments):
            return fn(*args, **kwargs)

    return call
