"""Lets one process at a time change a room of the shared directory. Waits for nobody: whoever comes second is told."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hpccarbon.errors import HpcCarbonError, ShardError


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Hold the lock file; yields the file system's own idea of now, in ns. The lock ends with the process.

    Raises: HpcCarbonError, if another process holds it; ShardError, if the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as err:
        raise ShardError(path, f"{err.strerror} (may this user write there?)") from err
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise HpcCarbonError(f"another aggregator holds {path}; wait for it, or stop it") from err
        except OSError as err:
            raise ShardError(path, f"{err.strerror} (mount the shared directory with locks)") from err
        os.utime(descriptor)
        yield os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
