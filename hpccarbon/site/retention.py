"""Decides which raw shards may go: only those whose every row the ledger provably holds. Shows first, acts when told.

A closed day's shards are packed into one file, and that file is removed some hundred days later. Before either, the
ledger's hours are made again from the shards and compared, row for row.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from hpccarbon import schema
from hpccarbon.config import Retention
from hpccarbon.errors import ShardError
from hpccarbon.site import index, packs, shards
from hpccarbon.site.aggregate import merge
from hpccarbon.site.engine import connect, reason
from hpccarbon.site.lock import exclusive

if TYPE_CHECKING:
    import duckdb

Action = Literal["pack", "remove", "keep"]
_LEDGER = ", ".join(f'"{column.name}"' for column in schema.LEDGER)


class Step(msgspec.Struct, frozen=True):
    """What is done with a day: `pack` its shards, `remove` its pack, or `keep` all as it is, for a reason.

    `shards` and `size` (bytes) are those of the raw shards, packed or not.
    """

    day: date
    action: Action
    shards: int
    size: int
    reason: str = ""


def run(shared: Path, cluster: str, rules: Retention, now: datetime, *, apply: bool) -> Iterator[Step]:
    """Go through the days that are old enough, oldest first; each step is proved, and done if `apply`.

    Args:
        shared: the shared directory.
        rules: after how many days to pack and to remove.
        now: aware.
        apply: without it nothing is changed and nothing is locked.

    Yields: one step per day, after it was done. A day that cannot be proved is kept and stops no other.
    Raises: HpcCarbonError, if an aggregator is at work (with `apply`); ShardError, if the shards cannot be listed.
    """
    lock = exclusive(shared / "ledger" / cluster / ".lock") if apply else contextlib.nullcontext(0)
    with lock, contextlib.closing(connect()) as con:
        for day in _days(shared, cluster):
            age = now.astimezone(timezone.utc).date() - _date(day)
            if rules.pack_days and age > timedelta(days=rules.pack_days):
                may_remove = bool(rules.keep_days) and age > timedelta(days=rules.keep_days)
                try:
                    step = _step(con, shared, cluster, day, may_remove=may_remove, apply=apply)
                except ShardError as err:
                    step = Step(_date(day), "keep", 0, 0, str(err))
                if step is not None:
                    yield step


def restore(shared: Path, cluster: str, day: date) -> int:
    """Bring a packed day's shards back into their directories, so that its minutes can be read; returns how many.

    Raises: ShardError, if there is no pack of that day, or it cannot be read.
    """
    folder = shared / "shards" / cluster / f"date={day:%Y-%m-%d}"
    hours = packs.packed(folder)
    if not hours:
        gone = " (its raw shards were removed; the ledger has its hours)" if packs.noted(folder) else ""
        raise ShardError(folder / packs.PACK, f"there is no pack of this day{gone}")
    with exclusive(shared / "ledger" / cluster / ".lock"):
        return sum(len(packs.unpack(folder, hour, folder / hour)) for hour in hours)


def _days(shared: Path, cluster: str) -> list[Path]:
    root = shared / "shards" / cluster
    try:
        found = sorted(root.glob("date=????-??-??"))
    except OSError as err:
        raise ShardError(root, f"{err.strerror} (is the shared directory mounted and readable?)") from err
    return [path for path in found if path.is_dir() and not path.is_symlink() and _is_date(path)]


def _is_date(day: Path) -> bool:
    try:
        _date(day)
    except ValueError:
        return False
    return True


def _date(day: Path) -> date:
    return date.fromisoformat(day.name.removeprefix("date="))


def _step(
    con: duckdb.DuckDBPyConnection, shared: Path, cluster: str, day: Path, *, may_remove: bool, apply: bool
) -> Step | None:
    graves = packs.unfinished(day) if apply else []
    if graves:
        in_pack = packs.packed(day)
        for hour in graves:
            packs.remove_hour(day, hour, in_pack.get(hour, ()))
    live = {
        path.name: files
        for path in sorted(day.glob("hour=[0-2][0-9]"))
        if path.is_dir() and not path.is_symlink() and (files := shards.list_hour(str(path)))
    }
    pack_size = packs.size(day)
    if not live and (pack_size is None or not may_remove):
        return None
    count = sum(len(files) for files in live.values())
    count += sum(hour.shards for name, hour in packs.noted(day).items() if name not in live and pack_size is not None)
    total = sum(shard.size for files in live.values() for shard in files) + (pack_size or 0)

    def step(action: Action, why: str = "") -> Step:
        return Step(_date(day), action, count, total, why)

    if live:
        for hour, files in live.items():
            why = prove(con, shared, cluster, packs.moment(day, hour), files)
            if why:
                return step("keep", f"{hour}: {why}")
        why = _pack(day, live) if apply else ""
        return step("keep", why) if why else step("pack")
    why = _prove_pack(con, shared, cluster, day)
    if why:
        return step("keep", why)
    if apply:
        packs.remove(day)
    return step("remove")


def _pack(day: Path, live: packs.Hours) -> str:
    """Pack the hours and remove their directories; returns why something stayed."""
    in_pack = packs.packed(day)
    if any(shards.digest(files) != shards.digest(in_pack.get(hour, ())) for hour, files in live.items()):
        packs.pack(day, live)
    came = sum(packs.remove_hour(day, hour, files) for hour, files in live.items())
    return f"packed, but {came} shards were sealed meanwhile; the next run takes them" if came else ""


def _prove_pack(con: duckdb.DuckDBPyConnection, shared: Path, cluster: str, day: Path) -> str:
    """Why a pack must stay, or nothing. One hour at a time is unpacked, where only this user can look."""
    for hour in sorted(packs.packed(day)):
        with tempfile.TemporaryDirectory(prefix="hpccarbon-proof-") as room:
            files = packs.unpack(day, hour, Path(room) / hour)
            moment = packs.moment(day, hour)
            why = prove(con, shared, cluster, moment, files, nothing_set_aside=True)
            if why:
                return f"{hour}: {why}"
    return ""


def prove(
    con: duckdb.DuckDBPyConnection,
    shared: Path,
    cluster: str,
    hour: datetime,
    files: Sequence[shards.ShardFile],
    *,
    nothing_set_aside: bool = False,
) -> str:
    """Why these shards must stay, or nothing where the ledger holds each of their rows.

    - The ledger file says that it was made of exactly these shards (names, sizes, times).
    - Merged again from them, the hour has the same rows, every column compared.
    - With `nothing_set_aside`: no shard is among them that could not be trusted; the ledger lacks its rows.
    """
    from hpccarbon.duck import duckdb

    recorded, broken = index.known(lambda: con, shared, cluster, hour, hour + timedelta(hours=1))
    if broken:
        return str(broken[0])
    if hour not in recorded:
        return "it is not in the ledger yet (run `hpccarbon aggregate`)"
    path = index.path_of(shared, cluster, hour, recorded[hour])
    try:
        if recorded[hour].digest != shards.digest(files):
            return "the ledger was made of other shards than these (run `hpccarbon aggregate`)"
        judged = shards.load(con, files, cluster, hour)
        merge(con, hour)
        stored = f"(SELECT {_LEDGER} FROM {index.source({hour: path})})"  # noqa: S608
        made = f"(SELECT {_LEDGER} FROM merged)"  # noqa: S608
        found = con.execute(
            f"SELECT count(*) FROM (({made} EXCEPT ALL {stored}) UNION ALL ({stored} EXCEPT ALL {made}))"  # noqa: S608
        ).fetchone()
    except ShardError as fault:
        return str(fault)
    except duckdb.Error as err:
        return f"cannot compare {path} with the shards: {reason(err)}"
    if found is None or found[0]:
        return f"{path} does not hold what the shards hold (see `hpccarbon verify`)"
    if nothing_set_aside and judged.faults:
        names = ", ".join(os.path.basename(fault.path) for fault in judged.faults[:3])  # noqa: PTH119
        return (
            f"{len(judged.faults)} shards could not be trusted and are in no ledger ({names}):"
            " look at them (`--restore`) and remove them by hand"
        )
    return ""
