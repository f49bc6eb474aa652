"""The door between a job and its node's daemon: tells a caller its own job's energy so far, and nothing else, ever.

One unix socket (SOCK_SEQPACKET: a message is whole or not there). The kernel says who calls (SO_PEERCRED); a caller
names a job and gets that job's share if the job is its own. Raw counters are never told, and the share of a job at most
ten times a second: a fast power meter is a side channel (CVE-2020-8694). docs/control_socket.md has the messages.

`Control` is the daemon's side: it never blocks, and reads only when the loop lets it. `ask` is the client's.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from hpccarbon.errors import HpcCarbonError
from hpccarbon.node.attribution import Share
from hpccarbon.records import Run
from hpccarbon.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from hpccarbon.node.usage.roster import RunKey

SOCKET_NAME = "control.sock"
PROTOCOL = 1
MESSAGE_LIMIT = 512
ANSWER_LIMIT = 4096
READING_SPACING_NS = 50 * NS_PER_MS
"""Whatever is asked, a node's counters are read out of turn at most twenty times a second, for all who wait at once."""
JOB_SPACING_NS = 100 * NS_PER_MS
"""Two different answers about one job lie at least this far apart; who asks sooner waits for the rest of it."""
CALLER_LIMIT = 64
CALLER_LIMIT_PER_USER = 16
CALLER_PATIENCE_NS = 2 * NS_PER_S
"""A caller that has not said what it wants by then is hung up on."""
_CREDENTIALS = struct.Struct("3i")


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller sends: the job that it asks about (None: the one its process is in)."""

    protocol: int
    job_id: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """A job's share on this node, from the job's start to `at_ns` (boot-time clock); cumulative, as `Share`.

    `run` tells the runs of a requeued job apart. `modelled_uj` of the energy is a model's; `error` is empty but where
    there is no answer.
    """

    protocol: int = PROTOCOL
    error: str = ""
    node: str = ""
    job_id: int = 0
    run: str = ""
    at_ns: int = 0
    cpu_uj: int | None = None
    dram_uj: int | None = None
    gpu_uj: int | None = None
    other_uj: int | None = None
    idle_uj: int = 0
    modelled_uj: int = 0
    cpu_time_ns: int = 0
    present_us: int = 0
    covered_us: int = 0


class Unavailable(HpcCarbonError):
    """No daemon answers here, or it knows no such job of the caller's."""


class Books(Protocol):
    """What the daemon shows to `Control`: the sampler and the store behind it."""

    def runs(self) -> list[Run]:
        """The runs on the node now."""
        ...

    def owner_of(self, pid: int) -> RunKey | None:
        """The run a process belongs to."""
        ...

    def read_now(self) -> int:
        """Read all counters out of turn; the boot-time clock of the last good reading."""
        ...

    def total(self, key: RunKey) -> Share:
        """What a run was charged since it began."""
        ...


class _Caller:
    """One connection: who it is, until when it may stay, and the run it asked about."""

    __slots__ = ("key", "pid", "since_ns", "sock", "uid")

    def __init__(self, sock: socket.socket, since_ns: int) -> None:
        self.sock = sock
        self.since_ns = since_ns
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, _gid = _CREDENTIALS.unpack(credentials)
        self.key: RunKey | None = None


class Control:
    """The daemon's side. The loop sleeps in `wait` and calls `serve` after it.

    Args:
        run_dir: where the socket is made; it becomes passable for all (0711), what lies in it keeps its own modes.
        node: told in every answer.
        log: called with one line where the door cannot be opened.
    """

    def __init__(self, run_dir: Path, node: str, books: Books, log: Callable[[str], None]) -> None:
        self.path = run_dir / SOCKET_NAME
        self._node = node
        self._books = books
        self._callers: dict[int, _Caller] = {}
        self._told: dict[RunKey, int] = {}
        self._read_ns = -READING_SPACING_NS
        self._door: socket.socket | None = None
        try:
            self._door = self._open(run_dir)
        except OSError as err:
            log(f"control: cannot listen on {self.path}: {err.strerror or err}; trackers use their own meters")

    def _open(self, run_dir: Path) -> socket.socket:
        self.path.unlink(missing_ok=True)  # the daemon's lock says that nobody listens there any more
        door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            door.bind(str(self.path))
            self.path.chmod(0o666)  # anyone may knock; who knocks is told by the kernel
            run_dir.chmod(run_dir.stat().st_mode | 0o011)
            door.listen(CALLER_LIMIT)
        except OSError:
            door.close()
            raise
        return door

    def wait(self, poll: select.poll, until_ns: int, at_ns: int) -> None:
        """Sleep in the loop's poll until something comes, `until_ns`, or the next answer may be given."""
        due_ns = min([until_ns, *self._due_ns()])
        waiting = [self._door.fileno()] if self._door is not None else []
        waiting += [number for number, caller in self._callers.items() if caller.key is None]
        for number in waiting:
            poll.register(number, select.POLLIN)
        poll.poll(max(0, due_ns - at_ns + NS_PER_MS - 1) // NS_PER_MS)
        for number in waiting:
            poll.unregister(number)

    def _due_ns(self) -> Iterable[int]:
        """When each caller's answer may be given, or when the daemon hangs up on one that asks nothing."""
        for caller in self._callers.values():
            yield caller.since_ns + CALLER_PATIENCE_NS if caller.key is None else self._free_ns(caller.key)

    def _free_ns(self, key: RunKey) -> int:
        return max(self._read_ns + READING_SPACING_NS, self._told.get(key, -JOB_SPACING_NS) + JOB_SPACING_NS)

    def serve(self, at_ns: int) -> bool:
        """Let callers in, take their questions, answer those whose time has come; never waits.

        Returns whether counters were read.
        """
        if self._door is not None:
            self._let_in(self._door, at_ns)
        for caller in list(self._callers.values()):
            if caller.key is None:
                self._listen(caller, at_ns)
        ready = [c for c in self._callers.values() if c.key is not None and self._free_ns(c.key) <= at_ns]
        if not ready:
            return False
        self._read_ns = at_ns
        reading_ns = self._books.read_now()
        for caller in ready:
            self._answer(caller, reading_ns)
        for key in {caller.key for caller in ready if caller.key is not None}:
            self._told[key] = at_ns
        if len(self._told) > CALLER_LIMIT:
            self._told = {key: told for key, told in self._told.items() if at_ns - told < JOB_SPACING_NS}
        return True

    def _let_in(self, door: socket.socket, at_ns: int) -> None:
        for _ in range(CALLER_LIMIT):
            try:
                sock, _address = door.accept()
            except OSError:  # nobody there, or gone again, or no descriptor left: the loop goes on
                return
            sock.setblocking(False)
            caller = _Caller(sock, at_ns)
            same = sum(other.uid == caller.uid for other in self._callers.values())
            if len(self._callers) >= CALLER_LIMIT or (caller.uid and same >= CALLER_LIMIT_PER_USER):
                with contextlib.suppress(OSError):  # a question left unread would reset the connection, answer and all
                    sock.shutdown(socket.SHUT_RD)
                    sock.recv(MESSAGE_LIMIT)
                self._refuse(caller, "busy: too many callers")
            else:
                self._callers[sock.fileno()] = caller

    def _listen(self, caller: _Caller, at_ns: int) -> None:
        try:
            message = caller.sock.recv(MESSAGE_LIMIT)
        except BlockingIOError:
            if at_ns - caller.since_ns >= CALLER_PATIENCE_NS:
                self._hang_up(caller)
            return
        except OSError:
            self._hang_up(caller)
            return
        if not message:
            self._hang_up(caller)
            return
        try:
            # A longer message comes cut off, and is refused as the broken JSON that it then is.
            question = msgspec.json.decode(message, type=Question)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            self._refuse(caller, "malformed question")
            return
        if question.protocol != PROTOCOL:
            self._refuse(caller, f"this daemon speaks protocol {PROTOCOL}")
            return
        caller.key = self._own_run(caller, question.job_id)
        if caller.key is None:
            # The same words whether there is no such job or it is another's.
            self._refuse(caller, "no such job of yours on this node")

    def _own_run(self, caller: _Caller, job_id: int | None) -> RunKey | None:
        """The run that a caller may ask about: one of its user's, first the one its process is in; any for root."""
        mine = {(run.job_id, run.run): run for run in self._books.runs() if caller.uid in (0, run.uid)}
        # A process says which job, never whose: its pid may be another's by now, and users may name cgroups.
        inside = self._books.owner_of(caller.pid) if caller.pid else None
        if inside in mine and job_id in (None, inside[0]):
            return inside
        named = [run for run in mine.values() if run.job_id == job_id]
        return max(((run.restart, (run.job_id, run.run)) for run in named), default=(0, None))[1]

    def _answer(self, caller: _Caller, reading_ns: int) -> None:
        assert caller.key is not None
        job_id, run = caller.key
        share = self._books.total(caller.key)
        fields = {name: getattr(share, name) for name in _SHARE_FIELDS}
        self._send(caller, Answer(node=self._node, job_id=job_id, run=run, at_ns=reading_ns, **fields))

    def _refuse(self, caller: _Caller, reason: str) -> None:
        self._send(caller, Answer(error=reason, node=self._node))

    def _send(self, caller: _Caller, answer: Answer) -> None:
        try:
            caller.sock.send(msgspec.json.encode(answer))
        except OSError:  # gone, or does not read: its affair
            pass
        self._hang_up(caller)

    def _hang_up(self, caller: _Caller) -> None:
        self._callers.pop(caller.sock.fileno(), None)
        caller.sock.close()

    def close(self) -> None:
        """Close the door; nobody finds it any more."""
        for caller in list(self._callers.values()):
            self._hang_up(caller)
        if self._door is not None:
            self._door.close()
            self._door = None
            self.path.unlink(missing_ok=True)


_SHARE_FIELDS = tuple(field.name for field in msgspec.structs.fields(Share))


class Totals:
    """What each run here was charged since it began: what the store had at the start, and every commit since."""

    def __init__(self, stored: Mapping[RunKey, Share]) -> None:
        self._committed = dict(stored)

    def total(self, key: RunKey, pending: Mapping[tuple[int, RunKey | str], Share]) -> Share:
        """What a run was charged, the part included that waits for the store."""
        share = Share()
        for part in (self._committed.get(key), *(part for (_, holder), part in pending.items() if holder == key)):
            if part is not None:
                share.add(part)
        return share

    def commit(self, pending: Mapping[tuple[int, RunKey | str], Share], present: Iterable[Run]) -> None:
        """`pending` is in the store now; runs that have left are forgotten."""
        for (_bucket, holder), part in pending.items():
            if not isinstance(holder, str):
                self._committed.setdefault(holder, Share()).add(part)
        here = {(run.job_id, run.run) for run in present}
        self._committed = {key: share for key, share in self._committed.items() if key in here}


# ---- the client's side ----------------------------------------------------------------------------------------------


def socket_path(run_dir: Path) -> Path:
    """Where the daemon listens: $HPCCARBON_SOCKET (a container may mount it elsewhere), else in its run directory."""
    return Path(os.environ.get("HPCCARBON_SOCKET") or run_dir / SOCKET_NAME)


def ask(path: Path, job_id: int | None, timeout_s: float = 1.0) -> Answer:
    """This job's share up to now, read for this question.

    Raises: Unavailable, with the reason, when there is no daemon, it is silent for `timeout_s`, or it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # refused before it asked: the reason lies there to be read
                sock.send(msgspec.json.encode(Question(PROTOCOL, job_id)))
            answer = msgspec.json.decode(sock.recv(ANSWER_LIMIT), type=Answer)
    except OSError as err:
        raise Unavailable(f"no answer from the daemon at {path}: {err.strerror or err}") from err
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as err:
        raise Unavailable(f"the answer of {path} is not the daemon's: {err}") from err
    if answer.error:
        raise Unavailable(f"the daemon at {path} says: {answer.error}")
    return answer
