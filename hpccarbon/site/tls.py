"""TLS sockets that leave no error behind to the next connection; opens none itself.

Where a system call fails under OpenSSL 3.4 and later (a read too: it answers an unexpected end with an alert), newer
CPythons (3.13.5 for one) raise the OSError and leave OpenSSL's entry in the thread's queue. The next connection of that
thread that has nothing to read finds the entry there and counts as broken: python/cpython issue 148594. All of Dask's
connections are in one thread, so that workers were lost for a connection that had ended as it should.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

_BLANK = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class TidySocket(ssl.SSLSocket):
    """An SSLSocket that empties OpenSSL's error queue where CPython does not."""

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        """As SSLSocket's."""
        with _emptied():
            super().do_handshake(*args, **kwargs)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """As SSLSocket's; `recv` and `recv_into` end here too."""
        with _emptied():
            return super().read(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        """As SSLSocket's; `sendall` ends here too."""
        with _emptied():
            return super().send(*args, **kwargs)


@contextlib.contextmanager
def tidy_sockets() -> Iterator[None]:
    """TLS sockets that anybody in this process makes meanwhile are tidy ones: Dask takes no class of ours."""
    before = ssl.SSLContext.sslsocket_class
    ssl.SSLContext.sslsocket_class = TidySocket
    try:
        yield
    finally:
        ssl.SSLContext.sslsocket_class = before


@contextlib.contextmanager
def _emptied() -> Iterator[None]:
    try:
        yield
    except ssl.SSLError:  # "nothing to read yet" above all; for these CPython empties the queue
        raise
    except OSError:
        _BLANK.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())  # a new connection begins by emptying it
        raise
