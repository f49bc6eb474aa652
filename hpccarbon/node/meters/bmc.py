"""Energy of the whole node as its BMC sees it, from readings that a helper process takes. Never waits for a BMC.

A BMC tells watts every few seconds. The last reading is held until the next one: the sum is that of the readings, and
the counter grows evenly, so that no interval is billed with the energy of several.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import program
from hpccarbon.config import Bmc, Config, node_name
from hpccarbon.node.meters import Finding, State
from hpccarbon.node.meters.gauge import Held
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Channel, Gap, Reading
from hpccarbon.units import NS_PER_S

if TYPE_CHECKING:
    import subprocess

_HELPER = Path(__file__).with_name("bmcpoll.py")
_FIRST_ANSWER_S = 5.0
_NO_ANSWER_YET = "no answer yet"
_NODE_MAX_W = 20_000


class BmcMeter:
    """Cumulative energy of the node since the meter began, from its BMC's power.

    Reads: Redfish EnvironmentMetrics or Power, or IPMI DCMI "Get Power Reading", through a helper process
    Units: watts become int microwatts in the helper and int microjoules here
    Needs: [bmc] in the configuration; for a BMC on the network credentials in a file of root's
    """

    name = "bmc"

    def __init__(self, config: Bmc) -> None:
        self._config = config
        self._kind = config.kind
        self._helper: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._about = ""
        self._reason = _NO_ANSWER_YET
        self._held = Held(round((3 * config.interval_s + 2 * config.timeout_s) * NS_PER_S))
        note = f"{config.kind}, a reading every {config.interval_s:g} s, held until the next"
        self.channels: Sequence[Channel] = (
            Channel("bmc", config.kind, "node", max_power_w=_NODE_MAX_W, note=f"BMC: {note}"),
        )
        self._start()
        self._wait_for_first()

    @property
    def findings(self) -> Sequence[Finding]:
        """Whether the BMC answers, and why not."""
        self._listen(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        power_uw = self._held.power_uw
        if self._reason:
            state: State = "standby" if self._reason == _NO_ANSWER_YET else "failing"
            return (Finding("bmc", self._kind, state, self._reason, _advice(self._config), "node"),)
        detail = f"{self._about}: {(power_uw or 0) / 1e6:.0f} W now"
        return (Finding("bmc", self._kind, "ok", detail, component="node"),)

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """The energy up to now, the last power held; a gap once the BMC is silent for three intervals."""
        self._listen(at_ns)
        energy_uj = self._held.energy_uj(at_ns)
        if energy_uj is None:
            self._reason = self._reason or "the BMC is silent"
            return [Gap("bmc", self._kind, at_ns, self._reason)]
        return [Reading("bmc", self._kind, at_ns, energy_uj)]

    def refresh(self) -> bool:
        """Start the helper again if it ended, or could not be started."""
        if self._helper is not None and self._helper.poll() is not None:
            self._reason = f"the helper process ended with {self._helper.returncode}"
            self.close()
        if self._helper is None:
            self._start()
        return False

    def close(self) -> None:
        """End the helper: it logs out and goes when its input ends."""
        helper, self._helper = self._helper, None
        if helper is None:
            return
        for pipe in (helper.stdin, helper.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if helper.poll() is None:
            import subprocess

            try:
                helper.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                _leaving.append(helper)  # it is logging out; asked about again when the next one leaves
        _leaving[:] = [one for one in _leaving if one.poll() is None]

    def _start(self) -> None:
        import subprocess

        try:
            self._helper = subprocess.Popen(
                _helper_argv(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            assert self._helper.stdin is not None
            assert self._helper.stdout is not None
            os.set_blocking(self._helper.stdout.fileno(), False)
            self._helper.stdin.write(msgspec.json.encode(self._config) + b"\n")
            self._helper.stdin.flush()
        except OSError as err:
            self._reason = f"the helper process cannot be started: {err.strerror}"

    def _wait_for_first(self) -> None:
        """Give the BMC a moment at the start, so that the first look already says how it is."""
        until = time.monotonic() + min(_FIRST_ANSWER_S, self._config.timeout_s + 0.5)
        while self._reason == _NO_ANSWER_YET and self._helper is not None and self._helper.stdout is not None:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._helper.stdout], [], [], left)[0]:
                return
            self._listen(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
            if self._helper.poll() is not None:
                return

    def _listen(self, at_ns: int) -> None:
        """Take what the helper has said. `at_ns` is this moment on the caller's clock."""
        helper = self._helper
        if helper is None or helper.stdout is None:
            return
        try:
            data = os.read(helper.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        except OSError as err:
            self._reason = f"the helper process: {err.strerror}"
            return
        if not data:
            self._reason = self._reason or "the helper process has ended"
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        offset_ns = at_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for line in lines:
            kind, _, rest = line.decode("utf-8", "replace").partition(" ")
            if kind == "I":
                self._about = rest
                continue
            moment, _, value = rest.partition(" ")
            if kind == "P":
                self._held.take(int(moment) + offset_ns, int(value))
                self._reason = ""
            elif kind == "E":
                self._reason = value


class NoBmc:
    """What stands here where no BMC is configured: no channel, one finding."""

    name = "bmc"
    channels: Sequence[Channel] = ()
    findings: Sequence[Finding] = (
        Finding("bmc", "bmc", "missing", "not configured", "set [bmc] kind to measure the whole node"),
    )

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """Nothing."""
        return []

    def refresh(self) -> bool:
        """Nothing changes."""
        return False

    def close(self) -> None:
        """Nothing to close."""


def _helper_argv() -> list[str]:
    """The helper as a script of its own, without the package: it stays small beside the daemon."""
    if program.archive():
        return program.argv("hpccarbon.node.meters.bmcpoll")
    return [sys.executable, "-I", "-S", str(_HELPER)]


_leaving: list[subprocess.Popen[bytes]] = []


def discover(root: SysRoot, config: Config) -> BmcMeter | NoBmc:
    """The BMC of the configuration; nothing is looked for by itself."""
    if not config.bmc.kind:
        return NoBmc()
    name = node_name()
    bmc = config.bmc
    named = {"url": bmc.url.replace("%n", name), "host": bmc.host.replace("%n", name)}
    return BmcMeter(msgspec.structs.replace(bmc, **named))


def _advice(config: Bmc) -> str:
    if config.kind == "ipmi" and not config.host:
        return "try: ipmitool dcmi power reading (needs the modules ipmi_si and ipmi_devintf)"
    return f"check [bmc] and {config.credentials}, and whether the node reaches its BMC"
