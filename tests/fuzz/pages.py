"""The target that writes: a report with any string for a name, an account, a partition, as text, CSV and JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import timezone
from pathlib import Path
from typing import Any

import msgspec

from hpccarbon.report.job import JobReport
from hpccarbon.report.render import files, text
from hpccarbon.report.render.text import Screen
from hpccarbon.report.usage import UsageReport
from tests import hostile
from tests.fuzz.target import Check, WrongTotal

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
_CHOSEN = frozenset(("name", "user", "account", "partition", "qos", "state", "exit_code", "cluster"))


@contextlib.contextmanager
def report(room: Path) -> Iterator[Check]:
    plain = [json.loads((GOLDEN / name).read_text()) for name in ("job.json", "usage.json")]

    def check(data: bytes) -> None:
        name = data.decode("utf-8", "replace")
        job = msgspec.convert(_named(plain[0], name), JobReport)
        usage = msgspec.convert(_named(plain[1], name), UsageReport)
        screen = Screen(80, False, timezone.utc)
        for page in (text.jobs_text(job, screen), text.usage_text(usage, screen, 40)):
            if found := hostile.obeyed(page):
                raise WrongTotal(f"a terminal would obey {found}")
            if max(map(len, page.splitlines())) > 80 and name.isascii():
                raise WrongTotal("wider than the screen")
        for one in (job, usage):
            table = files.csv_text(one)
            if found := hostile.formulas(table) or hostile.obeyed(table.replace("\r\n", "\n")):
                raise WrongTotal(f"a spreadsheet would calculate {found}")
            written = files.json_text(one)
            if not written.isascii() or msgspec.json.decode(written, type=type(one)) != one:
                raise WrongTotal("JSON does not read back as it was")

    yield check


def _named(value: Any, name: str) -> Any:
    """The report with `name` in every place that a user chooses."""
    if isinstance(value, dict):
        return {key: _chosen(key, one, name) for key, one in value.items()}
    return [_named(one, name) for one in value] if isinstance(value, list) else value


def _chosen(key: str, value: Any, name: str) -> Any:
    if key in _CHOSEN and isinstance(value, str):
        return name
    if key == "key" and isinstance(value, list):
        return [name if isinstance(one, str) else one for one in value]
    return _named(value, name)


def report_seeds() -> list[bytes]:
    return [name.encode() for name in hostile.storable().values()]
