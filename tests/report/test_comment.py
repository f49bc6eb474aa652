"""The line for AdminComment: short, in small letters, read back, and never over somebody else's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.errors import SlurmError
from hpccarbon.report.comment import LIMIT, comment_text, is_ours, parsed
from hpccarbon.report.figures import Figures, added
from hpccarbon.slurm.comment import Comment, parse
from tests import hostile

EMPTY = added([])


def figures(energy_uj: int | None, co2e_g: float | None, covered: float | None, measured: float | None) -> Figures:
    values = {name: getattr(EMPTY, name) for name in Figures.__struct_fields__}
    told = {"energy_uj": energy_uj, "co2e_g": co2e_g, "covered_percent": covered, "measured_percent": measured}
    return Figures(**(values | told))


percents = st.none() | st.floats(0, 100)


@given(st.integers(0, 10**18), st.none() | st.floats(0, 1e12), percents, percents)
def test_it_is_short_small_and_reads_back(
    energy_uj: int, co2e_g: float | None, covered: float | None, measured: float | None
) -> None:
    text = comment_text(figures(energy_uj, co2e_g, covered, measured))
    assert text is not None
    assert len(text) <= LIMIT
    assert text == text.lower()
    numbers = parsed(text)
    assert numbers is not None
    assert numbers["wh"] == pytest.approx(energy_uj / 3.6e9, rel=1e-3, abs=1e-6)
    assert ("co2e_g" in numbers) == (co2e_g is not None)
    if covered is not None:
        assert numbers["cov"] <= covered
        assert (numbers["cov"] == 100) == (covered == 100)
    assert is_ours(text)


def test_as_documented() -> None:
    assert comment_text(figures(12_312_360_000_000, 1190.4, 97.9, 100.0)) == "hc1 wh=3420 co2e_g=1190 cov=97 meas=100"


def test_nothing_metered_is_no_line() -> None:
    assert comment_text(figures(None, None, None, None)) is None


@pytest.mark.parametrize("text", ["JS1:H4sIAAAA", "js1:none", "keep me", "hc1 wh=many", "hc2 wh=1"])
def test_what_somebody_else_wrote_is_not_ours(text: str) -> None:
    assert not is_ours(text)


@pytest.mark.parametrize("text", ["", "  ", "hc1", "hc1 wh=1", "HC1 wh=2 later=3 words"])
def test_what_we_wrote_or_nobody_is_ours(text: str) -> None:
    assert is_ours(text)


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_hostile_comment_is_read_and_left_alone(name: str) -> None:
    text = hostile.NAMES[name]
    if not text.splitlines() or len(text.splitlines()) > 1:
        return  # sacct prints one line per job: such a text cannot come through it
    assert list(parse(f"12|12|{text}")) == [Comment(12, "12", text)]
    assert is_ours(text) == (not text.strip())


def test_a_line_that_sacct_does_not_print_is_named() -> None:
    with pytest.raises(SlurmError, match="no line of JobIDRaw"):
        list(parse("slurmdbd: connection refused"))


def test_an_array_s_task_is_named_as_sacctmgr_wants_it() -> None:
    assert [one.name for one in parse("4|2_2|\n7|7+1|\n9|9|x|y")] == ["2_2", "7", "9"]
