"""A BMC made of documented Redfish replies, over real HTTPS, with the faults that real ones have."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USER, PASSWORD = "meter", "s3cret=with=signs"


def certificate(directory: Path) -> tuple[Path, str]:
    """A self-signed certificate for 127.0.0.1 with its key, and its SHA-256."""
    pem = directory / "bmc.pem"
    key = directory / "bmc.key"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-days", "2", "-subj", "/CN=bmc", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*new, "-keyout", str(key), "-out", str(pem), *subject], check=True, capture_output=True)
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.read_text())).hexdigest()
    pem.write_text(pem.read_text() + key.read_text())
    return pem, fingerprint


def service(watts: float | None = 311.0) -> dict[str, Any]:
    """The resources of a server with one system, an enclosure around it, and a board that shows no power."""
    power = {"PowerControl": [{"MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": watts}]}
    links = {"ComputerSystems": [{"@odata.id": "/redfish/v1/Systems/1"}]}
    two = {"ComputerSystems": [{"@odata.id": "/redfish/v1/Systems/1"}, {"@odata.id": "/redfish/v1/Systems/2"}]}
    chassis = "/redfish/v1/Chassis"
    return {
        "/redfish/v1/": {"RedfishVersion": "1.15.0", "Chassis": {"@odata.id": chassis}},
        chassis: {"Members": [{"@odata.id": f"{chassis}/{name}"} for name in ("Enclosure", "Board", "Self")]},
        f"{chassis}/Enclosure": {
            "Id": "Enclosure",
            "ChassisType": "Enclosure",
            "Links": two,
            "Power": {"@odata.id": f"{chassis}/Enclosure/Power"},
        },
        f"{chassis}/Enclosure/Power": {"PowerControl": [{"PowerConsumedWatts": 4000}]},
        f"{chassis}/Board": {"Id": "Board", "ChassisType": "Module"},
        f"{chassis}/Self": {
            "Id": "Self",
            "ChassisType": "RackMount",
            "Links": links,
            "Power": {"@odata.id": f"{chassis}/Self/Power"},
        },
        f"{chassis}/Self/Power": power,
    }


class Bmc:
    """The service on a port of 127.0.0.1. `fault` changes how it behaves from the next request on."""

    def __init__(self, pem: Path | None, resources: dict[str, Any]) -> None:
        self.resources = resources
        self.fault = ""
        self.sessions: set[str] = set()
        self.log: list[str] = []
        self.connections = 0
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                bmc.connections += 1

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                bmc.answer(self, "GET")

            def do_POST(self) -> None:
                bmc.answer(self, "POST")

            def do_DELETE(self) -> None:
                bmc.answer(self, "DELETE")

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that go in the middle of an answer are part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.scheme = "http"
        if pem is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        path = handler.path
        self.log.append(f"{method} {path}")
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if self.fault == "silent":
            time.sleep(30)
            return
        if self.fault == "dribble":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(60):
                time.sleep(0.2)
                handler.wfile.write(b" ")
                handler.wfile.flush()
            return
        if self.fault == "hangup":
            handler.close_connection = True
            handler.connection.close()
            return
        if self.fault in ("500", "503"):
            self.reply(handler, int(self.fault), {"error": {"code": "Base.1.0.GeneralError"}})
            return
        if path == "/redfish/v1/SessionService/Sessions" and method == "POST":
            self.log_in(handler, body)
            return
        if path != "/redfish/v1/" and not self.allowed(handler):
            self.reply(handler, 401, {})
            return
        if method == "DELETE":
            self.sessions.discard(path.rsplit("/", maxsplit=1)[-1])
            self.reply(handler, 204, None)
        elif path in self.resources:
            text = self.resources[path]
            self.reply(handler, 200, text)
        else:
            self.reply(handler, 404, {})

    def log_in(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked = json.loads(body)
        if self.fault == "no sessions":
            self.reply(handler, 404, {})
        elif (asked["UserName"], asked["Password"]) != (USER, PASSWORD):
            self.reply(handler, 401, {})
        else:
            token = f"token{len(self.log)}"
            self.sessions.add(token)
            place = f"/redfish/v1/SessionService/Sessions/{token}"
            self.reply(handler, 201, {}, {"X-Auth-Token": token, "Location": place})

    def allowed(self, handler: BaseHTTPRequestHandler) -> bool:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return handler.headers.get("X-Auth-Token") in self.sessions or handler.headers.get("Authorization") == basic

    def reply(
        self, handler: BaseHTTPRequestHandler, status: int, value: object, headers: dict[str, str] | None = None
    ) -> None:
        text = value.encode() if isinstance(value, str) else b"" if value is None else json.dumps(value).encode()
        handler.send_response(status)
        for key, word in (headers or {}).items():
            handler.send_header(key, word)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
