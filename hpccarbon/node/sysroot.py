"""The only place that opens a file under procfs, sysfs or cgroupfs. Knows no format and no hardware."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hpccarbon.errors import MeterDenied, MeterError, MeterMalformed, MeterMissing

_TEXT_LIMIT = 1 << 20
_REASONS: dict[int, tuple[type[MeterError], str]] = {
    errno.ENOENT: (MeterMissing, "no such file"),
    errno.ENODEV: (MeterMissing, "device is gone"),
    errno.ENOTDIR: (MeterMissing, "no such file"),
    errno.EACCES: (MeterDenied, "permission denied"),
    errno.EPERM: (MeterDenied, "permission denied"),
}


def meter_error(path: Path | str, err: OSError) -> MeterError:
    """The `MeterError` that says what an `OSError` on a kernel file means."""
    kind, reason = _REASONS.get(err.errno or 0, (MeterError, err.strerror or "unreadable"))
    return kind(path, reason)


class SysFile:
    """One kernel file, held open: a tick is a pread on it, not an open."""

    __slots__ = ("fd", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as err:
            raise meter_error(path, err) from err

    def read(self, size: int = 4096) -> bytes:
        """What the file holds now, up to `size` bytes; raises MeterError naming the file."""
        try:
            return os.pread(self.fd, size, 0)
        except OSError as err:
            raise meter_error(self.path, err) from err

    def read_int(self) -> int:
        """The decimal integer the file holds now; raises MeterError naming the file."""
        try:
            value = int(os.pread(self.fd, 32, 0))
        except OSError as err:
            raise meter_error(self.path, err) from err
        except ValueError as err:
            raise MeterMalformed(self.path, "expected one integer") from err
        if value < 0:
            raise MeterMalformed(self.path, f"expected a counter, got {value}")
        return value

    def inode(self) -> int:
        """The inode behind the descriptor: what tells a cgroup from its successor of the same name."""
        return os.fstat(self.fd).st_ino

    def close(self) -> None:
        """Give the descriptor back; harmless twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class SysRoot:
    """A root below which kernel files are looked up: `/` on a node, a directory of plain files in a test."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, relative: str) -> Path:
        """Where a kernel file lies below this root."""
        return self.root / relative.lstrip("/")  # a leading slash would escape the fixture tree

    def open(self, relative: str) -> SysFile:
        """The file, held open. Raises: MeterMissing, MeterDenied, MeterError."""
        return SysFile(self.path(relative))

    def text(self, relative: str) -> str:
        """The whole text of a small file. Raises: MeterMissing, MeterDenied, MeterError."""
        file = self.open(relative)
        try:
            chunks: list[bytes] = []
            size = 0
            while size < _TEXT_LIMIT:
                chunk = os.pread(file.fd, 65536, size)
                if not chunk:
                    break
                chunks.append(chunk)
                size += len(chunk)
        except OSError as err:
            raise meter_error(file.path, err) from err
        finally:
            file.close()
        return b"".join(chunks).decode("utf-8", "replace")

    def word(self, relative: str, default: str = "") -> str:
        """The stripped text of a file, `default` where it cannot be read: for labels, never for counters."""
        try:
            return self.text(relative).strip()
        except MeterError:
            return default

    def names(self, relative: str) -> list[str]:
        """Sorted names in a directory; empty where it does not exist or cannot be listed."""
        try:
            return sorted(entry.name for entry in self.path(relative).iterdir())
        except OSError:
            return []

    def exists(self, relative: str) -> bool:
        """Whether the path is there now."""
        return self.path(relative).exists()


def parse_cpu_list(text: str) -> list[int]:
    """CPU numbers of a kernel list such as `0-3,8,10-11`. Raises: ValueError."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        if not part:
            continue
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 0 <= low <= high < 1 << 20:
            raise ValueError(f"not a CPU range: {part!r}")
        cpus.extend(range(low, high + 1))
    return cpus


def parse_busy_ticks(text: bytes) -> int:
    """Busy CPU time since boot in USER_HZ ticks from /proc/stat: user, nice, system, irq, softirq.

    Guest time is inside user already; idle, iowait and steal draw no power here. Raises: ValueError.
    Source: Documentation/filesystems/proc.rst, section 1.7.
    """
    fields = text.split(b"\n", 1)[0].split()
    if fields[:1] != [b"cpu"] or len(fields) < 8:
        raise ValueError("expected the line 'cpu user nice system idle iowait irq softirq'")
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return user + nice + system + irq + softirq


def online_cpu_list(root: SysRoot) -> list[int]:
    """The CPUs the kernel runs on; empty where sysfs does not say."""
    try:
        return parse_cpu_list(root.word("sys/devices/system/cpu/online"))
    except ValueError:
        return []


def online_cpus(root: SysRoot) -> int:
    """How many CPUs the kernel runs on: /sys/devices/system/cpu/online, else /proc/stat's cpuN lines, else 1."""
    if count := len(online_cpu_list(root)):
        return count
    lines = root.word("proc/stat").splitlines()
    return sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines) or 1


def boot_id(root: SysRoot) -> str:
    """The kernel's id of this boot: counters are only ever subtracted within one."""
    return root.word("proc/sys/kernel/random/boot_id") or "unknown-boot"
