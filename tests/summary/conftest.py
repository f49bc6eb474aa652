"""The site of year.py, its summary, and a real browser, each once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from hpccarbon import config
from hpccarbon.cli.common import parse_month
from hpccarbon.report.month import summary
from hpccarbon.report.summary import Summary
from hpccarbon.site.ledger import Ledger
from tests.summary import year

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file of the site."""
    return year.build(tmp_path_factory.mktemp("year"))


@pytest.fixture(scope="session")
def ledger(site: Path) -> Ledger:
    return Ledger(site.parent / "shared", "alpha", "Europe/Berlin")


@pytest.fixture(scope="session")
def march(site: Path, ledger: Ledger) -> Summary:
    return summary(config.load(site), ledger, parse_month("2026-03", BERLIN, year.NOW), year.NOW, BERLIN)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium as Debian packages it; playwright only steers it."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("NO CHROMIUM: apt-get install chromium (as root, `make setup` does)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root in a container has no user namespaces for the sandbox; the pages are our own.
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
