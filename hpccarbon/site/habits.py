"""Reads what users' last jobs of each name used, small enough to be read at every submission. Guesses nothing.

habits/CLUSTER/partitions.json    power per core and per GPU of each partition's jobs, of nobody in particular
habits/CLUSTER/UID.json           the user's last jobs; with privacy = "own" in the user's extracts instead
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from hpccarbon.config import Config

Means = msgspec.Meta
Said = TypeVar("Said", "Habits", "Partitions")
VERSION = 1


class Past(msgspec.Struct, frozen=True, array_like=True):
    """One job that ended: what it held, for how long, and what it used. `cores` and `gpus` on all its nodes."""

    name: str
    partition: str | None
    ended_s: int
    elapsed_s: int
    cores: int
    gpus: int
    energy_uj: int

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_uj / 1e6 / self.elapsed_s


class Habits(msgspec.Struct, frozen=True):
    """A user's last jobs, newest first."""

    version: int
    jobs: list[Past]


class Typical(msgspec.Struct, frozen=True):
    """The mean power of a partition's jobs: what one in ten stays below, the middle one, what one in ten exceeds.

    Per core held for jobs without a GPU; with GPUs, the whole job's per GPU held.
    """

    jobs: int
    low_w: float
    middle_w: float
    high_w: float


class Partitions(msgspec.Struct, frozen=True):
    """Partition -> what its jobs draw; "" is the whole cluster."""

    version: int
    made_s: Annotated[float, Means(description="epoch seconds")]
    took_s: float
    per_core: dict[str, Typical]
    per_gpu: dict[str, Typical]


def partitions(config: Config) -> Partitions | None:
    """What each partition's jobs draw; None where nobody has written it, or not in this version's form."""
    return _read(config.shared("habits") / config.cluster / "partitions.json", Partitions)


def own(config: Config, uid: int) -> Habits | None:
    """A user's last jobs; None where none are written, or this process may not read them."""
    extract, open_to_all = (config.shared(room) / config.cluster for room in ("extracts", "habits"))
    for path in (extract / str(uid) / "habits.json", open_to_all / f"{uid}.json"):
        if (found := _read(path, Habits)) is not None:
            return found
    return None


def _read(path: Path, kind: type[Said]) -> Said | None:
    try:
        said = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return None
    return said if said.version == VERSION else None
