"""The static site: complete, linked, made anew only where something changed, and as private as the site wants."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from hpccarbon.report.publish import pages, path_of, slug
from hpccarbon.report.render.site import index_page, month_page, person_page
from hpccarbon.report.summary import Summary
from hpccarbon.site.changes import fingerprint, months
from tests import hostile
from tests.report.golden import check
from tests.site.maker import write
from tests.summary.inside import run
from tests.summary.test_page import Watched
from tests.summary.year import rows_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser


PUBLISHED = "published {} of 2 months; the others are as they were\n"


def publish(config: Path, root: Path, *args: str) -> str:
    said = run("publish", "--config", str(config), "-o", str(root), *args)
    assert (said.status, said.err) == (0, "")
    return said.out


def times(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def published(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the site, which may be changed, and what was published of it."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(site.parent / "shared", folder / "shared")
    config = folder / "hpccarbon.toml"
    text = site.read_text().replace(str(site.parent), str(folder))
    config.write_text(text[: text.index("[budgets")])
    assert publish(config, folder / "web", "--since", "2026-02") == PUBLISHED.format(2)
    return config, folder / "web"


def test_every_month_account_and_user_has_its_page(published: tuple[Path, Path], march: Summary) -> None:
    _, root = published
    there = {str(path.relative_to(root)) for path in root.rglob("*.html")}
    assert {"index.html", "2026-02.html", "2026-03.html", "users/alice.html"} <= there
    named = {path_of("user", line.name) for line in march.users if line.name}
    named |= {path_of("account", line.name) for line in march.accounts if line.name}
    assert named <= there
    assert {"summary-2026-03.csv", "summary-2026-03.json"} <= {path.name for path in (root / "data").iterdir()}


@pytest.mark.parametrize("name", ["index", "user", "account"])
def test_the_pages_are_as_reviewed(published: tuple[Path, Path], name: str) -> None:
    """Without style, script and when they were made; a month's page is summary.html."""
    _, root = published
    page = {"index": "index.html", "user": "users/alice.html", "account": "accounts/physics.html"}[name]
    text = re.sub(r"<(style|script)[^>]*>.*?</\1>", r"<\1/>", (root / page).read_text(), flags=re.S)
    check(f"site_{name}.html", re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", text))


def test_every_link_leads_somewhere(published: tuple[Path, Path]) -> None:
    _, root = published
    links = 0
    for page in root.rglob("*.html"):
        for target in re.findall(r'<a [^>]*href="([^"#]+)"', page.read_text()):
            assert (page.parent / target).resolve().is_file(), f"{page.name}: {target}"
            links += 1
    assert links > 30


def test_a_run_without_news_takes_no_second_and_touches_nothing(published: tuple[Path, Path]) -> None:
    config, root = published
    before = times(root)
    used = os.times()
    argv = [sys.executable, "-m", "hpccarbon", "publish", "--config", str(config), "-o", str(root), "--since"]
    done = subprocess.run([*argv, "2026-02"], capture_output=True, text=True, check=True)
    spent = os.times()
    assert done.stdout == PUBLISHED.format(0)
    assert times(root) == before
    assert spent.children_user + spent.children_system - used.children_user - used.children_system < 1.0


def test_only_what_changed_is_made_anew(published: tuple[Path, Path]) -> None:
    config, root = published
    before = times(root)
    # In the year before: February has nothing to do with it, March is compared with it.
    hour = datetime(2025, 3, 20, 5, tzinfo=timezone.utc)
    write(config.parent / "shared", rows_of("n1", hour), hour=hour, node="n1")
    assert publish(config, root, "--since", "2026-02") == PUBLISHED.format(1)
    after = times(root)
    assert after["2026-03.html"] > before["2026-03.html"]
    assert after["2026-02.html"] == before["2026-02.html"]
    assert after["users/mallory.html"] == before["users/mallory.html"], "who used what in March is as it was"


def test_a_changed_configuration_makes_all_anew(published: tuple[Path, Path], tmp_path: Path) -> None:
    config, root = published
    copy = tmp_path / "web"
    shutil.copytree(root, copy)
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace("pue = 1.25", "pue = 1.5"))
    assert publish(other, copy, "--since", "2026-03").startswith("published 1 of 1")
    assert publish(other, copy, "--since", "2026-03").startswith("published 0 of 1")


def test_where_privacy_is_own_nobody_is_named_any_more(published: tuple[Path, Path], tmp_path: Path) -> None:
    config, root = published
    copy = tmp_path / "web"
    shutil.copytree(root, copy)
    assert (copy / "users" / "alice.html").exists()
    private = config.with_name("private.toml")
    private.write_text('privacy = "own"\n' + config.read_text())
    publish(private, copy, "--since", "2026-03")
    text = [path.read_text() for path in copy.rglob("*") if path.suffix in (".html", ".csv", ".json")]
    everything = "".join(text)
    assert "physics" in everything
    assert "privacy is `own`" in everything
    for name in ("alice", "bob", "mallory", "train_resnet", "4711"):
        assert name not in everything
    assert not list((copy / "users").glob("*.html")), "pages of before are gone"


@pytest.mark.parametrize(("page", "width"), [("index.html", 360), ("index.html", 1600), ("users/alice.html", 360)])
def test_pages_are_quiet_readable_and_sound(
    browser: Browser, published: tuple[Path, Path], page: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched = Watched(browser, published[1] / page, width)
    assert watched.problems() == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(watched.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found] == []
    watched.page.close()


def test_links_can_be_followed_and_lead_back(browser: Browser, published: tuple[Path, Path]) -> None:
    watched = Watched(browser, published[1] / "index.html")
    watched.page.get_by_role("link", name="2026-03").first.click()
    watched.page.locator("#who ~ table").get_by_role("link", name="alice").click()
    assert watched.page.locator("h1").inner_text() == "User alice"
    watched.page.get_by_role("link", name="All months").click()
    assert watched.page.url.endswith("/index.html")
    watched.page.close()


@pytest.mark.parametrize("name", hostile.NAMES)
def test_no_name_leaves_its_directory_or_its_place(name: str) -> None:
    path = path_of("user", hostile.NAMES[name])
    assert re.fullmatch(r"users/[a-z0-9][a-z0-9._-]*\.html", path)
    assert ".." not in path.split("/")


def test_two_names_never_share_a_page() -> None:
    names = [*hostile.NAMES.values(), "alice", "Alice", "alice/../bob", "x-" + "0" * 20]
    assert len({slug(name) for name in names}) == len(names)


def test_no_name_is_obeyed_on_any_page(march: Summary) -> None:
    names = list(hostile.storable().values())

    def renamed(texts: list[str]) -> list[str]:
        lines = [msgspec.structs.replace(march.users[0], name=text) for text in texts]
        jobs = [msgspec.structs.replace(march.jobs[0], name=text, user=text, account=text) for text in texts]
        # Without days no chart is drawn: none of them holds a name.
        made = msgspec.structs.replace(
            march, cluster=texts[-1], users=lines, accounts=lines, jobs=jobs, wasted=[], days=[], hours_of_day=[]
        )
        everyone = pages([made])
        index = index_page(texts[-1], [], everyone)
        return [month_page(made), index, *(person_page(texts[-1], page) for page in everyone)]

    # As many harmless names as hostile ones, each another: then only a name that is obeyed tells the pages apart.
    shown, plain = renamed(names), renamed([f"name{number:03d}" for number in range(len(names))])
    assert len(shown) == len(plain) == 2 + 2 * len(names)
    assert [hostile.structure(page) for page in shown] == [hostile.structure(page) for page in plain]
    assert {character for page in shown for character in hostile.obeyed(page)} == set()


def test_a_fingerprint_stands_for_the_files(site: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(site.parent / "shared", shared)
    assert months(shared, "alpha") == ["2025-03", "2026-02", "2026-03"]
    before = {month: fingerprint(shared, "alpha", month) for month in months(shared, "alpha")}
    hour = datetime(2026, 3, 15, 23, tzinfo=timezone.utc)
    write(shared, rows_of("n1", hour), hour=hour, node="n1")
    after = {month: fingerprint(shared, "alpha", month) for month in months(shared, "alpha")}
    assert [month for month in before if before[month] != after[month]] == ["2026-03"]
