"""The fixture trees, as roots that meters can be given; files that must not be readable are really denied."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpccarbon.config import Config
from hpccarbon.node.sysroot import SysRoot

TREES = Path(__file__).parent.parent / "trees"
NOBODY = 65534
CONFIG = Config()


def tree(name: str) -> SysRoot:
    """A fixture tree, read where it lies."""
    return SysRoot(TREES / name)


@contextmanager
def copied(name: str) -> Iterator[Path]:
    """A copy of a tree that everyone may enter and the test may change; `.../t0` of a series copies that moment."""
    with tempfile.TemporaryDirectory(prefix="hpccarbon-tree-") as directory:
        top = Path(directory) / "root"
        shutil.copytree(TREES / name, top)
        Path(directory).chmod(0o755)
        yield top


@contextmanager
def denied(top: Path, *files: str) -> Iterator[SysRoot]:
    """A copied tree in which files (those in its DENIED) cannot be read: root reads as nobody meanwhile."""
    paths = [top / relative for relative in files or (top / "DENIED").read_text().split()]
    for path in paths:
        path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield SysRoot(top)
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o644)


def show(top: Path, relative: str, text: object) -> None:
    """Change a file's text in place, as a kernel file changes under those who hold it open."""
    with (top / relative).open("r+") as file:
        file.write(f"{text}\n")
        file.truncate()
