"""Tells at once that a directory gained or lost an entry (inotify). Where that fails, callers rescan in time."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_CREATE, _DELETE, _MOVED_TO, _CLOSE_WRITE, _ONLYDIR = 0x100, 0x200, 0x80, 0x8, 0x1000000
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_HEADER = struct.Struct("iIII")


class Watch:
    """inotify on a handful of directories; works on cgroupfs too, since mkdir and rmdir go through the VFS.

    `fd` is what to poll, -1 where the kernel refuses (watch limit): then `changed` always says True.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched: dict[str, int] = {}

    def add(self, directory: Path) -> bool:
        """Watch a directory, once; False where that cannot be (missing, or the limit is reached)."""
        if self.fd < 0:
            return False
        path = str(directory)
        if path in self._watched:
            return True
        mask = _CREATE | _DELETE | _MOVED_TO | _CLOSE_WRITE | _ONLYDIR
        descriptor = self._libc.inotify_add_watch(self.fd, os.fsencode(path), mask)
        if descriptor < 0:
            return False
        self._watched[path] = descriptor
        return True

    def changed(self) -> bool:
        """Whether anything happened since the last call. Reads what the kernel has queued; never waits."""
        if self.fd < 0:
            return True
        happened = False
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return happened
            except OSError:
                return True
            happened = True
            self._forget_removed(data)

    def _forget_removed(self, data: bytes) -> None:
        """A removed directory's watch is gone with it: its name may come back and must be watched anew."""
        offset = 0
        while offset + _HEADER.size <= len(data):
            descriptor, mask, _cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size + length
            if mask & _IGNORED:
                self._watched = {path: wd for path, wd in self._watched.items() if wd != descriptor}

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
