"""Targets that read text: configuration, job files, sacct, node lists, tables and replies of intensity services."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import timezone
from pathlib import Path

from click import BadParameter

from hpccarbon import config, hostlist
from hpccarbon.carbon import providers, series
from hpccarbon.carbon.providers import entsoe, site
from hpccarbon.carbon.providers.base import Service
from hpccarbon.carbon.series import MAX_G_PER_KWH, Point
from hpccarbon.cli.common import parse_month, parse_time
from hpccarbon.config import Carbon, Provider
from hpccarbon.errors import CarbonError, ConfigError, HpcCarbonError, SlurmError
from hpccarbon.node.usage.jobs import JobFiles, facts
from hpccarbon.report.job import parse_wanted
from hpccarbon.report.usage import parse_by
from hpccarbon.slurm import accounting
from tests.carbon import test_entsoe
from tests.carbon.server import Answer, Asked, Server
from tests.carbon.test_providers import CASES, NOW, SINCE, UNTIL, Case
from tests.fuzz.target import Check, WrongTotal

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CAPTURED = REPOSITORY / "tests" / "slurm" / "captured"
INT32, INT64 = 2**31, 2**63


def text(data: bytes) -> str:
    """The text that a file of these bytes would be read as."""
    return data.decode("utf-8", "replace")


@contextlib.contextmanager
def config_file(room: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        with contextlib.suppress(ConfigError):
            config.parse(data, "fuzzed")

    yield check


def config_seeds() -> list[bytes]:
    return [
        (REPOSITORY / "slurm_scripts" / "hpccarbon.toml.example").read_bytes(),
        b'cluster = "a"\nprivacy = "own"\n[carbon]\npue = 1.2\npue_of_year = {2025 = 1.3}\nzone = "DE"\n',
        b'[carbon.places.east]\nnodes = "n[1-3]"\npue = 1.1\n[carbon.providers.site_http]\nbase_url = "https://x/"\n',
        b'[budgets.all]\nkwh = 100\nperiod = "month"\n[bmc]\nkind = "redfish"\nurl = "https://%n-bmc"\n',
    ]


@contextlib.contextmanager
def sacct(room: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        with contextlib.suppress(SlurmError):
            records = accounting.numbered(accounting.parse_sacct(text(data), "@@"))
            for record in records:
                whole = (record.job_id, record.uid, record.elapsed_s, record.total_cpu_us, record.consumed_energy_j)
                if any(value is not None and not 0 <= value < INT64 for value in whole):
                    raise WrongTotal(f"a number that no column can hold: {whole}")
                if any(not 0 <= (value or 0) < INT32 for value in (record.alloc_cores, record.alloc_nodes)):
                    raise WrongTotal(f"a count that no column can hold: {record.alloc_cores}, {record.alloc_nodes}")

    yield check


def sacct_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CAPTURED.glob("*.txt"))]


@contextlib.contextmanager
def job_file(room: Path) -> Iterator[Check]:
    path = room / "4711.0.prolog"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for file in JobFiles(room).new():
            run = facts(file, "n1")
            words = (run.user, run.account, run.partition, run.sluid)
            if any(word is not None and len(word) > 256 for word in words):
                raise WrongTotal("a word without a limit")
            if not (run.uid is None or 0 <= run.uid < INT64):
                raise WrongTotal(f"uid {run.uid}")
            if not (run.alloc_cores is None or 0 <= run.alloc_cores < INT32) or len(run.alloc_gpus) > 4096:
                raise WrongTotal(f"cores {run.alloc_cores}, {len(run.alloc_gpus)} GPUs")

    yield check


def job_file_seeds() -> list[bytes]:
    return [
        b"SLURM_JOB_ID=7\nSLURM_JOB_UID=1000\nSLURM_JOB_USER=ada\nSLURM_JOB_ACCOUNT=acct\nSLURM_JOB_PARTITION=batch\n"
        b"SLURM_JOB_CPUS_PER_NODE=8(x2),4\nSLURM_JOB_NODELIST=n[1-3]\nSLURMD_NODENAME=n1\nEND\n",
        b"SLURM_JOB_GPUS=0,1\nSLURM_JOB_SLUID=s0123456789abc\nSLURM_JOB_CPUS_PER_NODE=64\nSLURMD_NODENAME=n1\nEND\n",
    ]


@contextlib.contextmanager
def node_list(room: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            names = hostlist.expand(text(data))
            if len(names) > hostlist.MAX_NAMES:
                raise WrongTotal(f"{len(names)} names")
            if len(names) < 1000 and hostlist.expand(",".join(names)) != names:
                raise WrongTotal("names written out are not the names")

    yield check


def node_list_seeds() -> list[bytes]:
    return [b"n[1-3,7],gpu[01-04]-ib", b"r[1-2]n[1-3]", b"a,b,c", b"n[1-100000]", b"n[08-11],n1", b"(null)"]


@contextlib.contextmanager
def command_line(room: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        word = text(data)
        for parse in (lambda: parse_wanted((word,)), lambda: parse_by(word)):
            with contextlib.suppress(HpcCarbonError):
                parse()
        for moment in (parse_time, parse_month):
            with contextlib.suppress(BadParameter):
                moment(word, timezone.utc, NOW)

    yield check


def command_line_seeds() -> list[bytes]:
    return [b"123", b"4800_3,4800_7", b"12+1", b"user,month", b"2026-03-01T14:30", b"30d", b"last", b"2026-03"]


def _points(points: list[Point]) -> None:
    for point in points:
        if not 0 <= point.g_per_kwh <= MAX_G_PER_KWH:
            raise WrongTotal(f"an intensity of {point.g_per_kwh}")
    for value, _, _ in series.to_hours(points).values():
        if value is not None and not 0 <= value <= MAX_G_PER_KWH:
            raise WrongTotal(f"an hour of {value}")


@contextlib.contextmanager
def intensity_table(room: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        with contextlib.suppress(CarbonError):
            _points(site.points_of(site.parse_csv(text(data), "fuzzed"), "DE", {}, "fuzzed"))

    yield check


def intensity_table_seeds() -> list[bytes]:
    return [
        b"start,zone,g_co2e_per_kwh,kind\n2026-11-20T12:00:00Z,DE,350.5,\n2026-11-20T13:00:00+01:00,DE,,\n",
        b"start,g_co2e_per_kwh\n2026-11-20T12:00:00Z,350\n2026-11-20T12:30:00Z,360\n",
    ]


@contextlib.contextmanager
def entsoe_document(room: Path) -> Iterator[Check]:
    factors, _ = entsoe.factors_of("lifecycle")

    def check(data: bytes) -> None:
        with contextlib.suppress(CarbonError):
            _points(entsoe.intensities(entsoe.parse_generation(data, test_entsoe.FI), factors))

    yield check


def entsoe_seeds() -> list[bytes]:
    entries = [test_entsoe.entry("B04", {1: 100, 3: 50}), test_entsoe.entry("B16", {1: 5.5, 2: 0})]
    return [test_entsoe.document(*entries), test_entsoe.document()]


@contextlib.contextmanager
def replies(room: Path) -> Iterator[Check]:
    """Every service in turn, over a real socket: the first byte chooses which."""
    body = [b""]

    def answer(asked: Asked) -> Answer:
        if asked.path == "/login":
            return Answer(b'{"token": "t0ken"}')
        return Answer(body[0])

    with Server(answer).running() as server:
        slept: list[float] = []

        def made(case: Case) -> Service:
            given = Provider(base_url=server.url, timeout_s=5, **case.given)
            settings = Carbon(providers={case.name: given})
            return providers.make(case.name, settings, case.basis, NOW, slept.append)  # type: ignore[arg-type]

        ready = [(case, made(case)) for case in CASES if not providers.SERVICES[case.name].needs_key]

        def check(data: bytes) -> None:
            if data:
                case, service = ready[data[0] % len(ready)]
                body[0] = data[1:]
                with contextlib.suppress(CarbonError, ConfigError):
                    _points(service.fetch(case.zone, SINCE, UNTIL).points)

        yield check


def reply_seeds() -> list[bytes]:
    ready = [case for case in CASES if not providers.SERVICES[case.name].needs_key]
    return [bytes([at]) + json.dumps(case.good()).encode() for at, case in enumerate(ready)]
