"""What a daemon says of itself, in one small file beside its pid: written by the daemon, read by `hpccarbon status`.

The file lies in `paths.run_dir` (memory, root's) and is replaced by rename each minute, so that a reader sees a whole
one and its age tells whether the loop still turns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hpccarbon.errors import StoreError
from hpccarbon.units import BUCKET_S

NAME = "health.json"
STALE_S = 3 * BUCKET_S
"""It is written once a minute; two may be missed while a disk is slow."""
GIVEN_UP_S = 7 * 86_400
"""For a week it is a problem that hours were lost, then a note."""
Means = msgspec.Meta
Verdict = Literal["ok", "note", "problem"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon at one moment. Times are seconds since 1970, by the wall clock of then."""

    version: str
    pid: int
    cluster: str
    node: str
    started: float
    at: Annotated[float, Means(description="when this was written")]
    last_tick: float
    last_commit: Annotated[float | None, Means(description="last write to the store that succeeded")]
    last_seal: Annotated[float | None, Means(description="last seal that wrote its shards")]
    seal_running_s: Annotated[float | None, Means(description="how long the sealing child has been writing")]
    unsealed_hours: Annotated[int, Means(description="hours with rows that are in no shard yet")]
    oldest_unsealed: Annotated[float | None, Means(description="start of the oldest of them")]
    store_bytes: int
    waiting_rows: Annotated[int, Means(description="rows in memory that the store has not taken yet")]
    jobs: int
    meters: list[str]
    gaps: Annotated[dict[str, str], Means(description="meters that cannot be read now, and why")]
    given_up_hours: Annotated[
        int, Means(description="hours lost to daemon.store_limit_mb before a shard held them")
    ] = 0
    given_up_last: Annotated[float | None, Means(description="start of the latest of them")] = None


class Remark(msgspec.Struct, frozen=True):
    """One thing a status says, and what to do about it."""

    subject: str
    verdict: Verdict
    text: str
    advice: str = ""


def write(directory: Path, health: Health) -> None:
    """Replace the file. Raises: OSError."""
    part = directory / f".{NAME}.part"
    part.write_bytes(msgspec.json.encode(health))
    part.replace(directory / NAME)


def read(directory: Path) -> Health:
    """What the daemon said last. Raises: StoreError naming the file, the reason and the next step."""
    path = directory / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Health)
    except FileNotFoundError:
        raise StoreError(
            f"{path}: no such file: no daemon has run here since the boot (systemctl start hpccarbon; paths.run_dir)"
        ) from None
    except OSError as err:
        raise StoreError(f"cannot read {path}: {err.strerror} (run as root)") from err
    except msgspec.DecodeError as err:
        raise StoreError(f"{path}: {err} (a daemon of another version? restart it)") from err


def remarks(health: Health, now: float, seal_s: int) -> list[Remark]:
    """What is to be said of a daemon, worst kinds included.

    Args:
        now: seconds since 1970.
        seal_s: how often it seals at least.
    """
    age_s = now - health.at
    found = []
    if not _alive(health.pid):
        found.append(Remark("daemon", "problem", f"pid {health.pid} is gone", "systemctl start hpccarbon"))
    elif age_s > STALE_S:
        text = f"pid {health.pid} lives, and its loop has said nothing for {_span(age_s)}"
        found.append(Remark("daemon", "problem", text, "systemctl restart hpccarbon: nothing is lost by it"))
    else:
        text = f"pid {health.pid}, for {_span(now - health.started)}; last tick {_span(now - health.last_tick)} ago"
        found.append(Remark("daemon", "ok", text))
    found.append(_store(health, now))
    found.append(_shards(health, now, seal_s))
    if health.given_up_hours and health.given_up_last is not None:
        ago = _span(now - health.given_up_last)
        text = f"{health.given_up_hours} hour(s) given up at the store's limit, the latest {ago} ago"
        advice = "these are lost: bring paths.shared_dir back, or raise daemon.store_limit_mb"
        found.append(Remark("rows", "problem" if now - health.given_up_last < GIVEN_UP_S else "note", text, advice))
    meters = f"{len(health.meters)} read" + (f": {', '.join(health.meters)}" if health.meters else "")
    found.append(Remark("meters", "ok" if health.meters else "problem", meters, "" if health.meters else _DOCTOR))
    found += [Remark(f"gap {meter}", "note", reason, _DOCTOR) for meter, reason in sorted(health.gaps.items())]
    found.append(Remark("jobs", "ok", f"{health.jobs} now"))
    return found


_DOCTOR = "hpccarbon doctor says why"


def _store(health: Health, now: float) -> Remark:
    size = f"{health.store_bytes / 1e6:.1f} MB"
    if health.waiting_rows and (health.last_commit is None or now - health.last_commit > STALE_S):
        text = f"{size}; refuses writes, {health.waiting_rows} rows wait in memory"
        return Remark("store", "problem", text, "make room in paths.state_dir: nothing is lost while the daemon lives")
    last = "no write yet" if health.last_commit is None else f"last write {_span(now - health.last_commit)} ago"
    return Remark("store", "ok", f"{size}; {last}")


def _shards(health: Health, now: float, seal_s: int) -> Remark:
    last = "none yet" if health.last_seal is None else f"last one {_span(now - health.last_seal)} ago"
    behind = f"{health.unsealed_hours} hour(s) not sealed"
    if health.seal_running_s is not None and health.seal_running_s > seal_s:
        text = f"the sealing child has been writing for {_span(health.seal_running_s)}; {behind}"
        return Remark("shards", "problem", text, "is the shared file system away? the rows wait in the store")
    waits_s = now - (health.last_seal or health.started)
    if health.unsealed_hours and waits_s > 2 * seal_s + STALE_S:
        return Remark("shards", "problem", f"{last}; {behind}", "is paths.shared_dir there, and writable by seal_user?")
    return Remark("shards", "ok", f"{last}; {behind}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _span(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`, `2.1 d`; a clock that was set back reads as now."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    for size, unit in ((86_400, "d"), (3_600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min"
