"""However jobs are moved, no node is used that does not exist."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.submit.capacity import NODE, STEP_S, held, place

jobs = st.lists(
    st.tuples(
        st.integers(0, 20_000),  # begins
        st.integers(1, 9_000),  # runs
        st.integers(1, 3 * NODE),
        st.lists(st.integers(1, 30_000), max_size=4),  # waits, best first
    ),
    min_size=1,
    max_size=12,
)


@given(jobs=jobs, nodes=st.integers(1, 6), mixed=st.randoms(use_true_random=False))
def test_no_more_nodes_are_busy_than_there_are(jobs: list[tuple[int, int, int, list[int]]], nodes: int, mixed) -> None:  # type: ignore[no-untyped-def]
    begin, length = (np.array([job[column] for job in jobs], np.float64) for column in (0, 1))
    need = np.array([job[2] for job in jobs], np.int64)
    order = list(range(len(jobs)))
    mixed.shuffle(order)
    wishes = [[begin[job] + wait for wait in jobs[job][3]] for job in order]
    found = place(begin, length, need, nodes, np.array(order), wishes)
    steps = int(60_000 // STEP_S)
    before, after = held(begin, length, need, steps), held(found, length, need, steps)
    assert (after <= np.maximum(before, nodes * NODE)).all()
    assert after.sum() >= 0 and ((found == begin) | (found > begin)).all()
    for job, starts in zip(order, wishes, strict=True):
        assert found[job] == begin[job] or found[job] in starts


def test_the_best_wish_with_room_is_taken_and_the_first_job_goes_first() -> None:
    begin, length = np.array([0.0, 0.0, 7_200.0]), np.array([3_600.0, 3_600.0, 3_600.0])
    need = np.array([NODE, NODE, NODE])
    wishes = [[7_200.0, 3_600.0], [7_200.0, 3_600.0]]
    two = place(begin, length, need, 2, np.array([1, 0]), wishes)
    assert two.tolist() == [3_600.0, 7_200.0, 7_200.0]  # the third runs there already: one of the two finds room
    one = place(begin, length, need, 1, np.array([0, 1]), wishes)
    assert one.tolist() == [3_600.0, 0.0, 7_200.0]  # two at once were seen at 0 only: there is no second node later


def test_parts_of_a_node_add_up_and_a_step_is_held_whole() -> None:
    begin, length = np.array([0.0, 0.0, 10.0]), np.array([10.0, 10.0, 10.0])
    assert held(begin, length, np.array([400, 600, 1]), 2).tolist() == [1001, 0]
    wishes = [[300.0]]
    assert place(begin, length, np.array([400, 600, 400]), 1, np.array([2]), wishes).tolist() == [0.0, 0.0, 300.0]


def test_nothing_is_nothing() -> None:
    none = np.array([], np.float64)
    assert place(none, none, np.array([], np.int64), 3, np.array([], np.int64), []).tolist() == []
