"""Strings of users are shown, never obeyed: by a terminal, a spreadsheet or a reader's eye."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.report.render.inert import cell, columns, cut, inert
from tests import hostile

anything = st.text(st.characters(), max_size=200) | st.text("=+-@\t\r\n \x1b\u202e\u200b\u2028A日é\u0301", max_size=40)


@given(anything, st.integers(0, 80))
def test_nothing_that_is_obeyed_remains_and_the_width_is_kept(text: str, width: int) -> None:
    shown = inert(text, width)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")]
    if width > 1:
        assert columns(shown) <= width


@given(anything)
def test_a_cell_is_no_formula(text: str) -> None:
    shown = cell(text)
    assert not shown.lstrip(" '\u00a0").startswith("\n")
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert inert(text) in shown


def test_a_title_that_would_rename_the_terminal_is_only_text() -> None:
    assert inert("\x1b]0;owned\x07") == "\\x1b]0;owned\\x07"
    assert inert("a\nb\u202egnp") == "a\\x0ab\\u202egnp"


def test_four_kilobytes_become_a_few_columns() -> None:
    assert inert("A" * 4096, 20) == "A" * 19 + "…"
    assert inert("\x1b" * 4096, 20).startswith("\\x1b\\x1b")


def test_wide_characters_count_two() -> None:
    assert columns("日本") == 4
    assert cut("日本語日本語", 7) == "日本語…"
    assert inert("naïve", 10) == "naïve"


def test_a_negative_number_in_a_name_is_text_too() -> None:
    assert cell("-2+3+cmd|' /C calc'!A0") == "'-2+3+cmd|' /C calc'!A0"
    assert cell(" =1+1") == "' =1+1"
    assert cell("plain") == "plain"


@pytest.mark.parametrize("what", hostile.NAMES)
def test_no_string_of_the_corpus_is_obeyed(what: str) -> None:
    name = hostile.NAMES[what]
    assert hostile.obeyed(inert(name)) == []
    assert columns(inert(name, 24)) <= 24
    out = io.StringIO()
    csv.writer(out).writerow([cell(name), "1"])
    assert hostile.formulas(out.getvalue()) == []
