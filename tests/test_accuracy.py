"""The bars of docs/accuracy.md: what our division may be wrong by, what it never loses; and that page is current."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest

from bench.accuracy import ours
from bench.accuracy.chart import chart
from bench.accuracy.judge import Result, run
from bench.accuracy.page import page, prose, section
from bench.accuracy.scenarios import LEAD_S, SCENARIOS, failed_read, wraps_beyond
from bench.accuracy.truth import ns

DOCS = Path(__file__).resolve().parent.parent / "docs"
KEYS = [scenario.key for scenario in SCENARIOS]


@cache
def result(key: str) -> Result:
    """A scenario, played once for all tests."""
    return run(next(scenario for scenario in SCENARIOS if scenario.key == key))


@pytest.mark.parametrize("key", KEYS)
def test_the_bars_hold(key: str) -> None:
    assert result(key).misses() == []


def test_two_equal_jobs_are_right_within_a_percent() -> None:
    assert result("two_equal").ours.total_worst <= 1.0
    assert result("two_equal").ours.dynamic_worst <= 1.0


def test_a_thousand_short_jobs_add_up() -> None:
    assert len(result("short_jobs").truth) == 1_000
    assert abs(result("short_jobs").ours.together) <= 0.5


@pytest.mark.parametrize("key", ["late_ticks", "down", "wraps"])
def test_absence_loses_no_microjoule(key: str) -> None:
    assert result(key).ours.lost_uj == 0
    assert result(key).ours.total_worst <= 5.0


@pytest.mark.parametrize("key", KEYS)
def test_no_formula_is_nearer_to_who_drew_it_unless_the_page_says_why(key: str) -> None:
    """The limits that are known; each has its note on the page."""
    explained = {"avx", "avx_half", "core_types", "never_idle", "wraps_beyond", "gpu_mig_uneven"}
    played = result(key)
    if key not in explained:
        assert [verdict.name for verdict in played.better] == []
    assert all(verdict.name in section(played) for verdict in played.better)
    assert f"note {key}" in prose()


def test_150_joules_stay_150_joules() -> None:
    """In the three seconds of the job, whatever read fails (the job has all cores, so all of the idle node)."""
    world = failed_read()
    for second in (0.4, 1.4, 2.4):
        world.failed_s = world.jobs[0].start_s + second
        with TemporaryDirectory() as directory:
            bills = ours.bill(world, Path(directory))
        assert sum(part.total for part in world.truth().values()) == 150_000_000
        assert bills.of(1).total == pytest.approx(150_000_000, abs=5)
        assert bills.counted == bills.billed == bills.metered


def test_beyond_the_wrap_only_the_late_interval_is_missing() -> None:
    world = wraps_beyond()
    first_s, last_s = world.late[0]
    before = ns(first_s) - (ns(first_s) - ns(0.371)) % ns(1.0)
    package = world.grown_uj("intel-rapl:0", ns(last_s)) - world.grown_uj("intel-rapl:0", before)
    assert result("wraps_beyond").ours.lost_uj == package


@pytest.mark.parametrize("key", KEYS)
def test_the_truth_is_what_the_counters_count(key: str) -> None:
    """Jobs, operating system and the idle node are all there is."""
    world = result(key).world
    end_ns = ns(world.length_s)
    work = sum(parts.dynamic for parts in result(key).truth.values())
    idle = world.static_mw * end_ns / 1e6
    system = 0 if world.gpu_idle_mw else world.system_uj(end_ns)
    assert world.energy_uj(0, end_ns) == pytest.approx(work + idle + system, abs=4 * len(world.jobs) + 8)


def test_the_page_is_current() -> None:
    text = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    results = [result(key) for key in KEYS]
    stale = [key for key in KEYS if section(result(key)) not in text]
    assert stale == [], "run `make accuracy`"
    assert page(results, LEAD_S) == text, "run `make accuracy`"


def test_the_chart_is_current_and_whole() -> None:
    text = (DOCS / "accuracy.svg").read_text(encoding="utf-8")
    assert chart([result(key) for key in KEYS]) == text, "run `make accuracy`"
    picture = ElementTree.fromstring(text)
    width = float(picture.attrib["width"])
    words = picture.findall("{http://www.w3.org/2000/svg}text")
    assert all(0 < float(word.attrib["x"]) < width for word in words)
    assert {scenario.title for scenario in SCENARIOS} <= {word.text for word in words}
