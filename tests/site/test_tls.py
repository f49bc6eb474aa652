"""Of two TLS connections in one thread, one breaks: the other is as whole as before."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpccarbon.site.tls import TidySocket, tidy_sockets
from tests.meters.bmcserver import certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
Pair = tuple[ssl.SSLSocket, ssl.SSLSocket]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))[0]


@contextlib.contextmanager
def connected(pem: Path) -> Iterator[Pair]:
    """Both ends of a connection, past its handshake; a read does not wait."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(pem)
    client.load_verify_locations(pem)
    client.check_hostname = False
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)
    ends: list[ssl.SSLSocket] = []
    shaking = threading.Thread(target=lambda: ends.append(server.wrap_socket(far, server_side=True)))
    shaking.start()
    with client.wrap_socket(near) as mine:
        shaking.join()
        with ends[0] as its:
            its.send(b"x")
            assert mine.recv(1) == b"x"  # and the tickets of TLS 1.3 before it
            mine.setblocking(False)
            yield mine, its


def read_after_the_end(pair: Pair) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(pair[0], socket.SHUT_RDWR)
        pair[0].recv(1)


def write_after_the_end(pair: Pair) -> None:
    pair[1].close()
    with contextlib.suppress(OSError):
        for _ in range(4):
            pair[0].send(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("breaks", [read_after_the_end, write_after_the_end])
def test_what_ends_one_connection_leaves_the_next_alone(pem: Path, breaks: Callable[[Pair], None]) -> None:
    with tidy_sockets(), connected(pem) as whole, connected(pem) as other:
        breaks(other)
        with pytest.raises(ssl.SSLWantReadError):
            whole[0].recv(1)
        whole[1].send(b"y")
        assert whole[0].recv(1) == b"y"


def test_only_sockets_that_are_made_meanwhile_are_tidy(pem: Path) -> None:
    with connected(pem) as pair:
        assert type(pair[0]) is ssl.SSLSocket
    with tidy_sockets(), connected(pem) as pair:
        assert type(pair[0]) is TidySocket
    assert ssl.SSLContext.sslsocket_class is ssl.SSLSocket
