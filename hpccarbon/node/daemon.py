"""The loop on a compute node: ticks, commits, seals. One process, one thread; never waits for a disk that is shared.

The daemon wires the node's rooms together and decides nothing about energy: `Sampler` reads and divides, `Store`
remembers, the `seal` child writes the shards.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sqlite3
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hpccarbon import __version__, program
from hpccarbon.config import Config
from hpccarbon.errors import StoreError
from hpccarbon.node import health, lock
from hpccarbon.node import meters as meter_table
from hpccarbon.node.attribution import Share
from hpccarbon.node.control import Control, Totals
from hpccarbon.node.meters.model import assumed_idle_uw
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.seal import STORE_NAME
from hpccarbon.node.store import Store
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.textfile import Textfile
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.node.usage.roster import RunKey
from hpccarbon.records import Run
from hpccarbon.units import BUCKET_S, HOUR_S, NS_PER_MS, NS_PER_S

AHEAD_NS = NS_PER_S // 50
"""How long before a tick the drivers of GPUs are asked: a reading is by so much older than the others, and its own
counter was renewed up to 100 ms before."""
EVENT_SPACING_NS = 50 * NS_PER_MS
"""A job that starts or ends gets a look of its own, but no storm of jobs gets more than twenty a second."""
LEFT_BEHIND_S = 60
SEAL_LIMIT_NS = 600 * NS_PER_S
SEAL_READS_NS = 60 * NS_PER_S
"""A sealing child has read everything that it writes by then."""
REFRESH_NS = 60 * NS_PER_S
LOCK_PATIENCE_S = 1.0
"""How long a daemon that was killed may take to be gone: the kernel lets go of its lock as the last thing."""
STOP_WAIT_S = 20.0


def log(line: str) -> None:
    """One line of speech to stderr (systemd's journal, or the file the prolog gave)."""
    print(f"hpccarbon: {line}", file=sys.stderr, flush=True)


class Lock:
    """One daemon per node and store. Raises: StoreError naming the pid that still holds it after `LOCK_PATIENCE_S`."""

    def __init__(self, directory: Path) -> None:
        path = directory / "daemon.lock"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as err:
            raise StoreError(f"cannot create {path}: {err.strerror} (paths.state_dir must be writable)") from err
        try:
            mine = lock.taken(self._fd, LOCK_PATIENCE_S)
        except OSError as err:
            raise StoreError(f"cannot lock {path}: {err.strerror} (put paths.state_dir on a local disk)") from err
        if not mine:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(f"another hpccarbon daemon (pid {holder}) already serves {directory}")
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next daemon in."""
        os.close(self._fd)


class SealChild:
    """The one child that may be writing shards now. It can hang on a dead file system; the loop only looks at it."""

    def __init__(self, config_path: Path | None, node: str) -> None:
        self._argv = [*program.argv("hpccarbon.node.seal"), str(config_path or ""), node]
        self._pid = 0
        self._pipe = -1
        self._started_ns = 0
        self._output = b""
        self._killed = False

    @property
    def running(self) -> bool:
        """Whether a child is there, be it stuck."""
        return self._pid != 0

    def running_ns(self, now_ns: int) -> int:
        """How long the child has been there."""
        return now_ns - self._started_ns

    def start(self, now_ns: int) -> None:
        """Start sealing; only when none is running. Raises: OSError, where no child can be started."""
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        try:
            self._pid = os.posix_spawn(sys.executable, self._argv, os.environ, file_actions=actions)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._pipe, self._started_ns, self._output, self._killed = reader, now_ns, b"", False

    def poll(self, now_ns: int) -> list[tuple[str, int, int]] | None:
        """None while it runs; when it has ended, the (boot id, hour, version) that it sealed."""
        self._drain()
        pid, _status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            if now_ns - self._started_ns > SEAL_LIMIT_NS and not self._killed:
                log(
                    f"seal: still writing after {SEAL_LIMIT_NS // NS_PER_S} s (is the shared file system away?); killed"
                )
                os.kill(self._pid, signal.SIGKILL)
                self._killed = True
            return None
        self._drain()
        os.close(self._pipe)
        self._pid, self._pipe = 0, -1
        sealed = []
        for line in self._output.decode("ascii", "replace").splitlines():
            words = line.split()
            if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
                sealed.append((words[0], int(words[1]), int(words[2])))
        return sealed

    def _drain(self) -> None:
        try:
            while chunk := os.read(self._pipe, 65536):
                self._output += chunk
        except BlockingIOError:
            return


class Daemon:
    """Everything one node does, from `run` to SIGTERM.

    Args:
        config: the site's settings; config_path: its file, handed to the sealing child.
        node: the node's name as Slurm knows it.
    """

    def __init__(self, config: Config, config_path: Path | None, node: str) -> None:
        self.config = config
        self.node = node
        self._state = config.state_dir(node)
        self._run = config.run_dir(node)
        self._lock = Lock(self._state)
        self._store = Store(self._state / STORE_NAME, config.cluster, node)
        try:
            (self._run / "jobs").mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise StoreError(
                f"cannot create {self._run}/jobs: {err.strerror} (paths.run_dir must be writable)"
            ) from err
        root = SysRoot(config.root_dir(node))
        self._meters = meter_table.discover(root, config)
        self.sampler = Sampler(
            root,
            node,
            self._meters,
            JobFiles(self._run / "jobs"),
            cpus=config.daemon.cpus,
            configured_idle_uw=_idle_uw(config),
            assumed_idle_uw=assumed_idle_uw(root),
            weigh_by=config.daemon.weights,
            keep_steps=config.daemon.steps,
            log=log,
        )
        self._seal = SealChild(config_path, node)
        self._interval_ns = round(config.daemon.interval_s * NS_PER_S)
        self._stop = False
        self._minute = 0
        self._seal_due_ns = 0
        self._job_due_ns: int | None = None
        self._jobs_ended = 0
        self._refresh_ns = 0
        self._commit_failed = False
        self._dirty = False
        self._started = time.time()
        self._last_commit: float | None = None
        self._last_seal: float | None = None
        path = config.textfile(node)
        self._textfile = Textfile(path, config.cluster, node) if path else None
        self._textfile_failed = False
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._totals = Totals({})
        self._control: Control | None = None

    # ---- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Tick until SIGTERM or SIGINT; then seal and return."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        try:
            (self._run / "daemon.pid").write_text(f"{os.getpid()}\n")
        except OSError as err:  # what is full can be emptied; energy that nobody counted does not come back
            log(f"cannot write {self._run}/daemon.pid: {err.strerror}; sampling goes on")
        resumed = self._store.resume()
        if resumed is not None:
            self.sampler.resume(*resumed)
            self._totals = Totals(self._store.totals(self.sampler.boot_id, resumed[1].keys()))
        self._control = Control(self._run, self.node, self, log)
        self._introduce(resumed is not None)
        at_ns, wall_ns = clocks()
        self.sampler.notice(at_ns, wall_ns, True)
        if self.sampler.roster.watch.blind:
            log(
                "jobs: the kernel watches no more directories (fs.inotify.max_user_instances or max_user_watches);"
                " they are looked for at every tick"
            )
        self._dirty = bool(self._store.hours(unsealed=True))
        self._seal_due_ns = at_ns + self._first_seal_ns()
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self.sampler.roster.watch.fd >= 0:
            poll.register(self.sampler.roster.watch.fd, select.POLLIN)
        _notify_systemd("READY=1")
        last_ns, due_ns = at_ns, at_ns
        changed = asked = False
        while not self._stop:
            at_ns, wall_ns = clocks()
            if at_ns >= due_ns:
                self._step(at_ns, wall_ns, changed)
                changed = asked = False
                last_ns, wall_ns = clocks()
                due_ns = last_ns + self._interval_ns - wall_ns % self._interval_ns
                continue
            ask_ns = due_ns - AHEAD_NS if self.sampler.slow and not asked else due_ns
            if not asked and at_ns >= ask_ns:
                self.sampler.ask()
                asked, ask_ns = True, due_ns
            if changed and at_ns >= last_ns + EVENT_SPACING_NS:
                self.sampler.notice(at_ns, wall_ns, True)
                self.sampler.glance(clocks()[0])
                changed, last_ns = False, at_ns
            next_ns = min(ask_ns, last_ns + EVENT_SPACING_NS) if changed else ask_ns
            self._control.wait(poll, next_ns, at_ns)
            self._drain_wake()
            self._control.serve(clocks()[0])
            changed = (self.sampler.roster.watch.fd >= 0 and self.sampler.roster.watch.changed()) or changed
        self._finish()

    def _step(self, at_ns: int, wall_ns: int, changed: bool) -> None:
        sampler = self.sampler
        sampler.notice(at_ns, wall_ns, changed)
        sampler.tick(*clocks())
        if sampler.roster.ends != self._jobs_ended:
            self._jobs_ended = sampler.roster.ends
            if self._job_due_ns is None:
                self._job_due_ns = at_ns + round(self.config.daemon.seal_after_job_s * NS_PER_S)
        minute = wall_ns // NS_PER_S // BUCKET_S
        if minute != self._minute or sampler.learned:
            self._minute = minute
            self.commit()
            self._keep_small(at_ns, wall_ns)
            self._say_how_it_is(at_ns, wall_ns)
            _notify_systemd("WATCHDOG=1")
        if at_ns >= self._refresh_ns:
            self._refresh_ns = at_ns + REFRESH_NS
            sampler.refresh()
        self._mind_seal(at_ns)

    def commit(self) -> bool:
        """Write what is pending to the store; False (and said once) when the disk refuses: then it stays pending."""
        mark = self.sampler.settle()
        if mark is None:
            return True
        try:
            self._store.commit(self.sampler.pending, mark, self.sampler.channels, self._about())
        except sqlite3.Error as err:
            if not self._commit_failed:
                log(f"store: {err}; sampling goes on, rows are kept in memory until {self._state} can be written again")
            self._commit_failed = True
            return False
        if self._commit_failed:
            self._commit_failed = False
            log("store: can be written again; nothing was lost")
        self._dirty = True
        self._last_commit = time.time()
        if self._textfile is not None:
            self._publish(self._textfile)
        self._totals.commit(self.sampler.pending.shares, self.sampler.present)
        self.sampler.committed()
        return True

    # ---- what the control socket may know -----------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """The runs on the node now."""
        return self.sampler.present

    def owner_of(self, pid: int) -> RunKey | None:
        """The run a process belongs to."""
        return self.sampler.roster.owner_of(pid)

    def read_now(self) -> int:
        """Read all counters out of turn; the boot-time clock of the last good reading."""
        return self.sampler.read_now(*clocks())

    def total(self, key: RunKey) -> Share:
        """What a run was charged since it began."""
        return self._totals.total(key, self.sampler.pending.shares)

    def _publish(self, textfile: Textfile) -> None:
        """Write the node's metrics; what cannot be written is said once."""
        textfile.add(self.sampler.pending)
        meters = [channel.key for channel in self.sampler.channels]
        try:
            textfile.write(time.time_ns(), len(self.sampler.roster.jobs), meters, self.sampler.gaps)
            self._textfile_failed = False
        except OSError as err:
            if not self._textfile_failed:
                log(f"metrics: cannot write {textfile.path}: {err.strerror} (daemon.textfile); sampling goes on")
            self._textfile_failed = True

    def _mind_seal(self, at_ns: int) -> None:
        if self._seal.running:
            sealed = self._seal.poll(at_ns)
            if sealed is not None:
                self._take_sealed(sealed)
            return
        due = at_ns >= self._seal_due_ns or (self._job_due_ns is not None and at_ns >= self._job_due_ns)
        if not due:
            return
        self._job_due_ns = None
        self._seal_due_ns = at_ns + self.config.daemon.seal_s * NS_PER_S
        self.commit()
        if self._dirty:
            self._start_seal(at_ns)

    def _start_seal(self, at_ns: int) -> None:
        try:
            self._seal.start(at_ns)
        except OSError as err:
            log(f"seal: cannot start ({err.strerror}); the rows stay in the store")

    def _take_sealed(self, sealed: list[tuple[str, int, int]]) -> None:
        try:
            if sealed:
                self._store.mark_sealed(sealed)
                self._last_seal = time.time()
            keep_from = int(time.time()) // HOUR_S - self.config.daemon.keep_days * 24
            self._store.drop_before(keep_from)
            self._dirty = bool(self._store.hours(unsealed=True))
        except sqlite3.Error as err:
            log(f"store: {err}; the next seal repeats the last one")

    def _keep_small(self, at_ns: int, wall_ns: int) -> None:
        """Hold the store within `daemon.store_limit_mb`, and say what that cost."""
        limit_mb = self.config.daemon.store_limit_mb
        # A child that has just begun may be reading the hour that would go; later it has read all that it writes.
        reading = self._seal.running and self._seal.running_ns(at_ns) < SEAL_READS_NS
        if not limit_mb or reading or self._commit_failed:
            return
        try:
            lost = self._store.keep_within(limit_mb * 1_000_000, wall_ns // NS_PER_S // HOUR_S)
        except sqlite3.Error as err:
            log(f"store: {err}; it cannot be held within {limit_mb} MB now")
            return
        if lost.first is not None and lost.last is not None:
            first, last = (
                time.strftime("%Y-%m-%dT%HZ", time.gmtime(hour * HOUR_S)) for hour in (lost.first, lost.last)
            )
            log(
                f"store: at its limit of {limit_mb} MB: {lost.hours} hour(s) from {first} to {last} that no shard holds"
                " were given up; bring paths.shared_dir back, or raise daemon.store_limit_mb"
            )

    def _finish(self) -> None:
        """SIGTERM: one more tick, commit, seal, go."""
        _notify_systemd("STOPPING=1")
        at_ns, wall_ns = clocks()
        self.sampler.notice(at_ns, wall_ns, True)
        self.sampler.tick(*clocks())
        self.commit()
        deadline = time.monotonic() + STOP_WAIT_S
        again = True
        while time.monotonic() < deadline:
            at_ns, _ = clocks()
            if not self._seal.running:
                if not (again and self._dirty):
                    break
                again = False
                self._start_seal(at_ns)
                continue
            sealed = self._seal.poll(at_ns)
            if sealed is not None:
                self._take_sealed(sealed)
            else:
                time.sleep(0.02)
        if self._seal.running:
            log("seal: did not end in time; the rows stay in the store and the next start brings them")
        self.close()
        log("stopped")

    def close(self) -> None:
        """Give everything back; the pid file goes last."""
        if self._control is not None:
            self._control.close()
        self.sampler.close()
        self._store.close()
        (self._run / "daemon.pid").unlink(missing_ok=True)
        self._lock.release()

    # ---- speech -------------------------------------------------------------------------------------------------

    def _introduce(self, resumed: bool) -> None:
        sampler = self.sampler
        names = ", ".join(channel.key for channel in sampler.channels) or "nothing (see hpccarbon doctor)"
        how = "continuing from the store" if resumed else "with a new store"
        log(f"node {self.node} of cluster {self.config.cluster}: {sampler.node.cpus} CPUs, {how}; reading {names}")
        for meter in self._meters:
            for finding in meter.findings:
                if finding.state in ("denied", "failing"):
                    log(f"gap: {finding.meter}/{finding.zone}: {finding.detail}; {finding.advice}")

    def _about(self) -> str:
        """What the shard's metadata says of this node: its meters, their static power, what could not be read."""
        idle, assumed = self.sampler.idle_uw, self.sampler.assumed_uw
        about: Mapping[str, object] = {
            "cpus": self.sampler.node.cpus,
            "cpu_time": self.sampler.roster.source,
            "weights": self.sampler.weights.source,
            "meters": [
                {
                    "meter": channel.key,
                    "component": channel.component,
                    "modelled": channel.modelled,
                    "idle_power_w": idle[channel.key] / 1e6 if channel.key in idle else None,
                    "idle_power_assumed": channel.key in assumed,
                    "note": channel.note,
                }
                for channel in self.sampler.channels
            ],
            "gaps": self.sampler.gaps,
            "denied": [f.zone for meter in self._meters for f in meter.findings if f.state == "denied"],
        }
        return msgspec.json.encode(about).decode()

    def _say_how_it_is(self, at_ns: int, wall_ns: int) -> None:
        """Write the health file; a full or missing run_dir must not disturb the ticks."""
        hours = [] if self._commit_failed else self._store.hours(unsealed=True)
        pending = self.sampler.pending
        try:
            given_up = self._store.given_up()
            health.write(
                self._run,
                health.Health(
                    version=__version__,
                    pid=os.getpid(),
                    cluster=self.config.cluster,
                    node=self.node,
                    started=self._started,
                    at=wall_ns / NS_PER_S,
                    last_tick=wall_ns / NS_PER_S,
                    last_commit=self._last_commit,
                    last_seal=self._last_seal,
                    seal_running_s=self._seal.running_ns(at_ns) / NS_PER_S if self._seal.running else None,
                    unsealed_hours=len(hours),
                    oldest_unsealed=min((hour.hour * HOUR_S for hour in hours), default=None),
                    store_bytes=(self._state / STORE_NAME).stat().st_size,
                    waiting_rows=len(pending.shares) if self._commit_failed else 0,
                    jobs=len(self.sampler.roster.jobs),
                    meters=[channel.key for channel in self.sampler.channels],
                    gaps=dict(self.sampler.gaps),
                    given_up_hours=given_up.hours,
                    given_up_last=None if given_up.last is None else given_up.last * HOUR_S,
                ),
            )
        except (OSError, sqlite3.Error):
            return

    def _first_seal_ns(self) -> int:
        """A node's own phase, so that ten thousand nodes do not write at the same second.

        Rows that an earlier daemon left unsealed (a crash, a power cut) may be awaited: they come within a minute.
        """
        seal_s = self.config.daemon.seal_s
        return zlib.crc32(self.node.encode()) % (min(seal_s, LEFT_BEHIND_S) if self._dirty else seal_s) * NS_PER_S

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop = True

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake, 64)
        except BlockingIOError:
            return


def clocks() -> tuple[int, int]:
    """(boot-time clock, wall clock) of this moment, ns. Durations come from the first, labels from the second."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()


def _idle_uw(config: Config) -> dict[str, int]:
    daemon = config.daemon
    watts = {"cpu": daemon.idle_power_w, "dram": daemon.dram_idle_power_w}
    return {component: round(power_w * 1e6) for component, power_w in watts.items() if power_w}


def _notify_systemd(state: str) -> None:
    """Tell systemd, where it asked (sd_notify(3)); never waits."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as err:
            if err.errno != errno.EAGAIN:
                os.environ.pop("NOTIFY_SOCKET", None)
