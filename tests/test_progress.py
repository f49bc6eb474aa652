"""Progress says how fast and how long, in lines where there is no terminal."""

from __future__ import annotations

import pytest

from hpccarbon.cli.progress import lines, pace


@pytest.mark.parametrize(
    ("done", "took_s", "said"),
    [
        (0, 3.0, "0 of 480 hours"),
        (120, 40.0, "120 of 480 hours, 3.0 hours/s, 2 min left"),
        (1, 60.0, "1 of 480 hours, 60.0 s each, 7 h 59 min left"),
        (480, 100.0, "480 of 480 hours, 4.8 hours/s, 0 s left"),
    ],
)
def test_pace(done: int, took_s: float, said: str) -> None:
    assert pace(done, 480, "hours", took_s) == said


def test_a_log_gets_a_line_now_and_then_and_none_for_what_is_quick() -> None:
    now, said = [0.0], list[str]()
    progress = lines(said.append, "hours", lambda: now[0])
    for done in range(1, 101):
        now[0] += 1
        progress(done, 100)
    assert said == [
        "30 of 100 hours, 1.0 hours/s, 1 min 10 s left",
        "60 of 100 hours, 1.0 hours/s, 40 s left",
        "90 of 100 hours, 1.0 hours/s, 10 s left",
    ]
    said.clear()
    lines(said.append, "hours", lambda: now[0])(1, 2)
    assert said == []
