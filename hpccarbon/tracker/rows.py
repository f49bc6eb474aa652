"""One CSV file that many processes write at once: every row whole, none lost, a running row kept up to date in place.

A run has its row from its start, so that SIGTERM or SIGKILL (Slurm's time limit) leaves what the last tick knew. It is
rewritten where it stands, at the same length: the last column, a number, is filled up with zeros behind its point. All
writing happens under flock(2); where a file system has none, under a file made with O_EXCL.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_SPARE = 160
"""Room in a row for metrics and names that come later; a row that outgrows it is moved to the end."""
_LOCK_PATIENCE_S = 20.0
_STALE_S = 60.0
_NO_FLOCK = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))


class RowFile:
    """Rows of `columns` in a file. `last` is the column (a float) that is filled up; it must be the last one.

    A file whose header names the same columns in another order, or only `core` of them (CodeCarbon's own file), is
    continued in its own columns. Any other is moved aside to `NAME.bak`, as CodeCarbon does.
    """

    def __init__(self, path: Path, columns: Sequence[str], core: Sequence[str] = ()) -> None:
        self.path = path
        self._columns = tuple(columns)
        self._core = tuple(core)
        self._place: tuple[int, int] | None = None
        self._text = b""

    def put(self, values: Mapping[str, Any], *, new: bool = False) -> None:
        """Write this run's row: in place where it stands already, else (or with `new`) at the end.

        Raises: OSError, where the file cannot be written or locked.
        """
        with self._locked() as fd:
            header = self._header(fd)
            here = None if new else self._find(fd)
            self._place = self._write(fd, here, header, values)

    def read(self) -> list[dict[str, str]]:
        """Every row as it stands now. Raises: OSError, where the file cannot be read, locked or taken for a table."""
        with self._locked() as fd:
            text = os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")
        try:
            return list(csv.DictReader(io.StringIO(text)))
        except csv.Error as err:
            raise OSError(f"{self.path}: {err}") from err

    def _write(
        self, fd: int, here: tuple[int, int] | None, header: Sequence[str], values: Mapping[str, Any]
    ) -> tuple[int, int]:
        text = _line([values[name] for name in header])
        padded = header[-1] == self._columns[-1]
        if here is not None and len(text) <= here[1] and (padded or len(text) == here[1]):
            place = here
        else:
            if here is not None:
                _cut_out(fd, here)
            place = (os.lseek(fd, 0, os.SEEK_END), len(text) + _SPARE if padded else len(text))
        self._text = _filled(text, place[1])
        _write_all(fd, self._text, place[0])
        return place

    def _find(self, fd: int) -> tuple[int, int] | None:
        """Where the row stands now: where it was left, or where another's longer row has moved it."""
        if self._place is None or os.pread(fd, self._place[1], self._place[0]) == self._text:
            return self._place
        start = os.pread(fd, os.fstat(fd).st_size, 0).find(b"\n" + self._text) + 1
        return (start, self._place[1]) if start else None

    def _header(self, fd: int) -> tuple[str, ...]:
        """The file's columns; writes them where there are none yet. The file is one of ours when this returns."""
        first = os.pread(fd, 65_536, 0).split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        if not first:
            _write_all(fd, _line(self._columns), 0)
            return self._columns
        return tuple(next(csv.reader([first])))

    def _fits(self, fd: int) -> bool:
        first = os.pread(fd, 65_536, 0).split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        try:
            found = next(csv.reader([first])) if first else []
        except csv.Error:  # before Python 3.11 of a NUL
            return False
        return not found or sorted(found) in (sorted(self._columns), sorted(self._core))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open and locked, and still the one that the path names."""
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                with _lock(fd, self.path, deadline):
                    if not _is(fd, self.path):
                        continue  # another process moved it aside meanwhile
                    if not self._fits(fd):
                        self.path.rename(_free_name(self.path))
                        continue
                    yield fd
                    return
            finally:
                os.close(fd)


@contextlib.contextmanager
def _lock(fd: int, path: Path, deadline: float) -> Iterator[None]:
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
    except OSError as err:
        if err.errno not in _NO_FLOCK:
            raise
        with _exclusive_file(path.with_name(f"{path.name}.lock"), deadline):
            yield
        return
    yield  # the lock goes with the descriptor


@contextlib.contextmanager
def _exclusive_file(path: Path, deadline: float) -> Iterator[None]:
    """A lock for file systems without flock: made by one only. One that is old was left by a process that died."""
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
                    continue
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{tail}.bak") for tail in ("", *(f"_{number}" for number in range(10_000))))
    return next(name for name in names if not name.exists())


def _line(values: Sequence[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_inert(value) for value in values])
    return buffer.getvalue().encode()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a quote before it; a line stays one line."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = "".join(letter if letter.isprintable() else " " for letter in value)
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and text != "-") else text


def _filled(text: bytes, length: int) -> bytes:
    """The line at this length: zeros behind the point of its last number change nothing."""
    missing = length - len(text)
    if not missing:
        return text
    body = text[:-1]
    if b"." not in body.rpartition(b",")[2]:
        body, missing = body + b".", missing - 1
    return body + b"0" * missing + b"\n"


def _cut_out(fd: int, place: tuple[int, int]) -> None:
    """Take a line out of the file; what stood behind it moves up."""
    start, length = place
    size = os.fstat(fd).st_size
    rest = os.pread(fd, size - start - length, start + length)
    _write_all(fd, rest, start)
    os.ftruncate(fd, size - length)


def _write_all(fd: int, text: bytes, offset: int) -> None:
    while text:
        written = os.pwrite(fd, text, offset)
        text, offset = text[written:], offset + written
