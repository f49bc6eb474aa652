"""The control socket of a real daemon on a virtual node: who gets what, how often, and what bad callers achieve."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hpccarbon.node import control
from hpccarbon.node.control import Answer, Unavailable, ask
from hpccarbon.units import NS_PER_MS, NS_PER_S
from tests.node.test_daemon import Running
from tests.node.virtual import Node

NOBODY = 65534


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    daemon = Running(Node(tmp_path))
    daemon.node.start(7, cores=2)
    time.sleep(0.3)
    yield daemon
    if daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait()


def door(running: Running) -> Path:
    return running.node.directory / "run" / control.SOCKET_NAME


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


def test_totals_go_on_after_kill_9(running: Running) -> None:
    running.node.run(NS_PER_S // 2, {7: 1.0})
    before = ask(door(running), 7)
    running.process.kill()
    running.process.wait()
    with pytest.raises(Unavailable, match="no answer"):
        ask(door(running), 7)
    running.start()
    after = ask(door(running), 7)
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
    running.node.directory.chmod(0o755)
    for above in running.node.directory.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)
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
    running.node.directory.chmod(0o755)
    for above in running.node.directory.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)
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


def test_a_flood_of_questions_leaves_the_ticks_alone(running: Running) -> None:
    """However fast they come, one job's questions make at most ten readings a second."""
    end = time.monotonic() + 1
    moments = set()
    while time.monotonic() < end:
        moments.add(ask(door(running), 7, timeout_s=5).at_ns)
    assert len(moments) <= 11


def test_a_stopped_daemon_leaves_no_socket(running: Running) -> None:
    assert door(running).exists()
    assert (running.node.directory / "run").stat().st_mode & 0o777 == 0o755 | 0o011
    assert running.stop() == 0
    assert not door(running).exists()
