"""The control socket of a real daemon on a virtual node: who gets what, how often, and what bad callers achieve."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from hpccarbon.node import control
from hpccarbon.node.control import Answer, Control, Unavailable, ask
from hpccarbon.node.daemon import Daemon
from hpccarbon.units import NS_PER_MS, NS_PER_S
from tests.node.test_daemon import Running
from tests.node.virtual import Node

NOBODY = 65534


@contextmanager
def started(directory: Path) -> Iterator[Running]:
    """A daemon whose node runs job 7. Whatever its callers did, it ends well."""
    daemon = Running(Node(directory))
    daemon.node.start(7, cores=2)
    time.sleep(0.3)
    yield daemon
    if daemon.process.poll() is None:
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon for all who only ask."""
    with started(tmp_path_factory.mktemp("node")) as daemon:
        yield daemon


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Running]:
    """A daemon that a test may end."""
    with started(tmp_path) as daemon:
        yield daemon


def door(running: Running) -> Path:
    return running.node.directory / "run" / control.SOCKET_NAME


def open_to_others(running: Running) -> None:
    """Other users may come as far as the socket: pytest's directories are root's own."""
    running.node.directory.chmod(0o755)
    for above in running.node.directory.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)


def raw(path: Path, message: bytes) -> Answer:
    """What the daemon answers to any bytes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.send(message)
        return msgspec.json.decode(sock.recv(control.ANSWER_LIMIT), type=Answer)


def test_each_answer_is_read_for_the_question(running: Running) -> None:
    before = ask(door(running), 7)
    running.node.run(NS_PER_S // 2, {7: 1.0})
    after = ask(door(running), 7)
    assert (after.job_id, after.node) == (7, "n1")
    assert after.cpu_time_ns - before.cpu_time_ns == NS_PER_S // 2
    assert (after.cpu_uj or 0) > (before.cpu_uj or 0)
    assert after.at_ns > before.at_ns


def test_a_job_is_told_at_most_every_hundred_milliseconds(running: Running) -> None:
    moments = [ask(door(running), 7).at_ns for _ in range(5)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) >= control.JOB_SPACING_NS - 5 * NS_PER_MS


def test_totals_go_on_after_kill_9(alone: Running) -> None:
    alone.node.run(NS_PER_S // 2, {7: 1.0})
    before = ask(door(alone), 7)
    alone.process.kill()
    alone.process.wait()
    with pytest.raises(Unavailable, match="no answer"):
        ask(door(alone), 7)
    alone.start()
    after = ask(door(alone), 7)
    assert after.run == before.run
    assert after.cpu_time_ns >= before.cpu_time_ns == NS_PER_S // 2
    assert (after.cpu_uj or 0) >= (before.cpu_uj or 0)


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"protocol": "1"}',
        b'{"protocol": 1, "job_id": 1e400}',
        b'{"protocol": 1, "job_id": 7, "counters": true}',
        b'{"protocol": 1, "x": "' + b"y" * 100_000 + b'"}',
    ],
)
def test_malformed_questions_are_refused(running: Running, message: bytes) -> None:
    assert raw(door(running), message).error == "malformed question"
    assert ask(door(running), 7).job_id == 7


def test_another_protocol_is_named(running: Running) -> None:
    assert "protocol 1" in raw(door(running), b'{"protocol": 2}').error


@pytest.mark.root
def test_another_users_job_looks_like_no_job(running: Running) -> None:
    assert os.geteuid() == 0
    open_to_others(running)
    answers = []
    for job_id in (7, 99):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setuid(NOBODY)
            try:
                ask(door(running), job_id)
                text = "answered"
            except Unavailable as err:
                text = str(err)
            os.write(writer, text.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writer)
        answers.append(os.read(reader, 4096).decode())
        os.close(reader)
    assert answers[0] == answers[1]
    assert "no such job of yours" in answers[0]


@pytest.mark.root
def test_a_process_that_claims_to_be_in_anothers_job_gets_nothing(running: Running) -> None:
    """A pid that was recycled, or a cgroup that a user named `job_7`: the kernel's uid decides."""
    assert os.geteuid() == 0
    open_to_others(running)
    ready, go = os.pipe()
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        os.read(ready, 1)
        answers = [
            raw(door(running), question).error for question in (b'{"protocol": 1}', b'{"protocol":1,"job_id":7}')
        ]
        os.write(say, "|".join(answers).encode())
        os._exit(0)
    claim = running.node.root / f"proc/{pid}/cgroup"
    claim.parent.mkdir(parents=True)
    claim.write_text("0::/user.slice/user-65534.slice/slurm/uid_1000/job_7/step_0\n")
    mine = running.node.root / f"proc/{os.getpid()}/cgroup"
    mine.parent.mkdir(parents=True)
    mine.write_text(claim.read_text())
    os.write(go, b"1")
    os.waitpid(pid, 0)
    assert os.read(said, 4096).decode() == "|".join(["no such job of yours on this node"] * 2)
    assert ask(door(running), None).job_id == 7  # root in the same place is told


def test_callers_that_say_nothing_delay_nobody(running: Running) -> None:
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(control.CALLER_LIMIT - 4)]
    for sock in silent:
        sock.connect(str(door(running)))
    began = time.monotonic()
    assert ask(door(running), 7, timeout_s=5).job_id == 7
    assert time.monotonic() - began < 1
    silent[0].settimeout(5)
    assert silent[0].recv(1) == b"", "the daemon hangs up on it"
    for sock in silent:
        sock.close()


def test_one_caller_too_many_is_told_and_room_is_made_again(running: Running) -> None:
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(control.CALLER_LIMIT)]
    for sock in silent:
        sock.connect(str(door(running)))
    with pytest.raises(Unavailable, match="busy: too many callers"):
        ask(door(running), 7, timeout_s=5)
    for sock in silent:
        sock.close()
    time.sleep(0.1)
    assert ask(door(running), 7, timeout_s=5).job_id == 7


@pytest.mark.root
def test_one_user_cannot_take_all_places(running: Running) -> None:
    assert os.geteuid() == 0
    open_to_others(running)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(NOBODY)
            socks = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(control.CALLER_LIMIT_PER_USER)]
            for sock in socks:
                sock.connect(str(door(running)))
            ask(door(running), 7, timeout_s=5)
        except BaseException as err:
            os.write(writer, str(err).encode())
            time.sleep(30)  # its connections stay
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    answer = ask(door(running), 7, timeout_s=5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    assert said.endswith("says: busy: too many callers")
    assert answer.job_id == 7


def test_callers_that_go_in_the_middle_delay_nobody(running: Running) -> None:
    for message in (b"", b'{"protocol": 1, "job_id": 7}', b"{"):
        for _ in range(4):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(door(running)))
                if message:
                    sock.send(message)
    began = time.monotonic()
    assert ask(door(running), 7, timeout_s=5).job_id == 7
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("answer", [b"{", b'{"job_id": "seven"}', b"\xff\xfe", b""])
def test_what_is_no_daemons_answer_is_no_figure(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.bind(str(path))
        stranger.listen()

        def speak() -> None:
            sock, _ = stranger.accept()
            with sock:
                sock.recv(control.MESSAGE_LIMIT)
                sock.send(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(Unavailable, match="is not the daemon's"):
            ask(path, 7)
        thread.join()


def test_a_door_that_cannot_be_opened_is_said_and_nobody_is_let_in(tmp_path: Path) -> None:
    run_dir = tmp_path / ("d" * 120)  # a name that no socket may have
    run_dir.mkdir()
    lines: list[str] = []
    daemon = Daemon(Node(tmp_path).config(), None, "n1")
    closed = Control(run_dir, "n1", daemon, lines.append)
    (line,) = lines
    assert line.startswith(f"control: cannot listen on {run_dir}/control.sock: AF_UNIX path too long")
    assert line.endswith("trackers use their own meters")
    poll = select.poll()
    closed.wait(poll, NS_PER_MS, 0)
    assert closed.serve(NS_PER_S) is False
    closed.close()
    daemon.close()


def test_who_was_told_what_is_forgotten_again(tmp_path: Path) -> None:
    """A year of jobs leaves nothing behind in a daemon that lives so long."""
    node = Node(tmp_path)
    daemon = Daemon(node.config(), None, "n1")
    one = Control(tmp_path / "run", "n1", daemon, print)
    for job in range(1, control.CALLER_LIMIT + 10):
        node.start(job)
        daemon.sampler.notice(node.at_ns, node.wall_ns, True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(one.path))
            sock.send(msgspec.json.encode(control.Question(control.PROTOCOL, job)))
            assert one.serve(job * NS_PER_S)
            assert msgspec.json.decode(sock.recv(control.ANSWER_LIMIT), type=Answer).job_id == job
        node.end(job)
    assert len(one._told) <= control.CALLER_LIMIT
    one.close()
    daemon.close()


def test_a_flood_of_questions_leaves_the_ticks_alone(running: Running) -> None:
    """However fast they come, one job's questions make at most ten readings a second."""
    end = time.monotonic() + 1
    moments = set()
    while time.monotonic() < end:
        moments.add(ask(door(running), 7, timeout_s=5).at_ns)
    assert len(moments) <= 11


def test_a_stopped_daemon_leaves_no_socket(alone: Running) -> None:
    assert door(alone).exists()
    assert (alone.node.directory / "run").stat().st_mode & 0o777 == 0o755 | 0o011
    assert alone.stop() == 0
    assert not door(alone).exists()
