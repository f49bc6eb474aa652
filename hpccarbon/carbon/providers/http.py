"""One HTTP GET with everything that a service may do wrong: the only place of the carbon wing that opens a socket.

Standard library: a provider is one GET and a parser. Proxies are those of the environment (https_proxy, no_proxy), TLS
is the system's trust store (SSL_CERT_FILE). No message holds a query string or a header: keys travel in both.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hpccarbon import __version__
from hpccarbon.config import Provider
from hpccarbon.errors import CarbonError, ConfigError

USER_AGENT = f"hpccarbon/{__version__}"
MAX_BYTES = 64 * 1024 * 1024
MAX_WAIT_S = 120.0
"""Longer than this nobody waits for a service: the command says so and is run again."""
AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Answers that may be another one a little later."""


_KEY_LIKE = re.compile("key|token|secret|password", re.IGNORECASE)
_KEY_LENGTH = 6


class ProviderError(CarbonError):
    """A service did not give what was asked for: which service, why, what to do."""


class NoData(ProviderError):
    """The service answered and has nothing for this zone and time: an answer, not a fault."""


class Refused(ProviderError):
    """The service refuses: a key, a plan or a zone is wrong. `status` is its HTTP status."""

    def __init__(self, message: str, status: int, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class Malformed(ProviderError):
    """The service answered something else than its documentation says."""


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to the same host over the same or a better scheme: a key goes nowhere else."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.hostname != old.hostname or (new.port, new.scheme) not in ((old.port, old.scheme), (None, "https")):
            raise ProviderError(
                f"{old.hostname} redirects to another place ({new.scheme}://{new.hostname}): not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Client:
    """GETs below one base URL, with time-outs, retries, distance between requests and a bound on size.

    Args:
        name: the service, as messages name it.
        base_url: http(s)://...; a key is sent over https only, but to this very machine.
        timeout_s: for each silence of the socket; a whole answer may take four times that.
        retries: how often a passing fault is tried again, 1, 2, 4, ... s later or when Retry-After says.
        distance_s: least time between two requests.
        first_wait_s: the first wait after a 429 without Retry-After.
        sleep, clock, now: the passing of time; tests give their own.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        timeout_s: float = 30.0,
        *,
        retries: int = 4,
        distance_s: float = 0.0,
        first_wait_s: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        try:
            parts = urllib.parse.urlsplit(base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
            usable = usable and (parts.port or 1) > 0  # reading the port is what checks it
        except ValueError:
            usable = False
        if not usable or not parts.hostname:
            raise ConfigError(f"carbon.providers.{name}.base_url: expected https://HOST/..., without a user in it")
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.host = parts.hostname
        self._private = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._timeout_s = timeout_s
        self._retries = retries
        self._distance_s = distance_s
        self._first_wait_s = first_wait_s
        self._sleep, self._clock, self._now = sleep, clock, now
        self._last: float | None = None
        handlers: list[urllib.request.BaseHandler] = [_SameHost()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
        self._opener = urllib.request.build_opener(*handlers)

    def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        secret: bool = False,
    ) -> bytes:
        """The body of a 200.

        Args:
            secret: the request carries a key.

        Raises: Refused for 4xx, ProviderError for what did not pass after all retries; both name host and path.
        """
        if secret and not self._private:
            raise ConfigError(f"carbon.providers.{self.name}.base_url: a key is sent over https only")
        what = f"{self.name}: GET {self.host}{urllib.parse.urlsplit(self.base_url + path).path}"
        url = self.base_url + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            url, headers={"User-Agent": USER_AGENT, "Accept": "application/json, text/*, */*", **(headers or {})}
        )
        for attempt in range(self._retries + 1):
            self._keep_distance()
            try:
                return self._once(request, what)
            except urllib.error.HTTPError as err:
                body = _without(_body_of(err), query, headers)
                wait_s = self._wait_after(err, attempt)
                if err.code not in AGAIN:
                    raise Refused(f"{what}: {_refusal(err.code, body)}", err.code, body) from None
                reason = f"answers {err.code} {_said(body) or http.client.responses.get(err.code, '')}".rstrip()
            except (OSError, http.client.HTTPException) as err:
                wait_s = float(2**attempt)
                reason = _network_reason(err)
                if isinstance(getattr(err, "reason", err), ssl.SSLCertVerificationError):
                    raise ProviderError(
                        f"{what}: {reason} (behind a proxy of your own, set SSL_CERT_FILE to its CA)"
                    ) from None
            if wait_s > MAX_WAIT_S:
                raise ProviderError(f"{what}: {reason}, and asks to wait {wait_s:.0f} s: fetch again later")
            if attempt < self._retries:
                self._sleep(wait_s)
        raise ProviderError(f"{what}: {reason}, {self._retries + 1} times (what is stored is kept; fetch again later)")

    def get_json(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        secret: bool = False,
    ) -> Any:
        """The body as JSON. Raises: Malformed, if it is none; and as `get`."""
        body = self.get(path, query, headers, secret=secret)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            told = _shown(_without(body, query, headers))
            raise Malformed(f"{self.name}: {self.host}{path} did not answer JSON but {told}") from None

    def _once(self, request: urllib.request.Request, what: str) -> bytes:
        deadline = self._clock() + 4 * self._timeout_s
        self._last = self._clock()
        with self._opener.open(request, timeout=self._timeout_s) as answer:
            if answer.status != 200:
                raise Refused(f"{what}: answers {answer.status}", answer.status)
            parts, size = [], 0
            while True:
                part = answer.read1(1 << 16) if hasattr(answer, "read1") else answer.read(1 << 16)
                if not part:
                    break
                parts.append(part)
                size += len(part)
                if size > MAX_BYTES:
                    raise Malformed(f"{what}: answers more than {MAX_BYTES >> 20} MiB")
                if self._clock() > deadline:
                    raise TimeoutError("the answer does not end")
            told = answer.headers.get("Content-Length", "")
            if told.isdigit() and size < int(told):  # read1 does not notice that the reply was cut
                raise http.client.IncompleteRead(b"", int(told) - size)
        return b"".join(parts)

    def _keep_distance(self) -> None:
        if self._last is not None and self._distance_s:
            left = self._last + self._distance_s - self._clock()
            if left > 0:
                self._sleep(left)

    def _wait_after(self, err: urllib.error.HTTPError, attempt: int) -> float:
        """What Retry-After says (seconds or a date), else longer each time."""
        told = (err.headers.get("Retry-After") or "").strip() if err.headers else ""
        if told.isdigit():
            return float(told)
        if told:
            try:
                return max(0.0, (email.utils.parsedate_to_datetime(told) - self._now()).total_seconds())
            except (ValueError, TypeError):
                pass
        return (self._first_wait_s if err.code == 429 else 1.0) * float(2**attempt)


def client(
    name: str,
    given: Provider,
    base_url: str,
    sleep: Callable[[float], None],
    *,
    distance_s: float = 0.0,
    first_wait_s: float = 1.0,
) -> Client:
    """The client that a provider's section of the configuration describes."""
    url = given.base_url or base_url
    return Client(name, url, given.timeout_s, distance_s=distance_s, first_wait_s=first_wait_s, sleep=sleep)


def key_of(name: str, given: Provider, environment: Mapping[str, str] = os.environ) -> str:
    """The service's key: from `key_file`, else the variable `key_env` (or HPCCARBON_<NAME>_KEY); "" if there is none.

    Raises: ConfigError, if the file cannot be read, is empty, or others may read it.
    """
    if given.key_file:
        path = Path(given.key_file)
        where = f"carbon.providers.{name}.key_file {path}"
        try:
            if path.stat().st_mode & 0o004:
                raise ConfigError(f"{where}: everybody may read it (chmod o-r {path})")
            key = path.read_text(encoding="utf-8").strip()
        except OSError as err:
            raise ConfigError(f"{where}: {err.strerror}") from err
        except UnicodeDecodeError:
            raise ConfigError(f"{where}: holds no text") from None
        if not key:
            raise ConfigError(f"{where}: is empty")
    else:
        key = environment.get(given.key_env or f"HPCCARBON_{name.upper()}_KEY", "").strip()
    if any(ord(letter) < 0x21 or ord(letter) > 0x7E for letter in key):
        raise ConfigError(f"the key of {name} holds characters that no key has (a line break, a blank?)")
    return key


def need_key(name: str, given: Provider, environment: Mapping[str, str] = os.environ) -> str:
    """As `key_of`. Raises: ConfigError, if there is none, with the two ways to give one."""
    key = key_of(name, given, environment)
    if not key:
        raise ConfigError(
            f"{name} needs a key: name a file in carbon.providers.{name}.key_file, "
            f"or set the variable {given.key_env or f'HPCCARBON_{name.upper()}_KEY'}"
        )
    return key


def _body_of(err: urllib.error.HTTPError) -> bytes:
    try:
        return err.read(4096)
    except (OSError, http.client.HTTPException):
        return b""


def _without(body: bytes, query: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> bytes:
    """A body that will be quoted, without the keys that were sent: careless services tell them back."""
    words = [value for name, value in (query or {}).items() if _KEY_LIKE.search(name)]
    for name, value in (headers or {}).items():
        if name.lower() not in ("accept", "user-agent"):
            words += [value, *value.split(" ")]
            with contextlib.suppress(ValueError, UnicodeDecodeError):
                words += base64.b64decode(value.removeprefix("Basic "), validate=True).decode().split(":", 1)
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= _KEY_LENGTH:
            body = body.replace(word.encode(), b"[key]")
    return body


def _refusal(code: int, body: bytes) -> str:
    said = _said(body)
    told = f"answers {code}{f' ({said})' if said else ''}"
    if code == 401:
        return f"{told}: the key is not accepted"
    if code == 403:
        return f"{told}: the key's plan does not cover this"
    return told


def _said(body: bytes) -> str:
    """What the service says of its refusal, whichever of the usual shapes it takes."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "" if b"<" in body[:200] else _shown(body).strip("'")
    for name in ("message", "detail", "error", "errorType"):
        word = found.get(name) if isinstance(found, dict) else None
        if isinstance(word, dict):
            word = word.get("message") or word.get("code")
        if isinstance(word, list) and word and isinstance(word[0], dict):
            word = word[0].get("msg")
        if isinstance(word, str) and word:
            return "".join(letter for letter in word if letter.isprintable())[:200]
    return ""


def _shown(body: bytes) -> str:
    text = body[:80].decode("utf-8", "replace")
    return repr("".join(letter if letter.isprintable() else " " for letter in text)) if body else "nothing"


def _network_reason(err: Exception) -> str:
    inner = getattr(err, "reason", err)
    if isinstance(inner, TimeoutError):
        return "did not answer in time"
    if isinstance(inner, http.client.IncompleteRead):
        return "cut its answer short"
    if isinstance(inner, (ConnectionError, http.client.RemoteDisconnected)):
        return f"closed the connection ({type(inner).__name__})"
    if isinstance(inner, OSError):
        return f"cannot be reached ({inner.strerror or inner})"
    return f"does not speak HTTP ({type(inner).__name__})"
