"""A marked secret in every place that takes one, and a whole run: it is in no output, argument, log or file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hpccarbon.units import NS_PER_S
from tests.carbon.server import Answer, Asked, Server
from tests.node.test_daemon import Running
from tests.node.virtual import Node

MARK = "s3cr3t-0f-the-site"
COMMANDS = (
    ("doctor",),
    ("intensity", "fetch", "--provider", "electricity_maps", "--since", "1d"),
    ("intensity", "fetch", "--provider", "watttime", "--since", "1d"),
    ("intensity", "fetch", "--provider", "site_http", "--since", "1d"),
    ("report", "--job", "7"),
    ("aggregate", "--no-accounting"),
)
KEYS = """
[bmc]
kind = "redfish"
url = "{url}"
insecure = true
credentials = "{place}/bmc.credentials"
interval_s = 1
timeout_s = 1
[carbon]
zone = "DE"
pue = 1.2
[carbon.providers.electricity_maps]
base_url = "{url}"
key_file = "{place}/key"
[carbon.providers.watttime]
base_url = "{url}"
key_env = "SITE_SECRET"
user = "site"
[carbon.providers.site_http]
base_url = "{url}"
key_env = "SITE_SECRET"
query = "co2"
basis = "lifecycle"
"""


def refusing(asked: Asked) -> Answer:
    """A service that tells the key back to whoever sent it, as careless ones do."""
    told = " ".join(asked.headers.values()) + " " + asked.path + str(asked.query)
    return Answer(f'{{"error": "bad key {told}"}}'.encode(), 401 if asked.number % 2 else 500)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in (("key", f"{MARK}\n"), ("bmc.credentials", f"user = root\npassword = {MARK}\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def arguments_of(pid: int) -> list[str]:
    """The command lines of a process and all below it."""
    found = []
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        try:
            found.append(" ".join(one.cmdline()))
        except psutil.Error:
            continue
    return found


def test_a_secret_is_seen_nowhere(place: Path) -> None:
    environment = os.environ | {"SITE_SECRET": MARK, "NO_PROXY": "*"}
    with Server(refusing).running() as server:
        node = Node(place / "node")
        daemon = Running(node, KEYS.format(url=server.url, place=place))
        seen = []
        try:
            node.start(7)
            node.run(NS_PER_S // 2, {7: 1.0})
            for _ in range(15):
                seen += arguments_of(daemon.process.pid)
                time.sleep(0.1)
            node.end(7)
        finally:
            assert daemon.stop() == 0
        said = []
        for words in COMMANDS:
            done = subprocess.run(
                [sys.executable, "-m", "hpccarbon", *words, "--config", str(daemon.config)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert "Traceback" not in done.stderr, (words, done.stderr)
            said += [done.stdout, done.stderr]
        asked = [str(request) for request in server.asked]
    assert any("daemon" in line for line in seen)
    assert any(MARK in request for request in asked), "the secret was never used: the test shows nothing"
    for text in (*seen, *said, daemon.log.read_text()):
        assert MARK not in text
    for path in place.rglob("*"):
        if path.is_file() and path.name not in ("key", "bmc.credentials"):
            assert MARK.encode() not in path.read_bytes(), path
