"""Writes each user's own part of the ledger where that user alone can open it, and reads it there. Adds nothing up.

    extracts/CLUSTER/              may be passed through, not listed
    extracts/CLUSTER/UID/          that user's, mode 0700
        ledger.YYYY-MM.parquet     the user's rows of the month, mode 0400, columns of a ledger file
        jobs.YYYY-MM.parquet       the user's job records of the month

Files are made in a room of the writer's own, given away while they are open, and only then renamed to where the user
can reach them: nothing is ever opened or given away by a name that a user could have changed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import schema
from hpccarbon.config import Config
from hpccarbon.errors import HpcCarbonError, ShardError
from hpccarbon.site import index, jobs
from hpccarbon.site.engine import connect, quoted, reason
from hpccarbon.site.ledger import Ledger, Selection, from_files
from hpccarbon.site.lock import exclusive
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import duckdb

ROOM = "extracts"
PRIVATE_ROOMS = ("shards", "ledger", "jobs")
_WORK = ".new"
_MADE = ".made.json"
_FILE = re.compile(r"(?P<kind>ledger|jobs)\.(?P<month>\d{4}-\d{2})\.parquet")
_MAX_UID = 2**32 - 2
_HOUR_US = HOUR_S * 1_000_000
_STAMPS = {"hour": f"hour_n * {_HOUR_US}", "first_bucket": "first_us", "last_bucket": "last_us"}
_OWNED = ", ".join(
    f'make_timestamptz(({_STAMPS[column.name]})::BIGINT) AS "{column.name}"'
    if column.name in _STAMPS
    else f'coalesce(selected.uid, record.uid) AS "{column.name}"'
    if column.name == "uid"
    else f'selected."{column.name}"'
    for column in schema.LEDGER
)
_RECORDS = """
SELECT job_id, any_value(uid) AS uid FROM read_parquet($files, hive_partitioning = false)
WHERE uid IS NOT NULL GROUP BY job_id HAVING count(DISTINCT uid) = 1
"""


def guard(config: Config) -> None:
    """Keep the rooms of the shared directory from everyone but their owner and the admin group.

    Raises: HpcCarbonError naming the room and the command, where this process may not.
    """
    shared = Path(config.paths.shared_dir)
    for name in PRIVATE_ROOMS:
        room = shared / name
        room.mkdir(parents=True, exist_ok=True)
        with _directory(room) as descriptor:
            status = os.fstat(descriptor)
            group = _group(config.admin_group) if config.admin_group else status.st_gid
            if (stat.S_IMODE(status.st_mode), status.st_gid) == (0o2750, group):
                continue
            try:
                os.fchown(descriptor, -1, group)
                os.fchmod(descriptor, 0o2750)
            except OSError as err:
                raise HpcCarbonError(
                    f"cannot close {room} to others: {err.strerror} (as root: chgrp {group} {room}; chmod 2750 {room})"
                ) from err


def _group(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise HpcCarbonError(f"admin_group: there is no group {name!r} on this machine") from None


def update(config: Config, now: datetime, every_s: float = 0) -> int:
    """Write the extracts of all months whose ledger or records changed; returns how many files were written.

    Args:
        now: aware.
        every_s: do nothing, if the last time is less than this ago.

    Raises: HpcCarbonError, if another process is at it, or files cannot be given to their users.
    """
    shared, cluster = Path(config.paths.shared_dir), config.cluster
    root = shared / ROOM / cluster
    written = 0
    with exclusive(shared / "ledger" / cluster / ".extracts.lock"):
        try:
            _rooms(root)
            if 0 <= now.timestamp() - _when(root / _MADE) < every_s:
                return 0
            made = _made(root)
            with contextlib.closing(Ledger(shared, cluster)) as ledger:
                for month, said in _fingerprints(shared, cluster).items():
                    if made.get(month) != said:
                        written += _write_month(ledger, root, month)
                        made[month] = said
            _remember(root, made)
        except OSError as err:
            raise HpcCarbonError(
                f'cannot write extracts below {root}: {err.strerror or err} (privacy = "own" needs the right to give'
                " files away: see docs/security.md)"
            ) from err
    return written


def give(config: Config, files: Mapping[int, bytes], name: str) -> None:
    """Write each user (by uid) one more file beside the extracts, that the user alone can open.

    Raises: HpcCarbonError as `update`; OSError.
    """
    shared, cluster = Path(config.paths.shared_dir), config.cluster
    root = shared / ROOM / cluster
    with exclusive(shared / "ledger" / cluster / ".extracts.lock"):
        _rooms(root)
        for uid, content in files.items():
            if 0 <= uid <= _MAX_UID:
                whole = root / _WORK / name
                whole.write_bytes(content)
                _give(whole, uid, root, name)


def _rooms(root: Path) -> None:
    """The room that may be passed through and not listed, and in it the writer's own, empty."""
    for room in (root.parent, root):
        room.mkdir(exist_ok=True)
        with _directory(room) as descriptor:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise HpcCarbonError(f"{room} does not belong to this user: whoever owns it could read every extract")
            os.fchmod(descriptor, 0o711)
    from shutil import rmtree

    rmtree(root / _WORK, ignore_errors=True)
    (root / _WORK).mkdir(mode=0o700)


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _made(root: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((root / _MADE).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return {}


def _remember(root: Path, made: dict[str, str]) -> None:
    temporary = root / _WORK / _MADE
    temporary.write_bytes(msgspec.json.encode(made))
    temporary.chmod(0o600)
    temporary.replace(root / _MADE)


def _fingerprints(shared: Path, cluster: str) -> dict[str, str]:
    """Month -> what its extracts are made of, in a few characters."""
    from hashlib import blake2b

    parts: dict[str, list[str]] = {}
    with contextlib.closing(connect(1)) as con:
        entries, _ = index.known(lambda: con, shared, cluster)
    for hour, one in sorted(entries.items()):
        parts.setdefault(f"{hour:%Y-%m}", []).append(f"{one.hour_s} {one.digest}")
    for path in jobs.job_files(shared, cluster):
        month = Path(path).name.removeprefix("month=").removesuffix(".parquet")
        status = os.stat(path)  # noqa: PTH116 - a str all the way
        if month != jobs.UNKNOWN_MONTH:
            parts.setdefault(month, []).append(f"{status.st_size} {status.st_mtime_ns}")
    return {
        month: blake2b("\n".join(lines).encode(), digest_size=16).hexdigest() for month, lines in sorted(parts.items())
    }


def _write_month(ledger: Ledger, root: Path, month: str) -> int:
    from shutil import rmtree

    begin = datetime.strptime(f"{month}+0000", "%Y-%m%z")
    end = (begin + timedelta(days=32)).replace(day=1)
    work = root / _WORK
    records = jobs.job_files(ledger.shared, ledger.cluster or "")

    def split(con: duckdb.DuckDBPyConnection, hours: list[datetime]) -> int:
        con.execute("CREATE OR REPLACE TEMP TABLE record (job_id BIGINT, uid BIGINT)")
        if records:
            con.execute(f"INSERT INTO record {_RECORDS}", {"files": records})
        source = f"SELECT {_OWNED} FROM selected LEFT JOIN record USING (job_id)"  # noqa: S608
        return _hand_out(con, source, "hour, job_id, run, node", "ledger", month, root)

    chosen = Selection(holders=("job",), since=begin, until=end)
    written = ledger.ask(chosen, split) or 0
    mine = ledger.shared / "jobs" / (ledger.cluster or "") / f"month={month}.parquet"
    if mine.exists():
        with contextlib.closing(connect()) as con:
            source = f"SELECT * FROM read_parquet({quoted(str(mine))}, hive_partitioning = false)"  # noqa: S608
            written += _hand_out(con, source, "job_id, restart", "jobs", month, root)
    rmtree(work)
    work.mkdir(mode=0o700)
    return written


def _hand_out(con: duckdb.DuckDBPyConnection, source: str, order: str, kind: str, month: str, root: Path) -> int:
    """Split the rows of a query by uid, and give each user the user's own; returns how many files there are."""
    from hpccarbon.duck import duckdb

    room = root / _WORK / kind
    versions = {"ledger": schema.LEDGER_VERSION, "jobs": schema.JOBS_VERSION}
    keys = {"schema": kind, "version": str(versions[kind]), "month": month}
    pairs = ", ".join(f"{quoted(f'{schema.PRODUCED_BY}.{key}')}: {quoted(value)}" for key, value in keys.items())
    count = 0
    try:
        # One pass over the month; a user's part may still be in several files.
        con.execute(
            f"COPY (SELECT *, uid AS owner FROM ({source}) WHERE uid BETWEEN 0 AND {_MAX_UID})"  # noqa: S608
            f" TO {quoted(str(room))} (FORMAT parquet, PARTITION_BY (owner))"
        )
        for part in sorted(room.glob("owner=*")):
            uid = int(part.name.removeprefix("owner="))
            parts = quoted(f"{part}/*.parquet")
            whole = root / _WORK / f"{uid}.parquet"
            con.execute(
                f"COPY (FROM read_parquet({parts}, hive_partitioning = false) ORDER BY {order}) TO"
                f" {quoted(str(whole))} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{pairs}}})"
            )
            _give(whole, uid, root, f"{kind}.{month}.parquet")
            count += 1
    except duckdb.Error as err:
        raise ShardError(room, reason(err)) from err
    return count


def _give(made: Path, uid: int, root: Path, name: str) -> None:
    """Make a file a user's own and rename it into the user's directory."""
    with os.fdopen(os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o400)
        os.fchown(file.fileno(), uid, -1)
    home = root / str(uid)
    if not home.exists():
        fresh = root / _WORK / f"{uid}.d"
        fresh.mkdir(mode=0o700)
        with _directory(fresh) as descriptor:
            os.fchown(descriptor, uid, -1)
        fresh.rename(home)
    with _directory(home) as descriptor:
        if os.fstat(descriptor).st_uid != uid:
            raise HpcCarbonError(f"{home} does not belong to uid {uid}: remove it, and run `hpccarbon aggregate` again")
        os.fchmod(descriptor, 0o700)
        os.rename(made, name, dst_dir_fd=descriptor)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """A directory, open; a symbolic link in its place is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class OwnLedger(Ledger):
    """The ledger as far as it is this user's: the extracts, and nothing else. It knows hours, no minutes."""

    def __init__(self, shared: Path, cluster: str, uid: int, timezone: str = "UTC") -> None:
        super().__init__(shared, cluster, timezone)
        self.home = self.shared / ROOM / cluster / str(uid)

    def _files(self, kind: str) -> dict[str, str]:
        """Month -> file, of one kind."""
        try:
            names = sorted(os.listdir(self.home))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return {}
        except OSError as err:
            raise ShardError(self.home, f"{err.strerror} (it should be yours: ask whoever runs hpccarbon)") from err
        found = (_FILE.fullmatch(name) for name in names)
        return {one["month"]: str(self.home / one[0]) for one in found if one and one["kind"] == kind}

    def job_files_by_cluster(self) -> dict[str, list[str]]:
        """The user's own."""
        files = list(self._files("jobs").values())
        return {self.cluster or "": files} if files else {}

    def _sources(self, selection: Selection, *, by_bucket: bool) -> list[str]:
        from hpccarbon.duck import duckdb

        files = [path for path in self._files("ledger").values() if path not in self._broken]
        if by_bucket or not files:
            return []
        within = [
            f"hour_n {sign} {moment.timestamp() / HOUR_S!r}"
            for sign, moment in ((">=", selection.since), ("<", selection.until))
            if moment is not None
        ]
        source = f"SELECT * FROM ({from_files(files, self.cluster or '')}) WHERE {' AND '.join(within) or 'true'}"  # noqa: S608
        self._gathered = files
        try:
            hours = self._con.execute(f"SELECT DISTINCT hour_n FROM ({source})").fetchall()  # noqa: S608
        except duckdb.Error:
            if not self._damaged():
                raise
            return self._sources(selection, by_bucket=by_bucket)
        self._planned = {hour_n for (hour_n,) in hours}
        return [source]


def may_read_all(shared: Path) -> bool:
    """True, if this process may read the rooms that hold everybody's rows."""
    rooms = [shared / name for name in PRIVATE_ROOMS]
    return all(os.access(room, os.R_OK | os.X_OK) for room in rooms if os.path.lexists(room))


def open_own(config: Config, cluster: str) -> OwnLedger:
    """The extracts of this process's user. Raises: HpcCarbonError, if there are none."""
    shared, uid = Path(config.paths.shared_dir), os.geteuid()
    if not (shared / ROOM / cluster / str(uid)).is_dir():
        who = f"the group {config.admin_group}" if config.admin_group else "their owner and group"
        own = "; nothing of your own has been written yet" if config.privacy == "own" else ""
        raise HpcCarbonError(f"{shared}: shards and ledger of {cluster} are for {who}, and you are not in it{own}")
    return OwnLedger(shared, cluster, uid, config.report.timezone)
