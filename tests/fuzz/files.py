"""Targets that are files of the shared directory and the store: a damaged one is named, and costs no other a joule."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpccarbon import schema
from hpccarbon.errors import HpcCarbonError, ShardError, StoreError
from hpccarbon.node.seal import STORE_NAME
from hpccarbon.node.store import Store
from hpccarbon.site import index, packs, shards
from hpccarbon.site.aggregate import aggregate, aggregate_hour
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.verify import verify
from hpccarbon.units import NS_PER_S
from tests import hostile
from tests.fuzz.target import Check, WrongTotal
from tests.node.virtual import Node, tick
from tests.site import maker

EVERYONE = Selection(holders=("job", "system", "unallocated", "meter"))
_FEW = range(2)


@contextlib.contextmanager
def shard(room: Path) -> Iterator[Check]:
    """A shard of any bytes beside a good one: it is set aside by name, or the ledger holds exactly its sums."""
    maker.write(room, maker.node_hour(1, minutes=_FEW), node="n2")
    fuzzed = room / "shards/alpha/date=2026-03-01/hour=10" / f"n1.{maker.BOOT}.parquet"
    target = room / "out.parquet"
    expected = _sums_of(_rows(fuzzed.with_name(f"n2.{maker.BOOT}.parquet")))

    def check(data: bytes) -> None:
        fuzzed.write_bytes(data)
        _, faults = aggregate_hour(shards.list_hour(str(fuzzed.parent)), "alpha", maker.HOUR, target, threads=1)
        if [fault for fault in faults if fault.path != str(fuzzed)]:
            raise WrongTotal(f"a good shard was set aside: {faults}")
        ledger = pq.read_table(target, partitioning=None).to_pylist()
        if _sums_of([row for row in ledger if row["node"] == "n2"]) != expected:
            raise WrongTotal("the good shard's sums have changed")
        if not faults:
            _same_sums([row for row in ledger if row["node"] == "n1"], fuzzed)

    yield check


def _same_sums(ledger: list[dict[str, Any]], path: Path) -> None:
    """The ledger of a shard that was taken holds what Arrow, which is not our engine, reads in the shard."""
    try:
        rows = _rows(path)
    except (pa.ArrowException, OSError):
        return  # a reader of other taste; what our engine took, it checked
    if _sums_of(ledger) != _sums_of(rows):
        raise WrongTotal(f"the ledger says {_sums_of(ledger)}, the shard {_sums_of(rows)}")


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    return rows


Sums = dict[str, tuple[int, ...]]


def _sums_of(rows: list[dict[str, Any]]) -> Sums:
    """holder -> sums of the sum columns."""
    found: dict[str, list[int]] = {}
    for row in rows:
        sums = found.setdefault(row["holder"], [0] * len(schema.SUM_COLUMNS))
        for at, name in enumerate(schema.SUM_COLUMNS):
            sums[at] += row[name] or 0
    return {holder: tuple(sums) for holder, sums in found.items()}


def shard_seeds() -> list[bytes]:
    """A shard as it should be, and some that are wrong in ways that mutation seldom finds."""
    with contextlib.ExitStack() as stack:
        room = Path(stack.enter_context(_temporary()))
        rows = maker.node_hour(2, minutes=_FEW)
        seeds = [maker.write(room, rows).read_bytes()]
        huge = [row | {"cpu_uj": 10**18} if row["holder"] == "job" else row for row in rows]
        seeds.append(maker.write(room, huge).read_bytes())
        seeds.append(maker.write(room, [row | {"present_ms": 2**62} for row in rows]).read_bytes())
        joules = [row | {name: (row[name] or 0) // 10**6 for name in schema.ENERGY_COLUMNS} for row in rows]
        seeds.append(maker.write(room, joules, metadata={"units": "J"}).read_bytes())
        seeds.append(maker.write(room, rows, metadata={"version": "999"}).read_bytes())
        table = pq.read_table(io.BytesIO(seeds[0]))
        seeds += [
            _parquet(table.drop_columns(["covered_ms"]), table.schema.metadata),
            _parquet(table.set_column(9, "cpu_uj", table["cpu_uj"].cast(pa.float64())), table.schema.metadata),
            _parquet(table.set_column(9, "cpu_uj", table["cpu_uj"].cast(pa.string())), table.schema.metadata),
            _parquet(table.append_column("extra", table["cpu_uj"]), table.schema.metadata),
            _parquet(table.slice(0, 0), table.schema.metadata),
            b"PAR1PAR1",
            b"",
        ]
    return seeds


def _parquet(table: pa.Table, metadata: dict[bytes, bytes]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def _temporary() -> contextlib.AbstractContextManager[str]:
    import tempfile

    return tempfile.TemporaryDirectory(prefix="hpccarbon-fuzz-")


_edges = st.sampled_from((0, 1, 10**13, 10**16, 10**16 + 1, 10**17, 10**18, 2**62, 2**63 - 1, -1, -(10**18)))
_values = st.none() | st.integers(0, 10**12) | _edges
_drawn_row = st.fixed_dictionaries(
    {
        "minute": st.integers(-61, 121) | st.integers(0, 59),
        "holder": st.sampled_from(("job", "system", "unallocated", "meter", "Job", "")),
        "job_id": st.none() | st.integers(1, 3) | _edges,
        "run": st.none() | st.sampled_from(("a", "")),
        "uid": _values,
        "user": st.none() | st.sampled_from(sorted(hostile.storable().values())),
        **dict.fromkeys(schema.SUM_COLUMNS, _values),
        "alloc_cores": st.none() | st.sampled_from((0, 64, 2**31 - 1, -1)),
    }
)
_drawn_rows = st.lists(_drawn_row, max_size=8)


@contextlib.contextmanager
def drawn_shard(room: Path) -> Iterator[Check]:
    """A whole Parquet file of the right columns with any values in them, as Hypothesis draws them from the bytes."""
    with shard(room) as judge:
        path = room / "shards/alpha/date=2026-03-01/hour=10" / f"n1.{maker.BOOT}.parquet"

        @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(_drawn_rows, st.booleans())
        def any_rows(drawn: list[dict[str, Any]], balanced: bool) -> None:
            rows = []
            for one in drawn:
                bucket = maker.HOUR + timedelta(minutes=one["minute"])
                values = {name: value for name, value in one.items() if name != "minute"}
                for column in schema.SHARD:
                    if not column.nullable and values.get(column.name, 0) is None:
                        values[column.name] = 0
                rows.append(maker.row(bucket, **values))
            if balanced:
                rows += maker.meter_rows([row for row in rows if row["holder"] != "meter"])
            with contextlib.suppress(pa.ArrowInvalid, OverflowError):
                maker.write(room, rows)
                judge(path.read_bytes())

        feed: Callable[[bytes], object] = any_rows.hypothesis.fuzz_one_input  # type: ignore[attr-defined]

        def check(data: bytes) -> None:
            feed(data)

        yield check


def drawn_seeds() -> list[bytes]:
    rng = random.Random(7)
    return [rng.randbytes(400) for _ in range(60)]


@cache
def _site() -> Path:
    """A small site with its ledger, kept for the life of the process."""
    import tempfile

    shared = Path(tempfile.mkdtemp(prefix="hpccarbon-fuzz-site-"))
    maker.write(shared, maker.node_hour(1, minutes=_FEW), node="n1")
    later = maker.HOUR + timedelta(hours=1)
    maker.write(shared, maker.node_hour(2, hour=later, minutes=_FEW), hour=later, node="n1")
    with open_crew(1) as crew:
        aggregate(shared, "alpha", crew)
    return shared


@contextlib.contextmanager
def ledger(room: Path) -> Iterator[Check]:
    """A ledger file and its index of any bytes: each total is the shards' own, or the file is named.

    The first byte chooses which of the two.
    """
    shared = room / "site"
    shutil.copytree(_site(), shared)
    path = index.ledger_path(shared, "alpha", maker.HOUR)
    files = (path, shared / "ledger/alpha/.index/2026-03.json")
    good = [file.read_bytes() for file in files]
    truth = _energies(Ledger(shared, "alpha"))

    def check(data: bytes) -> None:
        for file, content in zip(files, good, strict=True):
            file.write_bytes(content)
        files[(data[:1] or b"\0")[0] % 2].write_bytes(data[1:])
        with contextlib.closing(Ledger(shared, "alpha")) as asked:
            try:
                rows = _energies(asked)
            except ShardError:
                return
            # Parquet has no checksum: a bit that turned within a value is found by who adds up the meters.
            if rows != truth and not asked.faults and not verify(shared, "alpha").faults:
                raise WrongTotal("another total, and neither the reader nor `verify` names a fault")

    yield check


def _energies(asked: Ledger) -> list[tuple[object, ...]]:
    rows = asked.energy(EVERYONE, ("hour", "holder"))
    return [(*row.key, row.energy_uj, row.cpu_uj, row.idle_uj, row.modelled_uj, row.cpu_time_us) for row in rows]


def ledger_seeds() -> list[bytes]:
    shared = _site()
    content = index.ledger_path(shared, "alpha", maker.HOUR).read_bytes()
    return [b"\0" + content, b"\1" + (shared / "ledger/alpha/.index/2026-03.json").read_bytes()]


@contextlib.contextmanager
def pack(room: Path) -> Iterator[Check]:
    """A day's pack of any bytes: it is refused by name, or every shard comes out with its listed size."""
    day = room / "shards/alpha/date=2026-03-01"
    day.mkdir(parents=True)
    numbers = itertools.count()

    def check(data: bytes) -> None:
        (day / packs.PACK).write_bytes(data)
        target = room / str(next(numbers))
        try:
            for hour in packs.packed(day):
                for one in packs.unpack(day, hour, target / hour):
                    if Path(one.path).stat().st_size != one.size:
                        raise WrongTotal(f"{one.name} came back with another size")
        except ShardError:
            pass
        finally:
            shutil.rmtree(target, ignore_errors=True)

    yield check


def pack_seeds() -> list[bytes]:
    with _temporary() as name:
        shared = Path(name)
        maker.site(shared, hours=2, nodes=1, jobs_per_node=1)
        day = shared / "shards/alpha/date=2026-03-01"
        packs.pack(day, {hour.name: shards.list_hour(str(hour)) for hour in day.glob("hour=*")})
        whole = (day / packs.PACK).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        header = archive.getmembers()[1].offset
    return [whole[: header + 2048], whole]


@contextlib.contextmanager
def store(room: Path) -> Iterator[Check]:
    """A node's store of any bytes: a daemon that starts on it says what is wrong, or goes on."""
    path = room / STORE_NAME

    def check(data: bytes) -> None:
        for old in room.iterdir():
            old.unlink()
        path.write_bytes(data)
        try:
            opened = Store(path, "virtual", "n1")
        except StoreError:
            return
        try:
            opened.resume()
            for hour in opened.hours():
                list(opened.shares(hour))
                list(opened.meters(hour))
        except HpcCarbonError:
            pass
        finally:
            opened.close()

    yield check


def store_seeds() -> list[bytes]:
    with _temporary() as name:
        node = Node(Path(name))
        config = node.config()
        made = Store(config.state_dir("n1") / STORE_NAME, config.cluster, "n1")
        sampler = node.sampler(config)
        tick(sampler, node)
        node.start(7)
        for _ in range(3):
            node.run(NS_PER_S, {7: 1.0})
            tick(sampler, node)
        mark = sampler.settle()
        assert mark is not None
        made.commit(sampler.pending, mark, sampler.channels, "{}")
        made.close()
        sampler.close()
        return [(config.state_dir("n1") / STORE_NAME).read_bytes()]
