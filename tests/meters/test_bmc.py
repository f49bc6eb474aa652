"""The whole node from its BMC: Redfish over real HTTPS with faults, IPMI by real and recorded tools, one helper."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpccarbon.config import Bmc as BmcConfig
from hpccarbon.config import Config, node_name, parse
from hpccarbon.errors import ConfigError
from hpccarbon.node.meters import bmc as bmc_meter
from hpccarbon.node.meters import bmcpoll
from hpccarbon.node.meters.bmc import BmcMeter
from hpccarbon.node.meters.bmcpoll import PollError, Redfish, Refused, parse_dcmi, read_credentials
from hpccarbon.node.meters.gauge import Held
from hpccarbon.node.sampler import difference
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Gap, Reading
from hpccarbon.units import NS_PER_S
from tests.meters.bmcserver import PASSWORD, USER, Bmc, certificate, service

POWER = "/redfish/v1/Chassis/Self/Power"


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "bmc.credentials"
    path.write_text(f"# who reads the power\nuser = {USER}\npassword = {PASSWORD}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def server(tls: tuple[Path, str]) -> Iterator[Bmc]:
    one = Bmc(tls[0], service())
    yield one
    one.close()


def ask(server: Bmc, tls: tuple[Path, str], **settings: Any) -> Redfish:
    """The client in this process, as the helper would make it."""
    defaults = {"url": server.url, "fingerprint": tls[1], "timeout_s": 2.0, "interval_s": 1.0}
    config = BmcConfig("redfish", **{**defaults, **settings})
    values = {name: getattr(config, name) for name in config.__struct_fields__}
    return Redfish(values, USER, PASSWORD)


# ---- Redfish ---------------------------------------------------------------------------------------------------------


def test_the_power_of_the_chassis_with_this_system(server: Bmc, tls: tuple[Path, str]) -> None:
    client = ask(server, tls)
    assert client.power_uw() == 311_000_000
    assert client.about.endswith(POWER)
    asked = len(server.log)
    assert client.power_uw() == 311_000_000
    assert len(server.log) == asked + 1  # one request on the kept connection
    assert server.connections == 1
    client.close()
    assert server.sessions == set()  # logged out


def test_environment_metrics_come_before_power_control(server: Bmc, tls: tuple[Path, str]) -> None:
    server.resources["/redfish/v1/Chassis/Self"]["EnvironmentMetrics"] = {"@odata.id": "/redfish/v1/E"}
    server.resources["/redfish/v1/E"] = {"PowerWatts": {"DataSourceUri": "/x", "Reading": 298.5}}
    assert ask(server, tls).power_uw() == 298_500_000


def test_a_counter_of_joules_gives_the_mean_between_two_polls(server: Bmc, tls: tuple[Path, str]) -> None:
    metrics = {"PowerWatts": {"Reading": 100}, "EnergyJoules": {"Reading": 5_000.0}}
    server.resources["/redfish/v1/Chassis/Self"]["EnvironmentMetrics"] = {"@odata.id": "/redfish/v1/E"}
    server.resources["/redfish/v1/E"] = metrics
    client = ask(server, tls)
    assert client.power_uw() == 100_000_000  # the first time there is nothing to subtract
    time.sleep(0.3)
    metrics["EnergyJoules"] = {"Reading": 5_090.0}
    assert 150_000_000 < client.power_uw() < 301_000_000
    metrics["EnergyJoules"] = {"Reading": 3.0}
    assert client.power_uw() == 100_000_000  # the counter began anew


def test_a_session_that_ends_is_opened_again(server: Bmc, tls: tuple[Path, str]) -> None:
    client = ask(server, tls)
    client.power_uw()
    server.sessions.clear()
    assert client.power_uw() == 311_000_000


def test_a_bmc_without_sessions_gets_basic_authentication(server: Bmc, tls: tuple[Path, str]) -> None:
    server.fault = "no sessions"
    assert ask(server, tls).power_uw() == 311_000_000
    assert ask(server, tls, auth="basic").power_uw() == 311_000_000


def test_a_connection_that_was_closed_meanwhile_is_made_once_more(server: Bmc, tls: tuple[Path, str]) -> None:
    client = ask(server, tls)
    client.power_uw()
    client._connection.sock.shutdown(2)
    assert client.power_uw() == 311_000_000
    assert server.connections == 2


@pytest.mark.parametrize(
    ("settings", "trusted"),
    [
        ({"fingerprint": ""}, "not trusted"),
        ({"fingerprint": "00" * 32}, "another one than bmc.fingerprint"),
        ({"fingerprint": "", "insecure": True}, ""),
        ({"fingerprint": "", "ca_file": "CERTIFICATE"}, ""),
    ],
)
def test_whom_to_believe(server: Bmc, tls: tuple[Path, str], settings: dict[str, Any], trusted: str) -> None:
    if settings.get("ca_file"):
        settings["ca_file"] = str(tls[0])
    client = ask(server, tls, **settings)
    if not trusted:
        assert client.power_uw() == 311_000_000
        return
    with pytest.raises(PollError, match=trusted):
        client.power_uw()
    assert not any(line.startswith("POST") for line in server.log)  # no password for a stranger


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({POWER: {"PowerControl": [{"PowerConsumedWatts": None}]}}, "no chassis of one system shows a power"),
        ({POWER: {"PowerControl": []}}, "no chassis of one system"),
        ({POWER: {"PowerControl": [{"PowerConsumedWatts": 0}]}}, "0 W cannot be"),
        ({POWER: {"PowerControl": [{"PowerConsumedWatts": 16777215}]}}, "cannot be the node's power"),
        ({POWER: "<html>busy</html>"}, "no Redfish"),
        ({POWER: []}, "no Redfish"),
        ({"/redfish/v1/Chassis": {"Members": [{"@odata.id": "https://elsewhere/x"}]}}, "elsewhere"),
        ({"/redfish/v1/": {}}, "no Redfish"),
    ],
)
def test_what_is_no_power_is_no_reading(
    server: Bmc, tls: tuple[Path, str], change: dict[str, Any], reason: str
) -> None:
    server.resources.update(change)
    with pytest.raises(PollError, match=reason):
        ask(server, tls).power_uw()


def test_a_resource_that_loses_its_power_is_looked_for_again(server: Bmc, tls: tuple[Path, str]) -> None:
    client = ask(server, tls)
    client.power_uw()
    server.resources[POWER] = {"PowerControl": [{"PowerConsumedWatts": None}]}
    with pytest.raises(PollError):
        client.power_uw()
    server.resources[POWER] = {"PowerControl": [{"PowerConsumedWatts": 120}]}
    assert client.power_uw() == 120_000_000


def test_a_bmc_without_https_is_asked_where_the_site_says_so(tls: tuple[Path, str]) -> None:
    plain = Bmc(None, service())
    assert ask(plain, tls, fingerprint="", insecure=True).power_uw() == 311_000_000
    plain.close()


def test_a_bmc_that_takes_basic_authentication_and_then_no_more_is_not_tried_again_soon(
    server: Bmc, tls: tuple[Path, str]
) -> None:
    client = ask(server, tls, auth="basic")
    client._password = "changed meanwhile"
    with pytest.raises(Refused, match=r"refuses these credentials \(HTTP 401\)"):
        client.power_uw()


def test_an_answer_that_has_no_end_is_not_read_to_it(server: Bmc, tls: tuple[Path, str]) -> None:
    server.resources[POWER] = {"PowerControl": [], "Oem": "x" * (bmcpoll._LARGEST_REPLY + 1)}
    with pytest.raises(PollError, match=f"an answer of more than {bmcpoll._LARGEST_REPLY} bytes for {POWER}"):
        ask(server, tls).power_uw()


def test_the_first_power_control_with_a_power_is_the_nodes(server: Bmc, tls: tuple[Path, str]) -> None:
    controls = ["no object", {"PowerConsumedWatts": None}, {"PowerConsumedWatts": 120}, {"PowerConsumedWatts": 7}]
    server.resources[POWER] = {"PowerControl": controls}
    assert ask(server, tls).power_uw() == 120_000_000


def test_a_counter_of_joules_that_stands_still_is_no_power_of_0_w(server: Bmc, tls: tuple[Path, str]) -> None:
    server.resources["/redfish/v1/Chassis/Self"]["EnvironmentMetrics"] = {"@odata.id": "/redfish/v1/E"}
    server.resources["/redfish/v1/E"] = {"EnergyJoules": {"Reading": 5_000.0}}
    client = ask(server, tls)
    for _ in range(2):
        with pytest.raises(PollError):
            client.power_uw()
    server.resources["/redfish/v1/E"] = {"EnergyJoules": {"Reading": 5_010.0}}
    assert client.power_uw() > 0


def test_the_chassis_can_be_named(server: Bmc, tls: tuple[Path, str]) -> None:
    assert ask(server, tls, chassis="Enclosure").power_uw() == 4_000_000_000
    with pytest.raises(PollError, match="no chassis Nothing"):
        ask(server, tls, chassis="Nothing").power_uw()


# ---- credentials -----------------------------------------------------------------------------------------------------


def test_credentials_that_others_can_read_are_not_used(secret: Path) -> None:
    assert read_credentials(secret) == (USER, PASSWORD)
    secret.chmod(0o644)
    with pytest.raises(PollError, match="others can read it"):
        read_credentials(secret)
    with pytest.raises(PollError, match="No such file"):
        read_credentials(secret.with_name("nothing"))
    secret.chmod(0o600)
    secret.write_text("user = x\n")
    with pytest.raises(PollError, match="expected 'user"):
        read_credentials(secret)


# ---- the helper ------------------------------------------------------------------------------------------------------


@contextmanager
def metered(server: Bmc, tls: tuple[Path, str], secret: Path, **settings: Any) -> Iterator[BmcMeter]:
    defaults = {
        "url": server.url,
        "fingerprint": tls[1],
        "credentials": str(secret),
        "interval_s": 0.15,
        "timeout_s": 0.3,
    }
    meter = BmcMeter(BmcConfig("redfish", **{**defaults, **settings}))
    try:
        yield meter
    finally:
        meter.close()


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wait_for(meter: BmcMeter, kind: type[Reading | Gap], seconds: float = 8.0) -> Reading | Gap:
    until = time.monotonic() + seconds
    while True:
        (row,) = meter.read(now())
        if isinstance(row, kind):
            return row
        assert time.monotonic() < until, f"no {kind.__name__}: {row}"
        time.sleep(0.02)


def test_the_nodes_energy_grows_evenly(server: Bmc, tls: tuple[Path, str], secret: Path) -> None:
    with metered(server, tls, secret) as meter:
        (channel,) = meter.channels
        assert (channel.key, channel.component) == ("bmc/redfish", "node")
        assert [finding.state for finding in meter.findings] == ["ok"]  # known as soon as the meter is there
        first = wait_for(meter, Reading)
        began = now()
        rows = []
        while now() - began < NS_PER_S:
            time.sleep(0.05)
            rows += meter.read(now())
        last = rows[-1]
        assert isinstance(first, Reading)
        assert isinstance(last, Reading)
        energies = [row.energy_uj for row in rows if isinstance(row, Reading)]
        assert len(energies) == len(rows)
        assert energies == sorted(energies)
        steps = [after - before for before, after in pairwise(energies)]
        assert max(steps) < 311e6 * 0.2  # never the energy of several polls at once
        spent_s = (last.at_ns - first.at_ns) / 1e9
        assert last.energy_uj - first.energy_uj == pytest.approx(311e6 * spent_s, rel=0.02)


def test_the_reading_stays_on_the_callers_clock(server: Bmc, tls: tuple[Path, str], secret: Path) -> None:
    with metered(server, tls, secret) as meter:
        wait_for(meter, Reading)
        (row,) = meter.read(now() + 50 * 365 * 24 * 3600 * NS_PER_S)
        assert isinstance(row, Gap)  # by this clock the BMC has been silent for years


@pytest.mark.parametrize("fault", ["silent", "dribble", "hangup", "503"])
def test_a_bmc_that_misbehaves_is_a_gap_and_recovers(
    server: Bmc, tls: tuple[Path, str], secret: Path, fault: str
) -> None:
    with metered(server, tls, secret, interval_s=0.1, timeout_s=0.2) as meter:
        before = wait_for(meter, Reading)
        server.fault = fault
        began = time.monotonic()
        gap = wait_for(meter, Gap)
        longest = 0.0
        for _ in range(50):
            started = time.monotonic()
            meter.read(now())
            longest = max(longest, time.monotonic() - started)
        assert longest < 0.2  # nobody waits for a BMC: whoever did would take its timeout
        assert time.monotonic() - began < 4
        assert isinstance(gap, Gap)
        assert gap.reason
        assert meter.findings[0].state == "failing"
        assert PASSWORD not in str(meter.findings) + gap.reason
        server.fault = ""
        after = wait_for(meter, Reading)
        assert isinstance(before, Reading)
        assert isinstance(after, Reading)
        grown = difference(meter.channels[0], before.energy_uj, after.energy_uj, after.at_ns - before.at_ns)
        assert grown == pytest.approx(
            311e6 * (after.at_ns - before.at_ns) / 1e9, rel=0.05
        )  # a short silence is bridged


def test_wrong_credentials_are_not_tried_again_soon(server: Bmc, tls: tuple[Path, str], secret: Path) -> None:
    secret.write_text(f"user = {USER}\npassword = wrong-one\n")
    with metered(server, tls, secret, interval_s=0.2) as meter:
        wait_for(meter, Gap)
        time.sleep(1.0)
        (finding,) = meter.findings
        assert "refuses these credentials" in finding.detail
        assert "wrong-one" not in str(finding)
        assert sum(line.startswith("POST") for line in server.log) == 1


def test_the_helper_carries_no_secret_and_ends_with_the_meter(server: Bmc, tls: tuple[Path, str], secret: Path) -> None:
    with metered(server, tls, secret) as meter:
        wait_for(meter, Reading)
        assert meter._helper is not None
        pid = meter._helper.pid
        for name in ("cmdline", "environ"):
            assert PASSWORD.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert server.sessions
    until = time.monotonic() + 3
    while server.sessions and time.monotonic() < until:
        time.sleep(0.02)
    assert server.sessions == set()


def test_what_the_helper_says_line_by_line(server: Bmc, tls: tuple[Path, str], secret: Path) -> None:
    """As a plain process: what it is about, a power, a fault in words, and the end of its input."""
    settings = BmcConfig(
        "redfish", url=server.url, credentials=str(secret), fingerprint=tls[1], interval_s=0.1, timeout_s=0.3
    )
    helper = subprocess.Popen(
        [sys.executable, "-m", "hpccarbon.node.meters.bmcpoll"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert helper.stdin is not None
    assert helper.stdout is not None
    helper.stdin.write(msgspec.json.encode(settings).decode() + "\n")
    helper.stdin.flush()

    def until(kind: str, words: str = "") -> str:
        for line in helper.stdout or ():
            if line.startswith(kind) and words in line:
                return str(line)
        pytest.fail(f"the helper ended without {kind} {words}")

    assert "Self" in until("I")
    assert until("P").split()[2] == "311000000"
    for fault, words in (("503", "503"), ("hangup", ""), ("silent", "no answer")):
        server.fault = fault
        assert until("E", words)
        server.fault = ""
        until("P")
    helper.stdin.close()
    assert helper.wait(5) == 0
    helper.stdout.close()


def test_a_helper_that_dies_is_started_again(server: Bmc, tls: tuple[Path, str], secret: Path) -> None:
    with metered(server, tls, secret) as meter:
        wait_for(meter, Reading)
        assert meter._helper is not None
        os.kill(meter._helper.pid, signal.SIGKILL)
        meter._helper.wait()
        assert wait_for(meter, Gap)
        assert not meter.refresh()
        assert wait_for(meter, Reading)


def test_a_helper_that_cannot_be_started_is_a_gap_and_is_tried_again(
    server: Bmc, tls: tuple[Path, str], secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        meter = BmcMeter(
            BmcConfig("redfish", url=server.url, credentials=str(secret), fingerprint=tls[1], interval_s=0.15)
        )
        (finding,) = meter.findings
        assert finding.state == "failing"
        assert finding.detail == "the helper process cannot be started: No such file or directory"
        assert finding.advice == f"check [bmc] and {secret}, and whether the node reaches its BMC"
        assert [type(row) for row in meter.read(now())] == [Gap]
    meter.refresh()
    assert wait_for(meter, Reading)
    meter.close()


def test_a_helper_that_ends_at_once_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nread -r settings\necho 'X what no release says'\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    began = time.monotonic()
    meter = BmcMeter(BmcConfig("redfish", url="https://bmc", timeout_s=5.0))
    assert time.monotonic() - began < 3
    assert meter._helper is not None
    meter._helper.wait()
    assert [type(row) for row in meter.read(now())] == [Gap]
    meter.refresh()
    (finding,) = meter.findings
    assert (finding.state, finding.detail) == ("failing", "the helper process ended with 3")
    meter.close()


def test_a_helper_that_takes_long_to_log_out_is_not_waited_for(
    server: Bmc, tls: tuple[Path, str], secret: Path
) -> None:
    with metered(server, tls, secret, timeout_s=1.0) as meter:
        wait_for(meter, Reading)
        helper = meter._helper
        assert helper is not None
        server.fault = "silent"
        began = time.monotonic()
        meter.close()
        assert time.monotonic() - began < 1.0  # its timeout
        assert helper in bmc_meter._leaving
    assert helper.wait(5) == 0
    server.fault = ""
    with metered(server, tls, secret) as meter:
        wait_for(meter, Reading)
    assert helper not in bmc_meter._leaving


def test_the_local_bmc_without_a_tool_says_what_to_try() -> None:
    meter = BmcMeter(BmcConfig("ipmi", interval_s=0.2, timeout_s=1.0))
    wait_for(meter, Gap)
    (finding,) = meter.findings
    assert finding.state == "failing"
    assert finding.advice == "try: ipmitool dcmi power reading (needs the modules ipmi_si and ipmi_devintf)"
    meter.close()


def test_each_node_asks_its_own_bmc(secret: Path) -> None:
    config = Config(bmc=BmcConfig("redfish", url="https://%n-bmc.invalid", credentials=str(secret), timeout_s=0.2))
    meter = bmc_meter.discover(SysRoot("/nonexistent"), config)
    assert isinstance(meter, BmcMeter)
    assert meter._config.url == f"https://{node_name()}-bmc.invalid"
    meter.close()


def test_a_power_is_held_bridged_and_given_up() -> None:
    held = Held(20 * NS_PER_S)
    assert held.energy_uj(0) is None
    held.take(0, 100_000_000)
    assert held.energy_uj(8 * NS_PER_S) == 800_000_000
    held.take(10 * NS_PER_S, 300_000_000)
    assert held.energy_uj(10 * NS_PER_S) == 1_000_000_000
    assert held.energy_uj(31 * NS_PER_S) is None
    held.take(60 * NS_PER_S, 100_000_000)
    assert held.energy_uj(60 * NS_PER_S) == 11_000_000_000  # a short silence: the mean of both ends
    held.take(600 * NS_PER_S, 100_000_000)
    assert held.energy_uj(600 * NS_PER_S) == 0


# ---- IPMI ------------------------------------------------------------------------------------------------------------

IPMITOOL = """
    Instantaneous power reading:                   220 Watts
    Minimum during sampling period:                 22 Watts
    Maximum during sampling period:                344 Watts
    Average power reading over sample period:      218 Watts
    IPMI timestamp:                           Mon Nov 23 12:00:00 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   activated

"""
FREEIPMI = """Current Power                        : 220 Watts
Minimum Power over sampling duration : 22 watts
Maximum Power over sampling duration : 344 watts
Average Power over sampling duration : 218 watts
Time Stamp                           : 11/23/2026 - 12:00:00
Statistics reporting time period     : 1000 milliseconds
Power Measurement                    : Active
"""


@pytest.mark.parametrize("text", [IPMITOOL, FREEIPMI])
def test_dcmi_answers(text: str) -> None:
    assert parse_dcmi(text) == 220


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no power reading"),
        (IPMITOOL.replace("activated", "deactivated"), "does not measure power"),
        (FREEIPMI.replace("Active", "Not Available"), "does not measure power"),
        (IPMITOOL.replace("220", "0"), "0 W cannot be"),
    ],
)
def test_dcmi_answers_that_are_no_power(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_dcmi(text)


def ipmi(**settings: Any) -> dict[str, Any]:
    config = BmcConfig("ipmi", **{"timeout_s": 5.0, **settings})
    return {name: getattr(config, name) for name in config.__struct_fields__}


def test_ipmitool_gets_the_password_by_its_environment(tmp_path: Path) -> None:
    tool = tmp_path / "ipmitool"
    said = tmp_path / "said"
    tool.write_text(f'#!/bin/sh\necho "$@" >{said}\necho "$IPMI_PASSWORD" >>{said}\ncat <<"E"\n{IPMITOOL}E\n')
    tool.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    source = bmcpoll.Ipmi(ipmi(host="10.0.0.9", cipher=3), USER, PASSWORD, path)
    assert source.power_uw() == 220_000_000
    arguments, password = said.read_text().splitlines()
    assert arguments == f"-I lanplus -C 3 -H 10.0.0.9 -U {USER} -E -N 2 -R 1 dcmi power reading"
    assert password == PASSWORD
    local = bmcpoll.Ipmi(ipmi(), "", "", path)
    assert local.power_uw() == 220_000_000
    assert said.read_text().splitlines() == ["dcmi power reading", ""]
    tool.write_text("#!/bin/sh\nexec sleep 30\n")
    began = time.monotonic()
    with pytest.raises(PollError, match="no answer within"):
        bmcpoll.Ipmi(ipmi(timeout_s=0.5), "", "", path).power_uw()
    assert time.monotonic() - began < 2


def test_freeipmis_tool_asks_the_local_bmc_alone(tmp_path: Path) -> None:
    with pytest.raises(PollError, match="neither ipmitool nor ipmi-dcmi is installed"):
        bmcpoll.Ipmi(ipmi(), "", "", str(tmp_path))
    tool = tmp_path / "ipmi-dcmi"
    tool.write_text('#!/bin/sh\n[ "$*" = --get-system-power-statistics ] && echo "Current Power : 220 Watts"\n')
    tool.chmod(0o755)
    source = bmcpoll.Ipmi(ipmi(), "", "", str(tmp_path))
    assert source.about == "IPMI DCMI of the local BMC by ipmi-dcmi"
    assert source.power_uw() == 220_000_000
    with pytest.raises(PollError, match="install ipmitool to ask one by the network"):
        bmcpoll.Ipmi(ipmi(host="10.0.0.9"), USER, PASSWORD, str(tmp_path))


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[int]:
    """OpenIPMI's BMC simulator on a UDP port: real RMCP+ sessions, but no DCMI."""
    for tool in ("ipmi_sim", "ipmitool"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool} (Debian: openipmi, ipmitool)")
    port = 20_000 + os.getpid() % 10_000
    auth = "".join(f"    allowed_auths_{who} none md5 straight\n" for who in ("callback", "user", "operator", "admin"))
    (tmp_path / "lan.conf").write_text(
        f'name "sim"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n{auth}'
        f"    guid a123456789abcdefa123456789abcdef\n  endlan\n"
        f'  user 2 true "{USER}" "secret" admin 10 none md5 straight\n'
    )
    (tmp_path / "sim.emu").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
    )
    command = ["ipmi_sim", "-c", "lan.conf", "-f", "sim.emu", "-s", str(tmp_path), "-n"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    yield port
    process.kill()
    process.wait()


def test_ipmi_over_the_network_with_a_simulated_bmc(simulator: int) -> None:
    host = f"127.0.0.1:{simulator}"
    with pytest.raises(PollError, match=r"Invalid command \(c1\)"):  # it lets us in and knows no DCMI
        bmcpoll.Ipmi(ipmi(host=host, cipher=3), USER, "secret").power_uw()
    with pytest.raises(PollError, match="Unable to establish IPMI v2 / RMCP"):
        bmcpoll.Ipmi(ipmi(host=host, cipher=3), USER, "wrong").power_uw()


# ---- configuration ---------------------------------------------------------------------------------------------------


def test_nothing_is_asked_that_is_not_configured() -> None:
    meter = bmc_meter.discover(SysRoot("/nonexistent"), Config())
    assert meter.channels == ()
    assert meter.read(7) == []
    assert [finding.state for finding in meter.findings] == ["missing"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('kind = "redfish"', "needs https"),
        ('kind = "redfish"\nurl = "http://bmc"', "in the clear"),
        ('kind = "snmp"', "Invalid enum value"),
        ('fingerprint = "ab"', "SHA-256"),
        ("interval_s = 0.1", "between 1 and 60"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse(f"[bmc]\n{text}\n")
