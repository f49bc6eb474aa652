"""Asks a BMC for the node's power at its own slow rate, in a process of its own. Writes what it hears, one line each.

Started by the meter `bmc` as a script, with the standard library alone; its first line of input is the configuration as
JSON (without secrets), and it ends when its input ends. Lines of output:

    P MOMENT_NS POWER_UW     a reading, with its moment on the boot-time clock
    E MOMENT_NS REASON       an attempt that failed
    I TEXT                   what is being read

A BMC may be silent, slow, or send one byte a second: every attempt is ended by an alarm, whatever it is waiting for.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

_LARGEST_REPLY = 1 << 20
_UW_PER_W = 1_000_000
_MOST_W = 100_000
_REFUSED_WAIT_S = 300.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
_NOT_A_NODE = ("Rack", "Row", "Zone", "Pod")


class PollError(Exception):
    """An attempt failed, and why, in words for the operator; never holds a secret."""


class Refused(PollError):
    """The credentials are wrong: asking again soon would lock the account."""


class Source(Protocol):
    """A way to ask for the power of the node."""

    about: str

    def power_uw(self) -> int:
        """The power now. Raises: PollError."""
        ...

    def close(self) -> None:
        """Log out."""
        ...


# ---- Redfish (DMTF DSP0266) ------------------------------------------------------------------------------------------


class Redfish:
    """Power through the Redfish service of the BMC, over one kept connection and one session."""

    def __init__(self, config: Mapping[str, Any], user: str, password: str) -> None:
        self._config = config
        self._user, self._password = user, password
        parts = urlsplit(config["url"])
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._connection: Any = None
        self._token = ""
        self._session = ""
        self._basic = config["auth"] == "basic"
        self._resource = ""
        self._before: tuple[int, float] | None = None
        self.about = f"Redfish at {self._host}"

    def power_uw(self) -> int:
        """The reading of the resource that was found, which is looked for at first. Raises: PollError."""
        try:
            if not self._resource:
                self._resource = self._find()
                self.about = f"Redfish at {self._host}, {self._resource}"
            return self._power(self._get(self._resource))
        except PollError:
            self._drop()
            raise
        except OSError as err:
            self._drop()
            raise PollError(_words(err)) from None
        except (ValueError, KeyError, TypeError, AttributeError, LookupError) as err:
            self._drop()
            raise PollError(f"an answer that is no Redfish ({type(err).__name__})") from None

    def _power(self, reply: Mapping[str, Any]) -> int:
        """µW of an EnvironmentMetrics or Power resource, or the mean since the last poll where it counts energy."""
        joules, watts = _number(reply.get("EnergyJoules")), _watts(reply)
        mean_uw = self._mean(joules) if joules is not None else None
        if mean_uw:
            return mean_uw
        if watts is None and joules is not None:
            raise PollError("the energy counter has not moved since the last reading")
        if watts is None:
            self._resource = ""
            raise PollError("the resource shows no power any more")
        if not 0 < watts < _MOST_W:
            raise PollError(f"{watts:g} W cannot be the node's power")
        return round(watts * _UW_PER_W)

    def _mean(self, joules: float) -> int | None:
        """µW since the last reading of a counter; None at the first one, and where it began anew."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        before, self._before = self._before, (now_ns, joules)
        if before is None:
            return None
        seconds = (now_ns - before[0]) / 1e9
        grown = joules - before[1]
        return round(grown / seconds * _UW_PER_W) if 0 <= grown <= _MOST_W * seconds else None

    def _find(self) -> str:
        """The resource that shows the node's power: EnvironmentMetrics or Power of the chassis of this system."""
        root = self._get("/redfish/v1/")
        if not self._basic and not self._token:
            self._log_in()
        members = self._get(root["Chassis"]["@odata.id"])["Members"]
        wanted = self._config["chassis"]
        candidates: list[tuple[bool, int, Mapping[str, Any]]] = []
        for member in members[:64]:
            chassis = self._get(member["@odata.id"])
            if wanted and chassis.get("Id") != wanted:
                continue
            systems = chassis.get("Links", {}).get("ComputerSystems") or []
            # The chassis of one system first; an enclosure of several nodes is not this node's power.
            if not wanted and (len(systems) > 1 or chassis.get("ChassisType") in _NOT_A_NODE):
                continue
            candidates.append((len(systems) != 1, len(candidates), chassis))
        for _, _, chassis in sorted(candidates, key=lambda entry: entry[:2]):
            for link in ("EnvironmentMetrics", "Power"):
                place = chassis.get(link, {}).get("@odata.id")
                reply = self._get(place) if place else {}
                if _watts(reply) is not None or _number(reply.get("EnergyJoules")) is not None:
                    return str(place)
        what = f"chassis {wanted}" if wanted else "chassis of one system"
        raise PollError(f"no {what} shows a power (EnvironmentMetrics.PowerWatts, Power.PowerControl)")

    def _log_in(self) -> None:
        body = json.dumps({"UserName": self._user, "Password": self._password})
        status, headers, _ = self._ask("POST", "/redfish/v1/SessionService/Sessions", body)
        if status in (401, 403):
            raise Refused(f"the BMC refuses these credentials (HTTP {status})")
        token = headers.get("X-Auth-Token")
        if status in (404, 405, 501) or not token:
            self._basic = True  # no session service: basic authentication is in every Redfish
            return
        self._token = token
        self._session = urlsplit(headers.get("Location", "")).path

    def _get(self, path: str) -> Any:
        status, _, body = self._ask("GET", path)
        if status == 401 and not self._basic:
            self._token = ""  # the session timed out
            self._log_in()
            status, _, body = self._ask("GET", path)
        if status in (401, 403):
            raise Refused(f"the BMC refuses these credentials (HTTP {status})")
        if status != 200:
            raise PollError(f"HTTP {status} for {path}")
        return json.loads(body)

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, Mapping[str, str], bytes]:
        """One request; a connection that the BMC has closed meanwhile is made once more. Never follows a redirect
        to another host, for the credentials would follow too."""
        import http.client

        headers = {"Accept": "application/json", "OData-Version": "4.0"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["X-Auth-Token"] = self._token
        elif self._basic:
            import base64

            pair = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        if not path.startswith("/"):
            raise PollError("the BMC names a resource elsewhere")
        for fresh in (self._connection is None, True):
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.request(method, path, body, headers)
                reply = self._connection.getresponse()
                data = reply.read(_LARGEST_REPLY + 1)
                if len(data) > _LARGEST_REPLY:
                    raise PollError(f"an answer of more than {_LARGEST_REPLY} bytes for {path}")
            except (http.client.HTTPException, ConnectionError) as err:
                self._disconnect()
                if fresh:
                    raise PollError(_words(err)) from None
                continue
            place = urlsplit(reply.headers.get("Location", ""))
            moved = reply.status in (301, 302, 307, 308) and method == "GET"
            if moved and place.path not in ("", path) and place.hostname in (None, self._host):
                return self._ask(method, place.path)
            return reply.status, reply.headers, data
        raise PollError("no connection")

    def _connect(self) -> Any:
        """A connection whose other end is who it says, by the policy of the configuration."""
        import http.client

        timeout_s = float(self._config["timeout_s"])
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        import hashlib
        import ssl

        pin = self._config["fingerprint"].replace(":", "").lower()
        if pin or self._config["insecure"]:
            # A pinned certificate is compared below, before anything is sent.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context(cafile=self._config["ca_file"] or None)
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as err:
            advice = "set bmc.fingerprint or bmc.ca_file"
            raise PollError(f"its certificate is not trusted ({err.verify_message}; {advice})") from None
        if pin:
            shown = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()
            if shown != pin:
                connection.close()
                raise PollError(f"its certificate is another one than bmc.fingerprint: sha256 {shown}")
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _drop(self) -> None:
        """After a failure the next attempt begins with a new connection, and keeps the session."""
        self._disconnect()

    def close(self) -> None:
        """Log out: BMCs have few sessions, and one that is not ended blocks a place for half an hour."""
        if self._session and self._token:
            with contextlib.suppress(PollError, OSError):
                self._ask("DELETE", self._session)
        self._disconnect()


def _number(value: Any) -> float | None:
    """A reading: a number, or a sensor excerpt `{"Reading": number}`; None where there is none."""
    if isinstance(value, Mapping):
        value = value.get("Reading")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _watts(reply: Mapping[str, Any]) -> float | None:
    """PowerWatts of EnvironmentMetrics, else PowerConsumedWatts of the first power control that has one."""
    watts = _number(reply.get("PowerWatts"))
    controls = reply.get("PowerControl")
    for control in controls if watts is None and isinstance(controls, list) else []:
        if isinstance(control, Mapping) and watts is None:
            watts = _number(control.get("PowerConsumedWatts"))
    return watts


# ---- IPMI DCMI (DCMI 1.5, "Get Power Reading") -----------------------------------------------------------------------


class Ipmi:
    """Power through DCMI, by ipmitool or FreeIPMI's ipmi-dcmi, of the local BMC or over the network."""

    def __init__(self, config: Mapping[str, Any], user: str, password: str, path: str = _PATH) -> None:
        self._host = config["host"]
        self._timeout_s = float(config["timeout_s"])
        self._environment = {"PATH": path, "LC_ALL": "C"}
        tool = shutil.which("ipmitool", path=path)
        if tool:
            self._command = [tool]
            if self._host:
                # The password goes by the environment (-E), which only root can read of a process of root.
                self._environment["IPMI_PASSWORD"] = password
                host, _, port = self._host.partition(":")
                cipher = ["-C", str(config["cipher"])] if config["cipher"] else []
                self._command += ["-I", "lanplus", *cipher, "-H", host, *(["-p", port] if port else [])]
                self._command += ["-U", user, "-E", "-N", "2", "-R", "1"]
            self._command += ["dcmi", "power", "reading"]
        else:
            tool = shutil.which("ipmi-dcmi", path=path)
            if not tool:
                raise PollError("neither ipmitool nor ipmi-dcmi is installed")
            if self._host:
                raise PollError("ipmi-dcmi is used for the local BMC alone; install ipmitool to ask one by the network")
            self._command = [tool, "--get-system-power-statistics"]
        self.about = f"IPMI DCMI of {self._host or 'the local BMC'} by {Path(tool).name}"

    def power_uw(self) -> int:
        """Raises: PollError with what the tool says."""
        try:
            done = subprocess.run(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PollError(f"no answer within {self._timeout_s:g} s") from None
        text = done.stdout.decode("utf-8", "replace")
        try:
            return parse_dcmi(text) * _UW_PER_W
        except ValueError as err:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise PollError(said[-1].strip()[:200] if said else str(err)) from None

    def close(self) -> None:
        """Nothing is kept."""


_DCMI_POWER = re.compile(r"^\s*(?:Instantaneous power reading|Current Power)\s*:\s*(\d+)\s*Watts", re.MULTILINE)
_DCMI_STATE = re.compile(r"^\s*(?:Power reading state is|Power Measurement)\s*:\s*(.+?)\s*$", re.MULTILINE)


def parse_dcmi(text: str) -> int:
    """Watts from what ipmitool or ipmi-dcmi prints. Raises: ValueError, for a measurement that is off too."""
    state = _DCMI_STATE.search(text)
    if state and state[1].lower() not in ("activated", "active"):
        raise ValueError(f"the BMC does not measure power ({state[1]})")
    power = _DCMI_POWER.search(text)
    if not power:
        raise ValueError("no power reading in the answer")
    watts = int(power[1])
    if not 0 < watts < _MOST_W:
        raise ValueError(f"{watts} W cannot be the node's power")
    return watts


# ---- the process -----------------------------------------------------------------------------------------------------


class Credentials(NamedTuple):
    """Who the BMC is asked as."""

    user: str
    password: str


def read_credentials(path: Path) -> Credentials:
    """`user = NAME` and `password = SECRET`, one a line. Raises: PollError, where others could read the file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise PollError(f"{path}: {err.strerror}") from None
    with os.fdopen(fd, encoding="utf-8") as file:
        facts = os.fstat(file.fileno())
        if facts.st_uid not in (0, os.geteuid()) or stat.S_IMODE(facts.st_mode) & 0o077:
            raise PollError(f"{path}: others can read it (chown root, chmod 600)")
        values = {}
        for line in file:
            key, equals, value = line.partition("=")
            if equals and not key.lstrip().startswith("#"):
                values[key.strip()] = value.strip()
    if not values.get("user") or "password" not in values:
        raise PollError(f"{path}: expected 'user = NAME' and 'password = SECRET'")
    return Credentials(values["user"], values["password"])


def open_source(config: Mapping[str, Any]) -> Source:
    """The source that a configuration names. Raises: PollError."""
    remote = config["kind"] == "redfish" or config["host"]
    who = read_credentials(Path(config["credentials"])) if remote else Credentials("", "")
    return Redfish(config, *who) if config["kind"] == "redfish" else Ipmi(config, *who)


class _Alarm(Exception):
    """The attempt has used up its time."""


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """End what is inside after `seconds`, whichever read it is in."""

    def ring(number: int, frame: object) -> None:
        raise _Alarm

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _words(err: Exception) -> str:
    if isinstance(err, TimeoutError):
        return "no answer in time"
    text = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return text or type(err).__name__


def main() -> None:
    """Poll until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = json.loads(sys.stdin.buffer.readline())
    source: Source | None = None
    told = ""
    timeout_s, interval_s = float(config["timeout_s"]), float(config["interval_s"])
    while True:
        began, wait_s = time.monotonic(), interval_s
        try:
            # Finding the resource takes several requests, so the first attempt may take longer.
            with _bounded(timeout_s * (1 if source else 4) + 0.5):
                source = source or open_source(config)
                power_uw = source.power_uw()
            line = f"P {time.clock_gettime_ns(time.CLOCK_BOOTTIME)} {power_uw}"
        except (PollError, _Alarm) as err:
            if isinstance(err, Refused):
                source, wait_s = None, max(interval_s, _REFUSED_WAIT_S)
            reason = f"no answer within {timeout_s:g} s" if isinstance(err, _Alarm) else str(err)
            line = f"E {time.clock_gettime_ns(time.CLOCK_BOOTTIME)} {' '.join(reason.split())}"
        if source and source.about != told:
            told = source.about
            _say(f"I {told}")
        _say(line)
        if _ended(max(0.05, wait_s - (time.monotonic() - began))):
            break
    if source is not None:
        with contextlib.suppress(_Alarm), _bounded(timeout_s):
            source.close()


def _say(line: str) -> None:
    try:
        os.write(1, line.encode() + b"\n")
    except OSError:
        sys.exit(0)  # nobody listens any more


def _ended(seconds: float) -> bool:
    """Wait, but no longer than the meter lives: its end closes our input."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 64)


if __name__ == "__main__":
    main()
