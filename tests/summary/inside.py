"""Runs a command in this process: what it prints and how it ends, without a second of starting up."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from hpccarbon.cli import main


class Said(NamedTuple):
    """Exit status, stdout, stderr."""

    status: int
    out: str
    err: str


def run(*args: str) -> Said:
    """`hpccarbon ARGS`."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(args)
        except SystemExit as ended:
            status = ended.code or 0
    out.flush()
    assert isinstance(status, int)
    assert isinstance(out.buffer, io.BytesIO)
    return Said(status, out.buffer.getvalue().decode(), err.getvalue())
