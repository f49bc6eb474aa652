"""The table of targets, and the run of one of them: inputs are counted, and what they broke is kept."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

from tests.fuzz import files, kernel, pages, words
from tests.fuzz.mutate import MAX_BYTES, mutated
from tests.fuzz.target import Check, Target, WrongTotal

HANG_CPU_S, HANG_S = 10.0, 120.0
"""An input that takes more CPU time, or that much time by the clock, is a hang: good ones take some 50 ms."""
_TIMERS = ((signal.ITIMER_PROF, signal.SIGPROF, HANG_CPU_S), (signal.ITIMER_REAL, signal.SIGALRM, HANG_S))

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("config", words.config_file, words.config_seeds, 200),
        Target("sacct", words.sacct, words.sacct_seeds, 200),
        Target("job file", words.job_file, words.job_file_seeds, 200),
        Target("node list", words.node_list, words.node_list_seeds, 150),
        Target("command line", words.command_line, words.command_line_seeds, 100),
        Target("intensity table", words.intensity_table, words.intensity_table_seeds, 100),
        Target("ENTSO-E document", words.entsoe_document, words.entsoe_seeds, 100),
        Target("service reply", words.replies, words.reply_seeds, 60, guided=False),
        Target("kernel file", kernel.kernel_files, kernel.kernel_file_seeds, 40),
        Target("NVIDIA library", kernel.nvidia, kernel.nvidia_seeds, 20),
        Target("node", kernel.node, kernel.node_seeds, 12),
        Target("store", files.store, files.store_seeds, 20, guided=False),
        Target("shard", files.shard, files.shard_seeds, 10, guided=False),
        Target("drawn shard", files.drawn_shard, files.drawn_seeds, 10, guided=False),
        Target("ledger", files.ledger, files.ledger_seeds, 10, guided=False),
        Target("pack", files.pack, files.pack_seeds, 30, guided=False),
        Target("report", pages.report, pages.report_seeds, 20),
    )
}


class Tally(msgspec.Struct):
    """What came of one target's inputs. `kept` are the findings: a title and the input that shows it."""

    inputs: int = 0
    crashes: int = 0
    hangs: int = 0
    wrong: int = 0
    slowest_s: float = 0.0
    """CPU time"""
    kept: dict[str, bytes] = {}


class Hang(BaseException):
    """An input took too long. No `except Exception` may swallow it."""


@contextlib.contextmanager
def opened(target: Target) -> Iterator[Check]:
    """The target in a directory of its own, in memory where there is one."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hpccarbon-fuzz-", dir=place) as room, target.check(Path(room)) as check:
        yield check


def judged(check: Check, data: bytes, tally: Tally) -> None:
    """Feed one input, and count what came of it."""
    begin = time.process_time()
    for timer, number, seconds in _TIMERS:
        signal.signal(number, _too_long)
        signal.setitimer(timer, seconds)
    try:
        check(data)
    except WrongTotal as err:
        tally.wrong += 1
        _keep(tally, f"wrong: {err}"[:300], data)
    except Hang:
        tally.hangs += 1
        _keep(tally, f"hang: {_where()}", data)
    except Exception as err:
        tally.crashes += 1
        _keep(tally, f"crash: {type(err).__name__}: {str(err)[:200]} ({_where()})", data)
    finally:
        for timer, _, _ in _TIMERS:
            signal.setitimer(timer, 0)
        tally.inputs += 1
        tally.slowest_s = max(tally.slowest_s, time.process_time() - begin)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Hang


def _where() -> str:
    """The innermost line of our own code that an exception came through."""
    trace = traceback.extract_tb(sys.exc_info()[2])
    ours = [entry for entry in trace if "/hpccarbon/" in entry.filename] or list(trace)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def _keep(tally: Tally, title: str, data: bytes) -> None:
    known = {one.split(" (")[-1] for one in tally.kept}
    if len(tally.kept) < 20 and title.rsplit(" (", maxsplit=1)[-1] not in known:
        tally.kept[title] = data


def mutate_for(target: Target, inputs: int, seed: int, before: Callable[[bytes], object] = lambda data: None) -> Tally:
    """Feed so many inputs, each made from the target's good ones; `before` is told each input first.

    The same seed gives the same inputs, on every machine.
    """
    tally, seeds = Tally(), target.seeds()
    rng = random.Random(f"{seed}/{target.name}")
    with opened(target) as check:
        for good in seeds[:inputs]:
            before(good)
            judged(check, good, tally)
        while tally.inputs < inputs:
            data = mutated(rng, seeds)[:MAX_BYTES]
            before(data)
            judged(check, data, tally)
    return tally
