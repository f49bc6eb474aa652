"""Hostlists: what Slurm prints is understood, and nothing runs away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.hostlist import cpus_on_node, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3,7]", ["n1", "n2", "n3", "n7"]),
        ("n[1-2],gpu[08-10]-ib", ["n1", "n2", "gpu08-ib", "gpu09-ib", "gpu10-ib"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("login,n[1]", ["login", "n1"]),
        ("a.b-c_d[1-2].x", ["a.b-c_d1.x", "a.b-c_d2.x"]),
        ("", []),
        ("(null)", []),
        ("None assigned", []),
    ],
)
def test_expand(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text",
    ["n[1-", "n]1[", "n[1-2", "n[[1]]", "n[]", "n[a-b]", "n[3-1]", "n[1-2],,m", "a b", "n[1--2]", "n[-1]", ","],
)
def test_what_is_no_hostlist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hostlist"):
        expand(text)


@pytest.mark.parametrize(
    "text", ["n[1-999999999]", "a[1-999]b[1-999]c[1-999]", "n[0-99999],m", "n[" + "9" * 5000 + "]"]
)
def test_what_would_run_away_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="hostlist"):
        expand(text)


spans = st.tuples(st.from_regex(r"[a-z]{1,2}(-[a-z])?", fullmatch=True), st.integers(0, 999), st.integers(0, 30))


@given(st.lists(spans, min_size=1, max_size=10), st.integers(1, 5))
def test_ranges_of_any_width_among_names_are_counted_out_in_order(
    parts: list[tuple[str, int, int]], width: int
) -> None:
    text = ",".join(f"{name}[{first:0{width}}-{first + more:0{width}}],{name}" for name, first, more in parts)
    wanted = []
    for name, first, more in parts:
        wanted += [f"{name}{number:0{width}}" for number in range(first, first + more + 1)] + [name]
    assert expand(text) == wanted


@given(st.text(alphabet="n019[]-,() x", max_size=30))
def test_any_text_is_names_or_a_value_error(text: str) -> None:
    try:
        expand(text, limit=1000)
    except ValueError:
        return


@pytest.mark.parametrize(("node", "cpus"), [("n1", 8), ("n2", 8), ("n3", 4), ("n5", 2)])
def test_cpus_on_node(node: str, cpus: int) -> None:
    assert cpus_on_node("8(x2),4,2", "n[1-3,5]", node) == cpus


@pytest.mark.parametrize(
    ("text", "nodelist", "node"),
    [("8", "n1", "n2"), ("8", "n[1-2]", "n2"), ("8(x)", "n1", "n1"), ("", "n1", "n1"), ("8", "n[", "n1")],
)
def test_cpus_on_node_that_cannot_be_known(text: str, nodelist: str, node: str) -> None:
    with pytest.raises(ValueError, match=r"node|hostlist"):
        cpus_on_node(text, nodelist, node)
