"""A commit waits for the disk: what a power cut takes is never more than what was not committed yet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
static int calls;
int commits_on_disk(void) { return calls; }
int fdatasync(int fd) { calls++; return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { calls++; return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
"""
COMMITS = 5
CHILD = f"""
import ctypes, sys
from pathlib import Path
from hpccarbon.node.store import Store
from hpccarbon.units import NS_PER_S
from tests.node.virtual import Node, tick

counted = ctypes.CDLL(None).commits_on_disk
node = Node(Path(sys.argv[1]))
sampler = node.sampler()
store = Store(Path(sys.argv[1]) / "store.sqlite", "virtual", "n1")
tick(sampler, node)
for _ in range({COMMITS}):
    node.run(60 * NS_PER_S)
    tick(sampler, node)
    before = counted()
    store.commit(sampler.pending, sampler.settle(), sampler.channels, "{{}}")
    sampler.committed()
    print(counted() - before)
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc, to count what the library asks of the kernel")
def test_every_commit_is_on_the_disk_before_the_next_tick(tmp_path: Path) -> None:
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={**os.environ, "LD_PRELOAD": str(library)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    counts = [int(line) for line in done.stdout.split()]
    assert len(counts) == COMMITS
    assert min(counts) >= 1
