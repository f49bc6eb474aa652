"""Sending runs to a real HTTP server: taken, refused, slow, away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.tracker.conftest import Program


class Service(ThreadingHTTPServer):
    """Refuses as often as it is told to, then takes what comes."""

    def __init__(self) -> None:
        self.taken: list[dict[str, object]] = []
        self.refusals = 0
        self.delay_s = 0.0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/runs"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay_s)
        refused = self.server.refusals > 0
        self.server.refusals -= 1
        if not refused:
            self.server.taken.append(body)
        self.send_response(503 if refused else 201)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


TEXT = """
import time
from hpccarbon import EmissionsTracker
tracker = EmissionsTracker("sent", save_to_file=False, country_iso_code="DEU", emissions_endpoint="{url}")
tracker.start(); begin = time.monotonic(); tracker.stop()
print(time.monotonic() - begin < 1)
"""


def test_a_run_arrives_though_it_was_refused_first(program: Program, service: Service) -> None:
    service.refusals = 1
    done = program(TEXT.format(url=service.url))
    assert done.stdout.split() == ["True"], done.stderr
    (run,) = service.taken
    assert (run["project_name"], run["state"]) == ("sent", "finished")
    assert done.stderr == ""


def test_a_service_that_is_slow_or_away_keeps_nobody_waiting(program: Program, service: Service) -> None:
    service.delay_s = 20
    for url in (service.url, "http://127.0.0.1:9/runs"):
        begin = time.monotonic()
        done = program(TEXT.format(url=url))
        assert done.returncode == 0
        assert done.stdout.split() == ["True"], "stop does not wait"
        assert "did not take the run in time" in done.stderr
        assert time.monotonic() - begin < 15
