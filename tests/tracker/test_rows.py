"""The tracker's file where another lies, or a row of it is damaged: nothing is lost, and what is said is clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpccarbon.tracker.rows import RowFile

COLUMNS = ("run_id", "emissions")


@pytest.mark.parametrize("other", [b"a,b\n1,2\n", b"run\0_id,emissions\n", b"\xff\xfe\0\n", b"{}"])
def test_what_is_no_file_of_ours_is_moved_aside_whole(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "emissions.csv"
    path.write_bytes(other)
    RowFile(path, COLUMNS).put({"run_id": "r1", "emissions": 0.5})
    assert (tmp_path / "emissions.csv.bak").read_bytes() == other
    (row,) = RowFile(path, COLUMNS).read()
    assert (row["run_id"], float(row["emissions"])) == ("r1", 0.5)


def test_a_row_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "emissions.csv"
    rows = RowFile(path, COLUMNS)
    rows.put({"run_id": "r1", "emissions": 0.5})
    before = path.read_bytes() + b"x" * 140_000 + b",1\n"
    path.write_bytes(before)
    with pytest.raises(OSError, match=r"emissions\.csv: .*limit"):
        rows.read()
    assert path.read_bytes() == before
