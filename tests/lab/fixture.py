"""The pytest fixture `lab`: a cluster for the whole session, in a folder and under node names of its own.

A test module asks for it with `pytest_plugins = ("tests.lab.fixture",)` and `pytestmark = pytest.mark.lab`. Where
$HPCCARBON_LAB names a folder, the lab there is used and stays up afterwards: quicker while a test is being written.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import ENVIRONMENT, Lab, unavailable
from tests.lab.processes import identity

_FOLDER = "hclab-"


def _sweep() -> None:
    """Take down the labs of sessions that were killed: the nodes' prefix holds the session's pid."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        left = Lab(folder)
        session = re.fullmatch(r"t(\d+)n1", left.names[0])
        if session and identity(int(session[1])) is None:
            left.down()


@contextmanager
def own_lab(letter: str, *, missing: str = "", **options: Any) -> Iterator[Lab]:
    """A lab of a test's own, for a site that is set up otherwise. Skips, with the reason, where none can run.

    Args:
        letter: begins its nodes' names; missing: what else stands in the way.
        options: of `Lab.up`.
    """
    reason = unavailable() or missing
    if reason:
        pytest.skip(f"NO LAB: {reason}")
    folder = Path(tempfile.mkdtemp(prefix=f"hclab{letter}-"))
    folder.chmod(0o755)  # jobs of other users run below it
    own = Lab(folder)
    try:
        own.up(prefix=f"{letter}{os.getpid()}n", **options)
        yield own
    finally:
        own.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab that is up. Skipped, with the reason, where none can run."""
    reason = unavailable()
    if reason:
        pytest.skip(f"NO LAB: {reason}")
    if os.environ.get(ENVIRONMENT):
        given = Lab()
        given.up()
        yield given
        return
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
    folder.chmod(0o755)  # jobs of other users run below it
    own = Lab(folder)
    try:
        own.up(prefix=f"t{os.getpid()}n")  # other names than a developer's own lab has
        yield own
    finally:
        own.down()
        shutil.rmtree(folder, ignore_errors=True)
