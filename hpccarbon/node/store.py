"""The node's memory: divided energy and the raw counters it ends at, in one SQLite transaction. Never on a shared disk.

After `kill -9` the next start continues from the counters of the last transaction: nothing is lost, nothing is counted
twice. A transaction is on the disk when it returns (WAL, synchronous=FULL): a power cut takes the minute that was being
added up, and nothing that was committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from hpccarbon.errors import StoreError
from hpccarbon.node.attribution import Share
from hpccarbon.node.sampler import SYSTEM, Mark, Pending
from hpccarbon.node.usage.roster import RunKey
from hpccarbon.node.usage.steps import StepUse
from hpccarbon.records import Channel, Run
from hpccarbon.units import HOUR_S

VERSION = 1
Stored = TypeVar("Stored")
AT_ONCE = 24
"""Hours that `keep_within` removes in one call at most."""
_SYSTEM_ID, _UNALLOCATED_ID = 0, -1
_TABLES = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boot (id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, job_id INTEGER NOT NULL, run TEXT NOT NULL,
    facts TEXT NOT NULL, cores INTEGER, gpus INTEGER, last_hour INTEGER NOT NULL DEFAULT 0, UNIQUE (boot, job_id, run));
CREATE TABLE IF NOT EXISTS share (
    boot INTEGER NOT NULL, bucket INTEGER NOT NULL, run INTEGER NOT NULL,
    cpu_uj INTEGER, dram_uj INTEGER, gpu_uj INTEGER, other_uj INTEGER,
    idle_uj INTEGER NOT NULL, modelled_uj INTEGER NOT NULL, cpu_time_ns INTEGER NOT NULL,
    present_us INTEGER NOT NULL, covered_us INTEGER NOT NULL,
    PRIMARY KEY (boot, bucket, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meter (
    boot INTEGER NOT NULL, bucket INTEGER NOT NULL, channel TEXT NOT NULL,
    component TEXT NOT NULL, modelled INTEGER NOT NULL, energy_uj INTEGER NOT NULL, covered_us INTEGER NOT NULL,
    PRIMARY KEY (boot, bucket, channel)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hour (
    boot INTEGER NOT NULL, hour INTEGER NOT NULL, version INTEGER NOT NULL, sealed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (boot, hour)) WITHOUT ROWID;
"""
_STEP_TABLE = """
CREATE TABLE IF NOT EXISTS step (
    boot INTEGER NOT NULL, hour INTEGER NOT NULL, run INTEGER NOT NULL, step TEXT NOT NULL,
    cpu_uj INTEGER, dram_uj INTEGER, gpu_uj INTEGER, other_uj INTEGER, cpu_time_ns INTEGER NOT NULL,
    PRIMARY KEY (boot, hour, run, step)) WITHOUT ROWID
"""
"""Made when the store is opened to be written: stores of releases without it go on."""
_ADD_SHARE = """
INSERT INTO share VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    cpu_uj = coalesce(cpu_uj + excluded.cpu_uj, cpu_uj, excluded.cpu_uj),
    dram_uj = coalesce(dram_uj + excluded.dram_uj, dram_uj, excluded.dram_uj),
    gpu_uj = coalesce(gpu_uj + excluded.gpu_uj, gpu_uj, excluded.gpu_uj),
    other_uj = coalesce(other_uj + excluded.other_uj, other_uj, excluded.other_uj),
    idle_uj = idle_uj + excluded.idle_uj, modelled_uj = modelled_uj + excluded.modelled_uj,
    cpu_time_ns = cpu_time_ns + excluded.cpu_time_ns,
    present_us = present_us + excluded.present_us, covered_us = covered_us + excluded.covered_us
"""
_ADD_STEP = """
INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    cpu_uj = coalesce(cpu_uj + excluded.cpu_uj, cpu_uj, excluded.cpu_uj),
    dram_uj = coalesce(dram_uj + excluded.dram_uj, dram_uj, excluded.dram_uj),
    gpu_uj = coalesce(gpu_uj + excluded.gpu_uj, gpu_uj, excluded.gpu_uj),
    other_uj = coalesce(other_uj + excluded.other_uj, other_uj, excluded.other_uj),
    cpu_time_ns = cpu_time_ns + excluded.cpu_time_ns
"""
_ADD_METER = """
INSERT INTO meter VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    energy_uj = energy_uj + excluded.energy_uj, covered_us = covered_us + excluded.covered_us
"""


class Hour(NamedTuple):
    """One hour of one boot: `version` grows with every transaction on it, `sealed` is the one in the shard."""

    boot_id: str
    hour: int
    version: int
    sealed: int


class Row(NamedTuple):
    """A stored share with its holder's facts; `run` is None for system, unallocated and meters."""

    bucket: int
    holder: str
    run: Run | None
    cores: int | None
    gpus: int | None
    cpu_uj: int | None
    dram_uj: int | None
    gpu_uj: int | None
    other_uj: int | None
    idle_uj: int
    modelled_uj: int
    cpu_time_ns: int
    present_us: int
    covered_us: int


class MeterRow(NamedTuple):
    """What one meter counted in one bucket."""

    bucket: int
    channel: str
    component: str
    modelled: bool
    energy_uj: int
    covered_us: int


class StepRow(NamedTuple):
    """What one step of a run used in one hour."""

    job_id: int
    run: str
    step: str
    use: StepUse


class GivenUp(msgspec.Struct, frozen=True):
    """Hours that went from the store before a shard held them: how many, the first and the last (since the epoch)."""

    hours: int = 0
    first: int | None = None
    last: int | None = None

    def and_also(self, hour: int) -> GivenUp:
        """With one more."""
        known = [one for one in (self.first, self.last) if one is not None]
        return GivenUp(self.hours + 1, min([hour, *known]), max([hour, *known]))


class Store:
    """The store of one node. The daemon alone writes; the sealing child opens it with `readonly`.

    Raises: StoreError when the file cannot be opened, is not a store, or belongs to another cluster or node.
    """

    def __init__(self, path: Path, cluster: str, node: str, *, readonly: bool = False) -> None:
        self.path = path
        try:
            if readonly:
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
            else:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, timeout=1, isolation_level=None)
                path.chmod(0o600)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
            self._prepare(cluster, node, readonly)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as err:
            raise StoreError(f"store {path}: {err} (is paths.state_dir on a node-local disk with room?)") from err
        self._boots: dict[str, int] = {}

    def _prepare(self, cluster: str, node: str, readonly: bool) -> None:
        known = self._db.execute("SELECT name FROM sqlite_master WHERE name = 'state'").fetchone()
        if known is None and not readonly:
            with _transaction(self._db):
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._put("version", str(VERSION))
                self._put("owner", f"{cluster}/{node}")
        if not readonly:
            self._db.execute(_STEP_TABLE)
        version, owner = self.get("version"), self.get("owner")
        if version != str(VERSION):
            raise StoreError(
                f"store {self.path}: written by schema version {version}, this release reads {VERSION} (go back to the"
                " release that wrote it until its hours are sealed, then move the file away: docs/install.md, Upgrade)"
            )
        if owner != f"{cluster}/{node}":
            raise StoreError(
                f"store {self.path}: belongs to {owner}, not to {cluster}/{node} (put %n into paths.state_dir, "
                "or move the old store away)"
            )

    def get(self, key: str) -> str | None:
        """A remembered text. Raises: StoreError."""
        row = self._one("SELECT value FROM state WHERE key = ?", key)
        return row[0] if row else None

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What a question answers. Raises: StoreError, where the file is damaged: only a person can mend that."""
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as err:
            raise self._damaged(err) from err

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        found = self._rows(sql, *values)
        return found[0] if found else None

    def _decoded(self, text: Any, kind: type[Stored]) -> Stored:
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.ValidationError, msgspec.DecodeError, TypeError, UnicodeDecodeError) as err:
            raise self._damaged(err) from err

    def _damaged(self, err: Exception) -> StoreError:
        return StoreError(
            f"store {self.path}: damaged: {err} (move it away: the daemon begins a new one; what was sealed is in the"
            " shards)"
        )

    def _put(self, key: str, value: str) -> None:
        self._db.execute(
            "INSERT INTO state VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value)
        )

    def commit(self, pending: Pending, mark: Mark, channels: Sequence[Channel], about: str) -> None:
        """Write what was divided and the counters it ends at, both or neither.

        `about` is JSON about the node (meters, gaps) that the shard's metadata will carry.
        Raises: sqlite3.Error (full disk, for one); then nothing was written and `pending` is still the caller's.
        """
        kinds = {channel.key: channel for channel in channels}
        with _transaction(self._db):
            boot = self._boot(mark.boot_id)
            ids = {key: self._run(boot, key, run, pending) for key, run in pending.runs.items()}
            hours: set[int] = set()
            charged = set(ids.values())
            for (bucket, holder), share in pending.shares.items():
                if isinstance(holder, str):
                    holder_id = _SYSTEM_ID if holder == SYSTEM else _UNALLOCATED_ID
                else:
                    holder_id = ids[holder] if holder in ids else self._run_id(boot, holder)
                    charged.add(holder_id)
                hours.add(bucket // HOUR_S)
                self._db.execute(_ADD_SHARE, (boot, bucket, holder_id, *msgspec.structs.astuple(share)))
            for (bucket, key), (energy_uj, covered_us) in pending.meters.items():
                channel = kinds.get(key)
                component = channel.component if channel else "cpu"
                modelled = bool(channel and channel.modelled)
                hours.add(bucket // HOUR_S)
                self._db.execute(_ADD_METER, (boot, bucket, key, component, modelled, energy_uj, covered_us))
            for (hour, run_key, step), use in pending.steps.items():
                run_id = ids[run_key] if run_key in ids else self._run_id(boot, run_key)
                self._db.execute(_ADD_STEP, (boot, hour, run_id, step, *msgspec.structs.astuple(use)))
            for hour in hours:
                self._db.execute(
                    "INSERT INTO hour VALUES (?, ?, 1, 0) ON CONFLICT DO UPDATE SET version = version + 1", (boot, hour)
                )
            if hours and charged:  # all that were charged, not only the new: a run may last longer than hours are kept
                last = max(hours)
                self._db.executemany(
                    "UPDATE run SET last_hour = max(last_hour, ?) WHERE id = ?", [(last, run) for run in charged]
                )
            self._put("mark", msgspec.json.encode(mark).decode())
            self._put(f"about/{mark.boot_id}", about)

    def _boot(self, boot_id: str) -> int:
        if boot_id not in self._boots:
            self._db.execute("INSERT OR IGNORE INTO boot (boot_id) VALUES (?)", (boot_id,))
            row = self._db.execute("SELECT id FROM boot WHERE boot_id = ?", (boot_id,)).fetchone()
            self._boots[boot_id] = row[0]
        return self._boots[boot_id]

    def _run(self, boot: int, key: RunKey, run: Run, pending: Pending) -> int:
        cores, gpus = pending.alloc.get(key, (run.alloc_cores, len(run.alloc_gpus)))
        self._db.execute(
            "INSERT INTO run (boot, job_id, run, facts, cores, gpus) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET facts = excluded.facts, cores = excluded.cores, gpus = excluded.gpus",
            (boot, *key, msgspec.json.encode(run).decode(), cores, gpus),
        )
        return self._run_id(boot, key)

    def _run_id(self, boot: int, key: RunKey) -> int:
        row = self._db.execute("SELECT id FROM run WHERE boot = ? AND job_id = ? AND run = ?", (boot, *key)).fetchone()
        if row is None:
            raise StoreError(f"store {self.path}: no run {key}")
        return int(row[0])

    def resume(self) -> tuple[Mark, dict[RunKey, Run]] | None:
        """The last counters and the runs they know, or None for a new store. Raises: StoreError, if it is damaged."""
        text = self.get("mark")
        if text is None:
            return None
        mark = self._decoded(text, Mark)
        runs: dict[RunKey, Run] = {}
        for name in mark.groups:
            job_id, _, run = name.partition("/")
            if not job_id.isdecimal():
                raise self._damaged(ValueError(f"no run {name[:40]!r}"))
            row = self._one(
                "SELECT facts FROM run JOIN boot ON boot.id = run.boot WHERE boot_id = ? AND job_id = ? AND run = ?",
                mark.boot_id,
                int(job_id),
                run,
            )
            if row:
                runs[int(job_id), run] = self._decoded(row[0], Run)
        return mark, runs

    def hours(self, *, unsealed: bool = False) -> list[Hour]:
        """Hours in the store, oldest first; with `unsealed` only those whose shard is behind."""
        where = "WHERE version > sealed" if unsealed else ""
        rows = self._rows(
            f"SELECT boot_id, hour, version, sealed FROM hour JOIN boot ON boot.id = hour.boot {where} ORDER BY hour"  # noqa: S608
        )
        return [Hour(*row) for row in rows]

    def shares(self, hour: Hour) -> Iterator[Row]:
        """The shares of one hour, by job and bucket."""
        (boot,) = self._one("SELECT id FROM boot WHERE boot_id = ?", hour.boot_id) or (None,)
        runs: dict[int, tuple[Run, int | None, int | None]] = {}
        first = hour.hour * HOUR_S
        for bucket, run_id, *energies in self._rows(
            "SELECT bucket, run, cpu_uj, dram_uj, gpu_uj, other_uj, idle_uj, modelled_uj, cpu_time_ns, present_us, "
            "covered_us FROM share WHERE boot = ? AND bucket >= ? AND bucket < ?",
            boot,
            first,
            first + HOUR_S,
        ):
            if run_id <= 0:
                yield Row(bucket, "system" if run_id == _SYSTEM_ID else "unallocated", None, None, None, *energies)
                continue
            if run_id not in runs:
                found = self._one("SELECT facts, cores, gpus FROM run WHERE id = ?", run_id)
                if found is None:
                    raise self._damaged(ValueError(f"shares of a run that is not there ({run_id})"))
                runs[run_id] = (self._decoded(found[0], Run), found[1], found[2])
            yield Row(bucket, "job", *runs[run_id], *energies)

    def totals(self, boot_id: str, runs: Collection[RunKey]) -> dict[RunKey, Share]:
        """What these runs were charged so far, as far as the store still has it. Reads every share of the boot."""
        rows = self._rows(
            "SELECT job_id, run.run, sum(cpu_uj), sum(dram_uj), sum(gpu_uj), sum(other_uj), sum(idle_uj), "
            "sum(modelled_uj), sum(cpu_time_ns), sum(present_us), sum(covered_us) FROM share "
            "JOIN run ON run.id = share.run JOIN boot ON boot.id = share.boot WHERE boot_id = ? GROUP BY share.run",
            boot_id,
        )
        return {(row[0], row[1]): Share(*row[2:]) for row in rows if (row[0], row[1]) in runs}

    def meters(self, hour: Hour) -> Iterator[MeterRow]:
        """What the meters counted in one hour."""
        first = hour.hour * HOUR_S
        for row in self._rows(
            "SELECT bucket, channel, component, modelled, energy_uj, covered_us FROM meter "
            "JOIN boot ON boot.id = meter.boot WHERE boot_id = ? AND bucket >= ? AND bucket < ?",
            hour.boot_id,
            first,
            first + HOUR_S,
        ):
            yield MeterRow(*row)

    def steps(self, hour: Hour) -> Iterator[StepRow]:
        """What the steps of the runs used in one hour, where the daemon keeps them; most energy first."""
        for job_id, run, step, *use in self._rows(
            "SELECT job_id, run.run, step, cpu_uj, dram_uj, gpu_uj, other_uj, cpu_time_ns FROM step "
            "JOIN run ON run.id = step.run JOIN boot ON boot.id = step.boot WHERE boot_id = ? AND hour = ? "
            "ORDER BY coalesce(cpu_uj, 0) + coalesce(dram_uj, 0) + coalesce(gpu_uj, 0) + coalesce(other_uj, 0) DESC, "
            "job_id, run.run, step",
            hour.boot_id,
            hour.hour,
        ):
            yield StepRow(job_id, run, step, StepUse(*use))

    def mark_sealed(self, sealed: Iterable[tuple[str, int, int]]) -> None:
        """Remember (boot id, hour, version) that lie in their shards."""
        with _transaction(self._db):
            for boot_id, hour, version in sealed:
                self._db.execute(
                    "UPDATE hour SET sealed = max(sealed, ?) WHERE hour = ? "
                    "AND boot = (SELECT id FROM boot WHERE boot_id = ?)",
                    (version, hour, boot_id),
                )

    def drop_before(self, hour: int) -> int:
        """Remove sealed hours older than `hour`; how many went. An hour whose shard is behind is never removed."""
        old = self._db.execute("SELECT boot, hour FROM hour WHERE hour < ? AND sealed >= version", (hour,)).fetchall()
        with _transaction(self._db):
            for boot, gone in old:
                self._drop(boot, gone)
            if old:
                self._db.execute("DELETE FROM run WHERE last_hour < ? AND last_hour > 0", (hour,))
        return len(old)

    def _drop(self, boot: int, hour: int) -> None:
        span = (boot, hour * HOUR_S, (hour + 1) * HOUR_S)
        self._db.execute("DELETE FROM share WHERE boot = ? AND bucket >= ? AND bucket < ?", span)
        self._db.execute("DELETE FROM meter WHERE boot = ? AND bucket >= ? AND bucket < ?", span)
        self._db.execute("DELETE FROM step WHERE boot = ? AND hour = ?", (boot, hour))
        self._db.execute("DELETE FROM hour WHERE boot = ? AND hour = ?", (boot, hour))

    def used_bytes(self) -> int:
        """What the rows take; the file is larger by the pages that are free for the next ones."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def keep_within(self, limit_bytes: int, hour: int) -> GivenUp:
        """Remove whole hours before `hour`, the oldest first, until the rows take no more than `limit_bytes`.

        Hours that lie in their shards go first. Those that do not are lost when they go: they are remembered. The last
        counters stay, so what is counted from here on is right. At most a day goes at once: the loop is waiting.

        Returns: what was lost by this call.
        """
        known = self._db.execute(
            "SELECT boot, hour, sealed >= version AS safe FROM hour WHERE hour < ? ORDER BY safe DESC, hour", (hour,)
        ).fetchall()
        lost = GivenUp()
        for boot, old, safe in known[:AT_ONCE]:
            if self.used_bytes() <= limit_bytes:
                break
            with _transaction(self._db):
                self._drop(boot, old)
                if not safe:
                    lost = lost.and_also(old)
                    self._put("given_up", msgspec.json.encode(self.given_up().and_also(old)).decode())
        return lost

    def given_up(self) -> GivenUp:
        """The hours that were ever lost to the limit."""
        text = self.get("given_up")
        return GivenUp() if text is None else self._decoded(text, GivenUp)

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class _transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
            except sqlite3.Error:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
