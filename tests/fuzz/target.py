"""What a target is: something that reads what others wrote, the good inputs it knows, and how it is held to account."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

Check = Callable[[bytes], None]
"""Reads one input. Returns, where the input was taken or refused by name; raises `WrongTotal`, where it was taken for
something it is not; anything else that it raises is a crash."""


class WrongTotal(AssertionError):
    """An input led to a figure that is not true, and nobody was told."""


class Target(NamedTuple):
    """`check` opens the target in a directory of its own. `weight` is its part of the inputs, `guided` whether the
    coverage of its code leads the search: where most of the time is spent outside of Python it cannot."""

    name: str
    check: Callable[[Path], AbstractContextManager[Check]]
    seeds: Callable[[], list[bytes]]
    weight: int
    guided: bool = True
