"""What the daemon keeps on its node is its own, under any umask; and systemd hears that its loop turns."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from tests.node.test_daemon import Running, wait_for
from tests.node.virtual import Node


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in directory.iterdir()}


def test_nobody_else_reads_the_store_or_the_hooks_files(tmp_path: Path) -> None:
    running = Running(Node(tmp_path, make_run_dir=False), before=("sh", "-c", 'umask 000; exec "$@"', "sh"))
    try:
        state, run = tmp_path / "state", tmp_path / "run"
        wait_for((run / "health.json").exists, "the health file")
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert {name: mode for name, mode in modes(state).items() if mode & 0o077} == {}
        assert "store.sqlite" in modes(state)
        assert modes(run)["jobs"] == 0o700
        assert {name: mode for name, mode in modes(run).items() if mode & 0o022} == {"control.sock": 0o666}
    finally:
        assert running.stop() == 0


def test_systemd_hears_that_the_loop_turns(tmp_path: Path) -> None:
    """READY once it reads, WATCHDOG with each commit (the first when the idle power is known), STOPPING at last."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(address))
        ear.settimeout(70)
        running = Running(Node(tmp_path), before=("env", f"NOTIFY_SOCKET={address}"))
        heard = [ear.recv(4096).decode()]
        while "WATCHDOG=1" not in heard[-1]:
            heard.append(ear.recv(4096).decode())
        assert running.stop() == 0
        ear.settimeout(1)
        while "STOPPING=1" not in heard[-1]:
            heard.append(ear.recv(4096).decode())
    assert heard[0].startswith("READY=1")
