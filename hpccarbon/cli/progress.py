"""Shows how far a long piece of work is, how fast, and how long it will take: a bar for people, lines for a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]
"""Told what is done and what there is to do, after each piece."""
SAY_EVERY_S = 30.0


def pace(done: int, of: int, noun: str, took_s: float) -> str:
    """`120 of 480 hours, 3.1 hours/s, 1 min 56 s left`; without a rate before anything is done."""
    if not done or took_s <= 0:
        return f"{done} of {of} {noun}"
    left_s = round((of - done) * took_s / done)
    parts = ((left_s // 3600, "h"), (left_s // 60 % 60, "min"), (left_s % 60, "s"))
    left = " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
    per_s = done / took_s
    rate = f"{per_s:.1f} {noun}/s" if per_s >= 1 else f"{1 / per_s:.1f} s each"
    return f"{done} of {of} {noun}, {rate}, {left} left"


def lines(say: Callable[[str], None], noun: str, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Progress for a log: a line every SAY_EVERY_S, and none for what takes less."""
    start = said = clock()

    def progress(done: int, of: int) -> None:
        nonlocal said
        now = clock()
        if now - said >= SAY_EVERY_S and done < of:
            said = now
            say(pace(done, of, noun, now - start))

    return progress


@contextlib.contextmanager
def shown(noun: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, lines on stderr where nobody watches, nothing if `quiet`."""
    if quiet:
        yield lambda done, of: None
        return
    if not sys.stderr.isatty():
        yield lines(lambda text: print(text, file=sys.stderr, flush=True), noun)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    start = time.monotonic()
    with Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(noun, total=None)

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of, description=pace(done, of, noun, time.monotonic() - start))

        yield progress
