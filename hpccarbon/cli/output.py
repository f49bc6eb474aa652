"""Files that appear whole or not at all, the screen, a word while something takes long. Knows no content."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from datetime import tzinfo

    from hpccarbon.report.render.text import Screen

Kind = TypeVar("Kind", bound=str)
MAX_WIDTH = 120
"""Wider lines are hard to read."""
PATIENCE_S = 2.0
"""How long a person waits without wondering."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there. Raises: HpcCarbonError naming the file and the reason."""
    from hpccarbon.errors import HpcCarbonError

    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a pipe or a device: nothing to replace
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise HpcCarbonError(f"cannot write {path}: {err.strerror or err}") from err


def kind_of(output: Path | None, kinds: Sequence[Kind], otherwise: Kind) -> Kind:
    """The format that a file's ending names."""
    ending = output.suffix.lower().lstrip(".") if output else ""
    return next((known for known in kinds if known == ending), otherwise)


def emit(content: str | bytes, output: Path | None) -> None:
    """To stdout, or to a file that appears whole or not at all. Raises: HpcCarbonError, if it cannot be written."""
    if output is None or str(output) == "-":
        if isinstance(content, str):
            from hpccarbon.report.render.text import encodable

            sys.stdout.write(encodable(content, sys.stdout.encoding or "ascii"))
        else:
            sys.stdout.buffer.write(content)
        return
    write_whole(output, content.encode() if isinstance(content, str) else content)


def screen_of(zone: tzinfo, output: Path | None = None) -> Screen:
    """What text is written on: the terminal with its width and colours, else 80 columns without."""
    import shutil

    from hpccarbon.report.render.text import Screen

    live = output is None and sys.stdout.isatty()
    colour = live and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    # Without a terminal get_terminal_size answers with COLUMNS, else 80.
    width = 80 if output is not None else shutil.get_terminal_size().columns
    return Screen(max(40, min(width, MAX_WIDTH)), colour, zone)


def make_folder(path: Path) -> None:
    """Make a directory with those above it. Raises: HpcCarbonError naming it and the reason."""
    from hpccarbon.errors import HpcCarbonError

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise HpcCarbonError(f"cannot make the directory {path}: {err.strerror or err}") from err


@contextlib.contextmanager
def working(what: str, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """While the block runs: a spinner with `what` on a terminal, from the third second on.

    Silent, and nothing imported, where stderr is no terminal: logs and cron mails hold no spinners.
    """
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    spinner = threading.Thread(target=_spin, args=(what, patience_s, done), daemon=True)
    spinner.start()
    try:
        yield
    finally:
        done.set()
        spinner.join()


def _spin(what: str, patience_s: float, done: threading.Event) -> None:
    if done.wait(patience_s):
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        done.wait()
