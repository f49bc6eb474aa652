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
from hpccarbon.records import Reading
from tests.carbon.server import Answer, Asked, Server

PAGE = Path(__file__).resolve().parent.parent / "docs" / "CONTRIBUTING.md"
SINCE = datetime(2026, 11, 20, 9, tzinfo=timezone.utc)
UNTIL = datetime(2026, 11, 20, 11, tzinfo=timezone.utc)


def block(of: str) -> str:
    """The code block of the page that has this line's beginning."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = (one for one in blocks if f"\n{of}" in one)
    return str(code)


def lines(code: str) -> int:
    """How many there are, without the empty ones."""
    return len([line for line in code.splitlines() if line])


def module(name: str, code: str) -> ModuleType:
    """The code as a module that can be imported."""
    made = ModuleType(name)
    exec(compile(code, str(PAGE), "exec"), made.__dict__)
    sys.modules[name] = made
    return made


@pytest.fixture
def strip() -> Iterator[ModuleType]:
    """The meter where the page puts it, with its line in the table."""
    made = module("hpccarbon.node.meters.strip", block("class StripMeter"))
    meters.TABLE["strip"] = made.__name__
    meters.__dict__["strip"] = made
    yield made
    del meters.TABLE["strip"], meters.__dict__["strip"], sys.modules[made.__name__]


def test_a_meter_and_its_test_are_as_short_as_the_page_says() -> None:
    assert lines(block("class StripMeter")) + lines(block("def test_what_is_no_number")) < 50


@pytest.mark.usefixtures("strip")
def test_the_meters_own_test_passes_and_can_fail(tmp_path: Path) -> None:
    code = block("def test_what_is_no_number")
    module("example_test", code).test_what_is_no_number_is_a_gap_and_not_a_zero(tmp_path / "right")
    wrong = module("example_test", code.replace('"123456', '"0'))
    with pytest.raises(AssertionError):
        wrong.test_what_is_no_number_is_a_gap_and_not_a_zero(tmp_path / "wrong")


@pytest.mark.usefixtures("strip")
def test_the_meter_is_listed_and_forgets_no_channel(tmp_path: Path) -> None:
    config = Config(meters=Meters(enabled=("strip",)))
    counter = tmp_path / "run" / "power-strip" / "energy_uj"
    (found,) = meters.discover(SysRoot(tmp_path), config)
    assert (list(found.channels), [finding.state for finding in found.findings]) == ([], ["missing"])
    assert found.read(at_ns=6) == []
    counter.parent.mkdir(parents=True)
    counter.write_text("123456\n")
    assert found.refresh()
    assert not found.refresh()
    assert found.read(at_ns=7) == [Reading("strip", "outlet", 7, 123456)]
    counter.unlink()
    assert found.refresh()
    assert (list(found.channels), found.read(at_ns=8)) == ([], [])
    found.close()


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
    service: Service = module("example_grid", block("class RegionalGrid")).RegionalGrid(
        given, Carbon().basis, UNTIL, lambda wait_s: None
    )
    return service
