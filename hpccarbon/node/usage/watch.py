"""Tells at once that a directory gained or lost an entry (inotify). Where that fails, callers rescan in time."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

_CREATE, _DELETE, _MOVED_TO, _CLOSE_WRITE, _ONLYDIR = 0x100, 0x200, 0x80, 0x8, 0x1000000
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_HEADER = struct.Struct("iIII")


class Watch:
    """inotify on a handful of directories; works on cgroupfs too, since mkdir and rmdir go through the VFS.

    `fd` is what to poll, -1 where the kernel refuses (fs.inotify.max_user_instances): then `changed` always says True.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched: dict[str, int] = {}
        self._happened = False
        self._refused = False

    @property
    def blind(self) -> bool:
        """Whether the kernel would not watch everything it was asked to: some things are seen only by looking."""
        return self._refused or self.fd < 0

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
            self._refused = self._refused or ctypes.get_errno() == errno.ENOSPC  # fs.inotify.max_user_watches
            return False
        self._watched[path] = descriptor
        return True

    def changed(self) -> bool:
        """Whether anything happened since the last call. Reads what the kernel has queued; never waits."""
        made = self.made()
        return made is None or self._happened

    def made(self) -> dict[str, set[str]] | None:
        """Directory -> entries that it gained since the last call; None where they cannot be told: look yourself."""
        made: dict[str, set[str]] = {}
        self._happened = lost = False
        while self.fd >= 0:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return None if lost else made
            except OSError:
                break
            self._happened = True
            lost = self._sort(data, made) or lost
        return None

    def _sort(self, data: bytes, made: dict[str, set[str]]) -> bool:
        """Put the names of new entries into `made`; True where the kernel dropped some.

        A removed directory's watch is gone with it: its name may come back and must be watched anew.
        """
        offset, lost = 0, False
        while offset + _HEADER.size <= len(data):
            descriptor, mask, _cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size + length
            lost = lost or bool(mask & _OVERFLOW)
            if mask & _IGNORED:
                self._watched = {path: wd for path, wd in self._watched.items() if wd != descriptor}
            elif mask & (_CREATE | _MOVED_TO):
                directory = next((path for path, wd in self._watched.items() if wd == descriptor), None)
                if directory is not None:
                    name = data[offset - length : offset].rstrip(b"\0")
                    made.setdefault(directory, set()).add(os.fsdecode(name))
        return lost

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        """A user has 128 of these, all processes together: one that is dropped goes back at once."""
        self.close()
