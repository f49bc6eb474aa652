"""Waits a while for a file's lock, which the kernel takes back from a process however it ends. Knows nobody's file."""

from __future__ import annotations

import fcntl
import time

_PAUSE_S = 0.02


def taken(descriptor: int, wait_s: float) -> bool:
    """Hold the file alone until the descriptor is closed; False if another held it all the while. Raises: OSError."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_S)
        else:
            return True
