"""The month's page in a real browser: quiet, offline, readable at every width, by keyboard and by screen readers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hpccarbon.report.render.html import month_page, plain
from hpccarbon.report.summary import Summary
from tests import hostile
from tests.report.fixed import HOSTILE
from tests.report.golden import check

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def page_file(march: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "summary-2026-03.html"
    path.write_text(month_page(march), encoding="utf-8")
    return path


class Watched:
    """A page that remembers what it asked for and what it complained of."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280, **options: Any) -> None:
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.goto(path.as_uri())

    def problems(self) -> list[str]:
        return self.said + [url for url in self.asked[1:] if not url.startswith("data:")]


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark"), (1600, "light")])
def test_quiet_offline_and_no_wider_than_the_window(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    watched = Watched(browser, page_file, width, color_scheme=scheme)
    assert watched.problems() == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    cut = watched.page.evaluate(
        """[...document.querySelectorAll("figure text")].filter(text => {
            const [a, b] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
            return a.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1);
        }).map(text => text.textContent)"""
    )
    assert cut == [], "labels are cut"
    watched.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1600, "dark")])
def test_axe_finds_nothing(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched = Watched(browser, page_file, width, color_scheme=scheme)
    # axe is injected by the debugger, which the page's own policy does not bind.
    found = Axe().run(watched.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found] == []
    watched.page.close()


def test_a_newcomer_sees_first_how_well_it_is_known(browser: Browser, page_file: Path) -> None:
    watched = Watched(browser, page_file)
    seen = watched.page.evaluate(
        """[...document.querySelectorAll("h1, h2, li strong")].map(e => e.textContent).slice(0, 14)"""
    )
    headings = watched.page.locator("h2").all_inner_texts()
    assert headings[:2] == ["How well this is known", "Total"]
    assert "100 %" not in seen[2], "what is not quite all is not called all"
    text = watched.page.locator("main").inner_text()
    for needed in ("Covered", "Measured", "Hourly intensity", "grid operator of the example", "PUE"):
        assert needed in text
    watched.page.close()


def test_pointing_at_a_bar_tells_its_value(browser: Browser, page_file: Path) -> None:
    watched = Watched(browser, page_file)
    watched.page.locator("figure .in-wide svg [data-tip^='2026-03-05: jobs']").hover()
    tip = watched.page.locator(".tip")
    assert tip.is_visible()
    assert re.fullmatch(r"2026-03-05: jobs [\d.]+ k?Wh", tip.inner_text())
    watched.page.close()


def test_tables_sort_by_keyboard(browser: Browser, page_file: Path) -> None:
    watched = Watched(browser, page_file)
    table = watched.page.locator("table", has_text="Users, most energy first")
    before = table.locator("tbody th").all_inner_texts()
    button = table.locator("thead button").first
    button.focus()
    watched.page.keyboard.press("Enter")
    assert table.locator("thead th").first.get_attribute("aria-sort") == "descending"
    after = table.locator("tbody th").all_inner_texts()
    assert after == sorted(before, key=str.lower, reverse=True)
    assert after != before
    watched.page.close()


def test_tables_and_charts_are_there_without_scripts(browser: Browser, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("table").count() >= 8
    assert page.locator("tbody tr").count() > 40
    assert page.locator("figure svg").count() == 6
    assert page.locator("figure svg title").count() > 100, "a browser shows the values by itself"
    context.close()


def test_on_paper_it_is_a_few_black_on_white_pages(browser: Browser, page_file: Path) -> None:
    watched = Watched(browser, page_file, color_scheme="dark")
    pdf = watched.page.pdf(prefer_css_page_size=True)
    watched.page.emulate_media(media="print")
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not watched.page.locator(".skip").is_visible()
    assert pdf.startswith(b"%PDF-")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 12
    watched.page.close()


def test_no_name_is_obeyed(browser: Browser, march: Summary, tmp_path: Path) -> None:
    """All of the corpus at once, in every place of the page where somebody chose a string."""
    names = [*hostile.storable().values(), HOSTILE]
    lines = [msgspec.structs.replace(march.users[0], name=name) for name in names]
    job, budget = march.jobs[0], march.budgets[0]
    made = msgspec.structs.replace(
        march,
        cluster=names[-1],
        users=lines,
        accounts=lines,
        partitions=lines,
        jobs=[msgspec.structs.replace(job, name=name, user=name, account=name, state=name) for name in names],
        nodes=[msgspec.structs.replace(march.nodes[0], node=name) for name in names],
        budgets=[msgspec.structs.replace(budget, name=name) for name in names],
    )
    path = tmp_path / "hostile.html"
    path.write_text(month_page(made), encoding="utf-8")
    watched = Watched(browser, path, 360)
    assert watched.problems() == []
    assert watched.page.locator("img, iframe, object, embed, main script, svg[onload]").count() == 0
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert watched.page.evaluate("document.querySelectorAll('script').length") == 1
    assert hostile.obeyed(path.read_text()) == []
    watched.page.close()


def test_five_hundred_users_stay_small(march: Summary) -> None:
    users = [msgspec.structs.replace(march.users[0], name=f"user-with-a-name-{number:04d}") for number in range(500)]
    assert len(month_page(msgspec.structs.replace(march, users=users)).encode()) < MAX_BYTES


def test_the_page_is_as_reviewed(march: Summary) -> None:
    """Its charts are looked at, and drawn by a library whose releases differ in the last digit."""
    page = month_page(march)
    check("summary.html", re.sub(r"<style>.*?</style>|<script>.*?</script>|<svg .*?</svg>", "", page, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 1, "-"),
        (0.0, 0, "0"),
        (0.04, 0, "<1"),
        (0.5, 0, "<1"),
        (0.6, 0, "1"),
        (0.04, 1, "<0.1"),
        (1234.56, 1, "1,234.6"),
    ],
)
def test_a_little_is_not_written_as_nothing(value: float | None, digits: int, text: str) -> None:
    assert plain(value, digits) == text
