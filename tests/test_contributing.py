"""The examples of docs/CONTRIBUTING.md work as they stand there, and are as short as the page says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import pytest

from hpccarbon.carbon.providers.base import Service
from hpccarbon.carbon.providers.http import Malformed
from hpccarbon.config import Carbon, Config, Meters, Provider
from hpccarbon.node import meters
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Gap, Reading
from tests.carbon.server import Answer, Asked, Server

PAGE = Path(__file__).resolve().parent.parent / "docs" / "CONTRIBUTING.md"
SINCE = datetime(2026, 11, 20, 9, tzinfo=timezone.utc)
UNTIL = datetime(2026, 11, 20, 11, tzinfo=timezone.utc)


def example(name: str) -> ModuleType:
    """The code block of the page that defines a class of this name, as a module that can be imported."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if f"class {name}" in block)
    assert len([line for line in code.splitlines() if line]) < 50, "the page promises under 50 lines"
    module = ModuleType(f"example_{name}")
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    return module


@pytest.fixture
def strip() -> Iterator[None]:
    """The meter has its line in the table, as the page says."""
    meters.TABLE["strip"] = example("StripMeter").__name__
    yield
    del meters.TABLE["strip"]


@pytest.mark.usefixtures("strip")
def test_the_meter_counts_is_listed_and_leaves_a_gap(tmp_path: Path) -> None:
    config = Config(meters=Meters(enabled=("strip",)))
    counter = tmp_path / "run" / "power-strip" / "energy_uj"
    (absent,) = meters.discover(SysRoot(tmp_path), config)
    assert (list(absent.channels), [finding.state for finding in absent.findings]) == ([], ["missing"])
    counter.parent.mkdir(parents=True)
    counter.write_text("123456\n")
    assert absent.refresh()
    assert absent.read(at_ns=7) == [Reading("strip", "outlet", 7, 123456)]
    counter.write_text("out of order\n")
    assert absent.read(at_ns=8) == [Gap("strip", "outlet", 8, "expected one integer")]
    absent.close()


@pytest.mark.parametrize("value", [412.5, None])
def test_the_provider_gives_hours_and_no_zero_for_null(value: float | None) -> None:
    def answer(asked: Asked) -> Answer:
        assert (asked.path, asked.query["zone"]) == ("/v1/hours", "NORTH")
        rows = [{"at": "2026-11-20T09:00:00Z", "g_per_kwh": 380}, {"at": "2026-11-20T10:00:00Z", "g_per_kwh": value}]
        return Answer(json.dumps(rows).encode())

    with Server(answer).running() as server:
        fetched = made(server.url).fetch("NORTH", SINCE, UNTIL)
    wanted = [380.0] if value is None else [380.0, value]
    assert [point.g_per_kwh for point in fetched.points] == wanted
    assert [point.start % 3600 for point in fetched.points] == [0] * len(wanted)


def test_the_provider_refuses_what_was_not_documented() -> None:
    reply = Answer(b'[{"at": "yesterday", "g_per_kwh": 1}]')
    with Server(lambda asked: reply).running() as server, pytest.raises(Malformed, match="regional_grid"):
        made(server.url).fetch("NORTH", SINCE, UNTIL)


def made(url: str) -> Service:
    """The example as `providers.make` makes a service."""
    given = Provider(base_url=url, timeout_s=2)
    service: Service = example("RegionalGrid").RegionalGrid(given, Carbon().basis, UNTIL, lambda wait_s: None)
    return service
