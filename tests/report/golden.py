"""Compares an output with its golden file; `make golden` (HPCCARBON_GOLDEN=1) rewrites the files instead."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "golden"


def check(name: str, text: str) -> None:
    """The text must be what `tests/golden/NAME` holds, line ends included."""
    path = FOLDER / name
    if os.environ.get("HPCCARBON_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        return
    assert path.exists(), f"{path} is not there: `make golden` writes it"
    assert text == path.read_bytes().decode(), f"{name} differs: review it with `make golden` and git diff"
