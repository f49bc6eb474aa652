"""docs/comparison.md says of each claim about another tool where it can be checked."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = (CHECKOUT / "docs" / "comparison.md").read_text(encoding="utf-8")
_MARK = re.compile(r"\[(\d+)\](?!\()")
_NOTE = re.compile(r"^- \[(\d+)\] (.*?)(?=^- \[|\n\n)", re.MULTILINE | re.DOTALL)


def notes() -> dict[str, str]:
    return dict(_NOTE.findall(PAGE))


def test_every_cell_about_a_peer_has_its_mark() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    peers = rows[0][2:]
    assert len(peers) == 5
    silent = [
        f"{row[0].strip()}, {peer.strip()}: {cell.strip()}"
        for row in rows[1:]
        for peer, cell in zip(peers, row[2:], strict=True)
        if cell.strip() != "–" and not re.search(r"\[\d+\]$", cell.strip())
    ]
    assert silent == []


def test_every_mark_has_a_note_and_every_note_a_mark() -> None:
    text = _NOTE.sub("", PAGE)
    assert set(_MARK.findall(text)) == set(notes())
    assert list(notes()) == [str(number) for number in range(1, len(notes()) + 1)]


def test_every_note_has_an_address_or_a_file_of_this_repository() -> None:
    def sources(note: str) -> list[str]:
        addresses = re.findall(r"https://[\w.-]+/[^\s)>]+", note)
        files = [path for path in re.findall(r"`([\w/.-]+)`", note) if (CHECKOUT / path).exists()]
        return addresses + files

    assert [number for number, note in notes().items() if not sources(note)] == []
    assert re.search(r"read on \d{4}-\d{2}-\d{2}", PAGE)
    versionless = r"/(?:blob|tree)/(?![0-9a-f]{40}/)"
    assert re.findall(rf"https://github\.com/\S+{versionless}\S+", PAGE) == [], "name the commit that was read"
