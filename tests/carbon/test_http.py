"""The one GET: waiting, proxies, certificates, endless answers, and replies that nobody thought of."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpccarbon.carbon import providers
from hpccarbon.carbon.providers import http
from hpccarbon.carbon.providers.http import Client, Malformed, ProviderError
from hpccarbon.config import Carbon, Provider
from hpccarbon.errors import CarbonError, ConfigError
from tests.carbon.server import Answer, Asked, Server
from tests.carbon.test_providers import CASES, Case, Run, serve

NOW = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


def client(url: str, slept: list[float], **more: Any) -> Client:
    return Client("svc", url, 2.0, sleep=slept.append, now=lambda: NOW, **more)


@pytest.mark.parametrize(
    ("told", "waited"),
    [
        ("11", 11.0),
        (format_datetime(NOW + timedelta(seconds=42), usegmt=True), 42.0),
        (format_datetime(NOW - timedelta(seconds=42), usegmt=True), 0.0),
        ("soon", 1.0),
        ("-5", 1.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(told: str, waited: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    slept: list[float] = []

    def answer(asked: Asked) -> Answer:
        return Answer(b"{}") if asked.number else Answer(b"", 503, {"Retry-After": told})

    with Server(answer).running() as server:
        assert client(server.url, slept).get("/x") == b"{}"
    assert slept == [waited]


def test_requests_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    slept: list[float] = []
    with Server(lambda _: Answer(b"{}")).running() as server:
        one = client(server.url, slept, distance_s=5.0)
        one.get("/x")
        one.get("/x")
    assert len(slept) == 1 and 4 < slept[0] <= 5


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(http, "MAX_BYTES", 1 << 20)
    with Server(lambda _: Answer(b"x" * (3 << 20))).running() as server, pytest.raises(Malformed, match="more than"):
        client(server.url, []).get("/x")


def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Server(lambda _: Answer(b'{"through": "proxy"}')).running() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert client("http://service.invalid", []).get_json("/x") == {"through": "proxy"}
    assert proxy.asked[0].path == "/x" and proxy.asked[0].headers["host"] == "service.invalid"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_signed_is_refused_and_ssl_cert_file_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Silent."""

    monkeypatch.setenv("NO_PROXY", "*")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"https://localhost:{server.server_address[1]}"
    try:
        slept: list[float] = []
        with pytest.raises(ProviderError, match="SSL_CERT_FILE"):
            client(url, slept).get("/x")
        assert slept == []  # trying again would not make it better
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert client(url, []).get("/x", secret=True) == b"{}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x",
        "https://",
        "https://user:pw@host/",
        "file:///etc/passwd",
        "https://h:99999/",
        "https://[::1/",
        "https://h:x/",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as told:
        Client("svc", url)
    assert "pw" not in str(told.value)


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "data", "history", "results", "zone", "carbonIntensity", "datetime", "unix_seconds", "co2eq", "co2eq_forecast",
    "intensity", "actual", "forecast", "from", "to", "meta", "units", "value", "point_time", "taux_co2", "date_heure",
    "total_count", "status", "result", "resultType", "values", "metric", "token", "regionid", "temporalGranularity",
]  # fmt: skip
spiked = st.recursive(
    junk | st.sampled_from(["2026-11-20T10:00Z", "success", "matrix", "lbs_co2_per_mwh", 1795132800, "13", 100]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(reply=spiked)
def test_no_reply_crashes_any_service(reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever JSON comes back: points that are plausible, or an error that has a name."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("K", "key")
    body = json.dumps(reply).encode()
    login = Answer(b'{"token": "t"}')
    since = NOW - timedelta(hours=4)
    with Server(lambda asked: login if asked.path == "/login" else Answer(body)).running() as server:
        for name, entry in providers.SERVICES.items():
            basis = entry.bases[-1]
            query = "q" if name == "site_http" else ""
            given_ = Provider(base_url=server.url, key_env="K", user="u", basis=basis, query=query)  # type: ignore[arg-type]
            service = providers.make(name, Carbon(providers={name: given_}), basis, NOW, lambda _: None)  # type: ignore[arg-type]
            zone = {"neso_national": "GB", "neso_regional": "GB-NESO-13"}.get(name, "FR")
            for forecast in (False, True):
                try:
                    found = service.forecast(zone, NOW) if forecast else service.fetch(zone, since, NOW)
                except (CarbonError, ConfigError):
                    continue
                assert all(0 <= point.g_per_kwh <= 5000 and point.start < point.end for point in found.points)


def mutated(reply: Any, draw: st.DataObject) -> Any:
    """A good reply with one of its parts replaced by anything."""
    if isinstance(reply, dict) and reply and draw.draw(st.integers(0, 4)):
        key = draw.draw(st.sampled_from(sorted(reply)))
        return {**reply, key: mutated(reply[key], draw)}
    if isinstance(reply, list) and reply and draw.draw(st.integers(0, 4)):
        at = draw.draw(st.integers(0, min(len(reply), 5) - 1))
        return [*reply[:at], mutated(reply[at], draw), *reply[at + 1 :]]
    return draw.draw(junk)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_one_wrong_part_never_becomes_a_value(case: Case, data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case, serve(mutated(case.good(), data)), monkeypatch)
    if run.result is not None:
        assert all(0 <= point.g_per_kwh <= 5000 and point.start < point.end for point in run.result.points)
