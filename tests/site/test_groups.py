"""Several groupings at once say what single questions to the ledger say, and grams follow place and hour."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest

from hpccarbon.site.groups import Grouping, groups, largest_jobs
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.weigh import Factors
from tests.report import fixed

LEDGER_WORD: Mapping[str, str] = {"job": "job_id"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(fixed.build(tmp_path_factory.mktemp("site")), fixed.CLUSTER)


def by_place(node: str | None, partition: str | None) -> str:
    return "north" if node == "g1" else ""


def factors(hours: list[datetime], north: float = 10.0) -> Factors:
    return Factors(lambda place, asked: dict.fromkeys(set(asked) & set(hours), north if place else 400.0), by_place)


@pytest.mark.parametrize("by", [(), ("holder",), ("user",), ("holder", "account"), ("node", "holder"), ("hour", "job")])
def test_a_grouping_is_what_the_ledger_answers_alone(ledger: Ledger, by: tuple[str, ...]) -> None:
    (found,) = groups(ledger, Selection(), [Grouping(by)])
    seen = [one.energy for one in found if one.energy.first is not None]
    assert seen == ledger.energy(Selection(), [LEDGER_WORD.get(word, word) for word in by])


def test_groupings_asked_together_are_those_asked_alone(ledger: Ledger) -> None:
    several = [Grouping(("holder", "user")), Grouping(()), Grouping(("node",)), Grouping(("holder", "hour"))]
    assert groups(ledger, Selection(), several) == [groups(ledger, Selection(), [one])[0] for one in several]


def test_what_is_not_counted_costs_nothing_and_says_nothing(ledger: Ledger) -> None:
    (counted,), (uncounted,) = (
        groups(ledger, Selection(), [Grouping(())]),
        groups(ledger, Selection(), [Grouping((), counted=False)]),
    )
    assert (counted[0].jobs, counted[0].energy.nodes) == (len({stay.job_id for stay in fixed.STAYS}), 5)
    assert (uncounted[0].jobs, uncounted[0].energy.nodes) == (0, 0)
    assert counted[0].energy.energy_uj == uncounted[0].energy.energy_uj


def test_the_largest_jobs_come_first_and_no_more_than_asked_for(ledger: Ledger) -> None:
    (everyone,) = groups(ledger, Selection(holders=("job",)), [Grouping(("job",))])
    by_energy = sorted(everyone, key=lambda one: -one.energy.energy_uj)
    assert largest_jobs(ledger, Selection(), 3) == [one.energy.key[0] for one in by_energy[:3]]


def test_grams_are_those_of_the_place_and_add_up(ledger: Ledger) -> None:
    hours = ledger.hours(Selection())
    nodes, whole = groups(ledger, Selection(), [Grouping(("node",)), Grouping(())], factors(hours))
    for one in nodes:
        per_kwh = 10.0 if one.energy.key == ("g1",) else 400.0
        assert one.energy.grams == pytest.approx(one.energy.energy_uj / 3.6e12 * per_kwh)
    assert whole[0].energy.grams == pytest.approx(sum(one.energy.grams or 0 for one in nodes))


def test_an_hour_without_a_factor_takes_the_grams_and_not_the_energy(ledger: Ledger) -> None:
    hours = ledger.hours(Selection())
    by_hour, whole = groups(ledger, Selection(), [Grouping(("hour",)), Grouping(())], factors(hours[1:]))
    assert [one.energy.grams is None for one in by_hour] == [True, False, False]
    assert whole[0].energy.grams is None
    assert whole[0].energy.energy_uj == sum(one.energy.energy_uj for one in by_hour)


def test_idle_cores_are_the_static_energy_of_what_was_held_and_not_used(ledger: Ledger) -> None:
    (jobs,) = groups(ledger, Selection(holders=("job",)), [Grouping(("job",))])
    idle = {one.energy.key[0]: one.idle_cores_uj for one in jobs}
    # 4711: two nodes, 40 % of the energy static; half of n1's cores idle, 55 % of n2's
    halves = [round(0.4 * energy * unused) for energy, unused in zip(_of_nodes(ledger, 4711), (0.5, 0.55), strict=True)]
    assert idle[4711] == pytest.approx(sum(halves), rel=1e-6)
    assert idle[5000] == 0, "a GPU job's static energy is the GPUs' too"


def _of_nodes(ledger: Ledger, job_id: int) -> list[int]:
    return [row.energy_uj for row in ledger.energy(Selection(job_ids=(job_id,)), ("node",))]


def test_nothing_metered_is_no_group(tmp_path: Path) -> None:
    assert groups(Ledger(tmp_path, "alpha"), Selection(), [Grouping(("user",)), Grouping(())]) == [[], []]


def test_a_selection_that_nothing_matches_is_no_group(ledger: Ledger) -> None:
    nobody = Selection(accounts=("nobody",), holders=("job",))
    assert groups(ledger, nobody, [Grouping(("user",)), Grouping(())]) == [[], []]


def test_an_unknown_word_is_named(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="cannot group by colour"):
        groups(ledger, Selection(), [Grouping(("colour",))])
