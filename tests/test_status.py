"""`hpccarbon status`: a daemon that is well, dead, hanging or behind, and nodes that are silent, each named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from hpccarbon.errors import ShardError, StoreError
from hpccarbon.node import health
from hpccarbon.site import silence
from tests.site import maker

NOW = 1_790_000_000.0
WELL = health.Health(
    version="0.1.0", pid=os.getpid(), cluster="alpha", node="n1", started=NOW - 7200, at=NOW - 20, last_tick=NOW - 20,
    last_commit=NOW - 20, last_seal=NOW - 300, seal_running_s=None, unsealed_hours=1, oldest_unsealed=NOW - 1800,
    store_bytes=1_500_000, waiting_rows=0, jobs=3, meters=["rapl/intel-rapl:0"], gaps={},
)  # fmt: skip


def problems(changed: health.Health) -> dict[str, str]:
    return {one.subject: one.text for one in health.remarks(changed, NOW, 900) if one.verdict == "problem"}


def test_a_daemon_that_is_well_has_no_problem() -> None:
    assert problems(WELL) == {}


@pytest.mark.parametrize(
    ("change", "subject", "said"),
    [
        ({"pid": 2**22 + 1}, "daemon", "is gone"),
        ({"at": NOW - 1000}, "daemon", "has said nothing for 17 min"),
        ({"waiting_rows": 12, "last_commit": NOW - 1000}, "store", "12 rows wait in memory"),
        ({"seal_running_s": 1800.0}, "shards", "has been writing for 30 min"),
        ({"last_seal": NOW - 90_000}, "shards", "1 hour(s) not sealed"),
        ({"last_seal": None, "started": NOW - 90_000}, "shards", "none yet"),
        ({"meters": []}, "meters", "0 read"),
    ],
)
def test_what_is_not_well_is_named(change: dict[str, object], subject: str, said: str) -> None:
    found = problems(msgspec.structs.replace(WELL, **change))
    assert list(found) == [subject]
    assert said in found[subject]


def test_a_gap_is_a_note_with_its_reason() -> None:
    changed = msgspec.structs.replace(WELL, gaps={"nvml/GPU-0": "GPU is lost"})
    (note,) = (one for one in health.remarks(changed, NOW, 900) if one.verdict == "note")
    assert (note.subject, note.text) == ("gap nvml/GPU-0", "GPU is lost")


def test_a_file_that_is_not_there_or_not_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no daemon has run here"):
        health.read(tmp_path)
    (tmp_path / health.NAME).write_text('{"pid": "x"}')
    with pytest.raises(StoreError, match="another version"):
        health.read(tmp_path)


def test_a_real_daemon_says_how_it_is(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text(
        f'cluster = "alpha"\n[paths]\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n'
        'shared_dir = "%c/shared"\n[meters]\nenabled = ["model"]\n'
    )
    asked = ["--config", str(config), "--node", "n1"]
    daemon = subprocess.Popen([sys.executable, "-m", "hpccarbon", "daemon", *asked], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "run" / health.NAME).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        done = status(*asked, "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert (told["health"]["pid"], told["health"]["node"]) == (daemon.pid, "n1")
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)
        done = status(*asked)
        assert done.returncode == 1
        assert f"pid {daemon.pid} is gone" in done.stdout
        assert "-> systemctl start hpccarbon" in done.stdout
    finally:
        daemon.kill()
        daemon.wait(10)


def status(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hpccarbon", "status", *args], capture_output=True, text=True)


def test_silent_nodes_are_found_from_the_shards_alone(tmp_path: Path) -> None:
    now = datetime(2026, 3, 2, 12, 30, tzinfo=timezone.utc)
    for node, hours_ago in (("n1", 0), ("n2", 0), ("n2", 5), ("n3", 6), ("n.with.dots", 30), ("gone", 24 * 10)):
        hour = (now - timedelta(hours=hours_ago)).replace(minute=0)
        path = maker.write(tmp_path, maker.node_hour(1, hour=hour, minutes=range(1)), hour=hour, node=node)
        at = (hour + timedelta(minutes=25)).timestamp()
        os.utime(path, (at, at))
    seen = silence.nodes(tmp_path, "alpha", now, seal_s=900)
    assert [(one.node, one.silent) for one in seen] == [
        ("n.with.dots", True), ("n3", True), ("n1", False), ("n2", False),
    ]  # fmt: skip
    (tmp_path / "site.toml").write_text(f'cluster = "alpha"\n[paths]\nshared_dir = "{tmp_path}"\n')
    done = status("--cluster", "--config", str(tmp_path / "site.toml"))  # by the clock of today all of it is long ago
    assert done.returncode == 1
    assert "no node has sealed anything" in done.stdout


def test_a_cluster_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="mounted"):
        silence.nodes(tmp_path, "alpha", datetime(2026, 3, 2, tzinfo=timezone.utc), 900)
