"""Packs a day's shards into one file, brings them back, and keeps a note of what was packed when the pack is gone.

    shards/CLUSTER/date=YYYY-MM-DD/shards.tar    the day's shards, byte for byte, with their names and times
    shards/CLUSTER/date=YYYY-MM-DD/packed.json   which hours it holds, or held before it was removed
    shards/CLUSTER/date=YYYY-MM-DD/late/         shards that came after that: kept, and in no figure

Never decides whether a shard may go: `retention` does. Whoever calls holds the aggregator's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import IO

import msgspec

from hpccarbon.errors import ShardError
from hpccarbon.site.engine import durable
from hpccarbon.site.shards import ShardFile, digest, list_hour
from hpccarbon.units import NS_PER_S

PACK = "shards.tar"
NOTE = "packed.json"
LATE = "late"
_MEMBER = re.compile(r"(hour=(?:[01][0-9]|2[0-3]))/([^/\0]{1,255}\.parquet)")
_TIME = re.compile(r"(\d{1,11})\.(\d{9})")
_GOING = ".going."
_CHUNK = 1 << 20
_UNREADABLE = (OSError, tarfile.TarError, OverflowError, ValueError)
"""What tarfile raises for a file that is none, and what the system raises for one that cannot be read."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Hours = dict[str, list[ShardFile]]
"""`hour=HH` -> the shards of that hour, sorted by name."""


class PackedHour(msgspec.Struct, frozen=True):
    """An hour whose shards were packed: the name of the set (`shards.digest`), and how many they were."""

    digest: str
    shards: int


def pack(day: Path, hours: Mapping[str, Sequence[ShardFile]]) -> None:
    """Write these hours into the day's pack; hours that only the old pack holds are taken over.

    Replaces the pack as a whole, after it was read back and compared.
    Raises: ShardError, if a shard is not what was listed, or the pack cannot be written; then the old one stays.
    """
    target = day / PACK
    temporary = day / f".{PACK}.{os.getpid()}.new"
    sums: dict[str, bytes] = {}
    try:
        try:
            with (
                os.fdopen(os.open(temporary, _WRITE, 0o640), "wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                for hour, shard, content in _contents(day, hours):
                    name = f"{hour}/{shard.name}"
                    checked = _Hashing(content)
                    archive.addfile(_member(name, shard), checked)
                    sums[name] = checked.digest()
                archive.close()
                file.flush()
                os.fsync(file.fileno())
            _compare(temporary, sums)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        durable(day)
        note(day, hours)
    except _UNREADABLE as err:
        raise ShardError(target, f"cannot pack the day: {err}") from err


def _contents(day: Path, hours: Mapping[str, Sequence[ShardFile]]) -> Iterator[tuple[str, ShardFile, IO[bytes]]]:
    """Every shard of the new pack, in order, open at its beginning."""
    old = packed(day)
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(_opened(day / PACK)) if old else None
        for hour in sorted(old.keys() | hours.keys()):
            for shard in hours.get(hour, old.get(hour, ())):
                if hour in hours:
                    with os.fdopen(os.open(shard.path, _READ), "rb") as file:
                        status = os.fstat(file.fileno())
                        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
                            raise ShardError(shard.path, "it changed while its day was packed")
                        yield hour, shard, file
                elif archive is not None and (inner := archive.extractfile(f"{hour}/{shard.name}")) is not None:
                    yield hour, shard, inner


class _Hashing:
    """A file whose content is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = blake2b(digest_size=16)

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> bytes:
        """The hash over all that was read."""
        return self._hash.digest()


def _member(name: str, shard: ShardFile) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = shard.size, 0o640
    seconds, ns = divmod(shard.mtime_ns, NS_PER_S)
    info.mtime = seconds
    # To the nanosecond: with its time a shard that was brought back is the very one that the ledger was made of.
    info.pax_headers = {"mtime": f"{seconds}.{ns:09d}"}
    return info


def _compare(path: Path, sums: Mapping[str, bytes]) -> None:
    """Read a pack to its end. Raises: ShardError, if it does not hold exactly what was put in."""
    found: dict[str, bytes] = {}
    with _opened(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                checked = _Hashing(content)
                while checked.read(_CHUNK):
                    pass
                found[member.name] = checked.digest()
    if found != sums:
        raise ShardError(path, "the pack does not read back as it was written")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with os.fdopen(os.open(path, _READ), "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield archive


def packed(day: Path) -> Hours:
    """The shards in the day's pack, their `path` naming the pack; nothing, where there is none.

    Raises: ShardError, if the pack is damaged or holds what no pack of ours holds.
    """
    path = day / PACK
    hours: Hours = {}
    try:
        with _opened(path) as archive:
            for member in archive:
                found = _MEMBER.fullmatch(member.name)
                time = _TIME.fullmatch(member.pax_headers.get("mtime", ""))
                if found is None or time is None or not member.isreg():
                    raise ShardError(path, f"it holds {member.name!r}, which is no shard")
                mtime_ns = int(time[1]) * NS_PER_S + int(time[2])
                hours.setdefault(found[1], []).append(
                    ShardFile(found[2], member.size, mtime_ns, f"{path}/{member.name}")
                )
    except FileNotFoundError:
        return {}
    except _UNREADABLE as err:
        raise ShardError(path, f"the pack cannot be read: {err}") from err
    for shards in hours.values():
        shards.sort()
    return hours


def contents(day: Path, hour: str, nodes: Collection[str]) -> Iterator[tuple[ShardFile, bytes]]:
    """The packed shards of these nodes in one hour, whole. Raises: ShardError, if the pack cannot be read."""
    wanted = [shard for shard in packed(day).get(hour, ()) if shard.node in nodes]
    if not wanted:
        return
    try:
        with _opened(day / PACK) as archive:
            for shard in wanted:
                content = archive.extractfile(f"{hour}/{shard.name}")
                if content is not None:
                    yield shard, content.read()
    except _UNREADABLE as err:
        raise ShardError(day / PACK, f"the pack cannot be read: {err}") from err


def unpack(day: Path, hour: str, target: Path) -> list[ShardFile]:
    """Bring the shards of one hour back into the directory `target`, with the times they had.

    A name that lies there already stays: a shard is replaced by a newer one, never by an older.
    Returns: the shards that were brought back. Raises: ShardError, if one cannot be.
    """
    brought = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            there = set(os.listdir(folder))  # noqa: PTH208 - of a descriptor
            with _opened(day / PACK) as archive:
                for shard in packed(day).get(hour, ()):
                    content = archive.extractfile(f"{hour}/{shard.name}")
                    if shard.name not in there and content is not None:
                        _bring(content, folder, shard)
                        brought.append(shard._replace(path=str(target / shard.name)))
            os.fsync(folder)
        finally:
            os.close(folder)
    except _UNREADABLE as err:
        raise ShardError(day / PACK, f"cannot bring {hour} back: {err}") from err
    return brought


def _bring(content: IO[bytes], folder: int, shard: ShardFile) -> None:
    """Write one shard under a temporary name, give it its time, rename it."""
    temporary = f".{shard.name}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    with os.fdopen(os.open(temporary, _WRITE, 0o640, dir_fd=folder), "wb") as file:
        while data := content.read(_CHUNK):
            file.write(data)
        file.flush()
        os.utime(file.fileno(), ns=(shard.mtime_ns, shard.mtime_ns))
        os.fsync(file.fileno())
    os.rename(temporary, shard.name, src_dir_fd=folder, dst_dir_fd=folder)


def remove_hour(day: Path, hour: str, expected: Collection[ShardFile]) -> int:
    """Take away the directory of an hour whose shards are these: at once for all who read, then file by file.

    A shard that was sealed meanwhile is none of them and goes back into the hour's directory.
    Returns: how many went back. Raises: ShardError, if something cannot be removed; the next call goes on from there.
    """
    live, grave = day / hour, day / f".{hour}.removed"
    safe = {(shard.name, shard.size, shard.mtime_ns) for shard in expected}
    back = 0
    try:
        if not grave.exists():
            live.rename(grave)
        while True:
            for name in os.listdir(grave):  # noqa: PTH208 - names alone
                back += _remove(grave, name, live, safe)
            try:
                grave.rmdir()
            except OSError as err:
                if err.errno != errno.ENOTEMPTY:
                    raise
                continue  # one more was sealed into it
            break
        durable(day)
    except FileNotFoundError:
        return back
    except OSError as err:
        raise ShardError(live, f"cannot remove it: {err}") from err
    return back


def _remove(grave: Path, name: str, live: Path, safe: Collection[tuple[str, int, int]]) -> int:
    """Remove one file if it is among the safe ones, or no shard; else put it back, and return 1."""
    shard = name.removeprefix(_GOING)
    going = grave / f"{_GOING}{shard}"
    if name != going.name:
        # Under a name that nobody writes to, so that what is looked at is what is removed.
        (grave / name).rename(going)
    status = going.lstat()
    if (shard, status.st_size, status.st_mtime_ns) in safe or not shard.endswith(".parquet") or shard.startswith("."):
        going.unlink()
        return 0
    live.mkdir(exist_ok=True)
    if not (live / shard).exists():
        going.rename(live / shard)
    else:
        going.unlink()  # the node has sealed a newer one since
    return 1


def unfinished(day: Path) -> list[str]:
    """The hours whose removal was interrupted."""
    return sorted(path.name[1:].removesuffix(".removed") for path in day.glob(".hour=??.removed"))


def note(day: Path, hours: Mapping[str, Sequence[ShardFile]]) -> None:
    """Write down that these hours' shards are in the pack. Raises: ShardError, if that cannot be written."""
    notes = noted(day) | {hour: PackedHour(digest(shards), len(shards)) for hour, shards in hours.items()}
    path = day / NOTE
    temporary = day / f".{NOTE}.{os.getpid()}.new"
    try:
        try:
            with os.fdopen(os.open(temporary, _WRITE, 0o640), "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(dict(sorted(notes.items())))) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        durable(day)
    except OSError as err:
        raise ShardError(path, f"cannot write it: {err.strerror}") from err


def noted(day: Path) -> dict[str, PackedHour]:
    """The hours (`hour=HH`) whose shards were packed. Raises: ShardError, if the note cannot be read."""
    path = day / NOTE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, PackedHour])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as err:
        raise ShardError(path, f"the note of what was packed cannot be read: {err}") from err


def size(day: Path) -> int | None:
    """The bytes of the day's pack; None, where there is none."""
    try:
        return (day / PACK).lstat().st_size
    except FileNotFoundError:
        return None


def remove(day: Path) -> None:
    """Remove the day's pack; the note stays. Raises: ShardError, if that cannot be done."""
    try:
        (day / PACK).unlink()
        durable(day)
    except OSError as err:
        raise ShardError(day / PACK, f"cannot remove it: {err.strerror}") from err


def settled(directory: str) -> bool:
    """True, if shards of the directory's day were packed: then its hours in the ledger know more than it does."""
    return os.path.exists(f"{os.path.dirname(directory)}/{NOTE}")  # noqa: PTH110, PTH120 - a str all the way


def bring_lost(
    root: Path, recorded: Collection[datetime], since: datetime | None, until: datetime | None
) -> dict[str, ShardError]:
    """Unpack the hours that the ledger lacks, so that a ledger file that was lost or damaged is made again.

    Args:
        root: `shards/CLUSTER`.
        recorded: the hours in the ledger that touch [since, until), as far as these are given.

    Returns: the days of which not all could be brought back: directory -> why. They stop no other.
    """
    faults: dict[str, ShardError] = {}
    whole = Counter(f"{hour:date=%Y-%m-%d}" for hour in recorded)
    for path in sorted(root.glob(f"date=????-??-??/{PACK}")):
        day = path.parent
        if whole[day.name] == 24:
            continue
        try:
            for hour in packed(day):
                begin = moment(day, hour)
                within = (since is None or begin + timedelta(hours=1) > since) and (until is None or begin < until)
                if within and begin not in recorded:
                    unpack(day, hour, day / hour)
        except ShardError as fault:
            faults[str(day)] = fault
    return faults


def reopen(directory: str) -> list[ShardError]:
    """Make the directory of an hour hold all shards of its hour again, before it is merged anew.

    - Shards that lie in the day's pack are brought back.
    - Where they were removed for good, the late ones are moved to `late/`: the ledger keeps what it has.

    Returns: the late shards that were moved, with the reason. Raises: ShardError, if neither can be done.
    """
    live = Path(directory)
    day, hour = live.parent, live.name
    if not settled(directory) or hour not in noted(day):
        return []
    if hour in packed(day):
        unpack(day, hour, live)
        return []
    moved = []
    try:
        (day / LATE).mkdir(exist_ok=True)
        for shard in list_hour(directory):
            target = day / LATE / f"{hour}.{shard.name}"
            Path(shard.path).rename(target)
            moved.append(ShardError(target, "it came after the raw shards of its hour were removed"))
        with contextlib.suppress(OSError):
            live.rmdir()
    except OSError as err:
        raise ShardError(directory, f"cannot set late shards aside: {err}") from err
    return moved


def moment(day: Path, hour: str) -> datetime:
    """The UTC hour behind `date=YYYY-MM-DD` and `hour=HH`."""
    return datetime.strptime(f"{day.name}/{hour}+0000", "date=%Y-%m-%d/hour=%H%z")
