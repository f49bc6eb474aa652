"""Metrics of the ledger: clean by promtool, bounded, and each query of the Grafana dashboard answered by Prometheus."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hpccarbon import config as configuration
from hpccarbon.cli.common import parse_month
from hpccarbon.cli.exporter import Collector
from hpccarbon.cli.shared import open_ledger
from hpccarbon.node.textfile import Textfile
from hpccarbon.report.metrics import Names, Snapshot, metrics, snapshot
from hpccarbon.site.ledger import Ledger
from hpccarbon.units import NS_PER_S
from tests import hostile
from tests.node.test_textfile import lint, parsed, summed, worked
from tests.node.virtual import tick
from tests.report.golden import check
from tests.site import maker
from tests.summary.conftest import BERLIN
from tests.summary.inside import run
from tests.summary.year import CONFIG

if TYPE_CHECKING:
    from prometheus_client.core import Metric

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "dashboards" / "hpccarbon.json"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a site whose last hours are those before now."""
    folder = tmp_path_factory.mktemp("living")
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    first = max(hour - timedelta(hours=2), hour.replace(day=1, hour=0))
    maker.site(folder / "shared", first=first, hours=1 + (hour - first) // timedelta(hours=1))
    path = folder / "hpccarbon.toml"
    path.write_text(CONFIG.format(shared=folder / "shared").replace("Europe/Berlin", "UTC"))
    return path


@lru_cache
def exposition(config: Path, max_series: int = 200) -> str:
    from prometheus_client import generate_latest

    collector = Collector(configuration.load(config), None, timezone.utc, max_series)
    collector.refresh()
    return generate_latest(collector.registry()).decode()


def test_promtool_has_nothing_to_say(living: Path) -> None:
    assert lint(exposition(living)) == ""


def test_every_grouping_adds_up_to_the_jobs(living: Path) -> None:
    series = parsed(exposition(living))
    jobs = summed(series, "hpccarbon_energy_joules_total", holder="job")
    assert jobs > 0
    for name in ("account", "partition"):
        assert summed(series, f"hpccarbon_{name}_energy_joules_total") == pytest.approx(jobs)
        assert summed(series, f"hpccarbon_{name}_month_co2e_grams") == pytest.approx(
            summed(series, "hpccarbon_month_co2e_grams", holder="job")
        )


def test_what_has_no_room_is_other_and_nothing_is_lost(living: Path) -> None:
    series = parsed(exposition(living, max_series=1))
    names = {dict(has)["account"] for name, has in series if name == "hpccarbon_account_energy_joules_total"}
    assert len(names) == 2
    assert "_other" in names
    jobs = summed(series, "hpccarbon_energy_joules_total", holder="job")
    assert summed(series, "hpccarbon_account_energy_joules_total") == pytest.approx(jobs)


def test_no_user_and_no_job_has_a_series(living: Path) -> None:
    labels = {label for _, has in parsed(exposition(living)) for label, _ in has}
    assert labels <= {"cluster", "holder", "account", "partition", "budget", "version"}


def test_the_page_lists_what_is_exposed_with_types_and_labels(living: Path, tmp_path: Path) -> None:
    node, sampler = worked(tmp_path)
    textfile = Textfile(tmp_path / "hpccarbon.prom", "alpha", "n1")
    textfile.add(sampler.pending)
    textfile.write(node.wall_ns, 1, [channel.key for channel in sampler.channels], sampler.gaps)
    text = (tmp_path / "hpccarbon.prom").read_text() + exposition(living)
    labels: dict[str, set[str]] = {}
    for name, has in parsed(text):
        labels.setdefault(name, set()).update(label for label, _ in has)
    exposed = {name: (kind, labels.get(name)) for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)}

    page = DASHBOARD.parent.parent.joinpath("dashboards.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(hpccarbon_\w+)` \| (\w+) \| (.*?) \| .+? \| .+? \|$", page, re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"`(\w+)`", told))) for name, kind, told in rows}
    assert listed == exposed
    assert set(re.findall(r"\bhpccarbon_(?!%n)\w+", page)) <= exposed.keys(), "in the text or the alerts"


def exposed(known: Snapshot, limit: int) -> str:
    """A snapshot as Prometheus is given it."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Given:
        def collect(self) -> Iterable[Metric]:
            return metrics(known, Names(limit), Names(limit))

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given())
    return generate_latest(registry).decode()


def test_a_known_month_is_as_reviewed(site: Path, ledger: Ledger) -> None:
    now = datetime(2026, 3, 20, 12, 30, tzinfo=timezone.utc)
    known = snapshot(configuration.load(site), ledger, parse_month("2026-03", BERLIN, now), now)

    check("exporter.prom", exposed(known, 3))


def test_hostile_accounts_are_only_labels(living: Path) -> None:
    config = configuration.load(living)
    now = datetime.now(timezone.utc)
    with open_ledger(config) as ledger:
        known = snapshot(config, ledger, parse_month("this", timezone.utc, now), now)
    (one, *_) = known.accounts
    accounts = [
        msgspec.structs.replace(one, energy=msgspec.structs.replace(one.energy, key=("job", name)))
        for name in hostile.storable().values()
    ]

    text = exposed(known._replace(accounts=accounts, partitions=accounts), 500)
    assert hostile.exposition_faults(text) == []
    assert lint(text) == ""
    labels = {dict(has)["account"] for name, has in parsed(text) if name == "hpccarbon_account_energy_joules_total"}
    assert labels == set(hostile.storable().values()), "as they are, and one each"


def test_once_prints_openmetrics(living: Path) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    said = run("exporter", "--once", "--config", str(living))
    assert said.out.endswith("# EOF\n")
    assert len(list(text_string_to_metric_families(said.out))) > 10  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("listen", ["9189", "127.0.0.1:", "127.0.0.1:99999", "here:port"])
def test_an_address_that_is_none_is_wrong_usage(living: Path, listen: str) -> None:
    said = run("exporter", "--listen", listen, "--config", str(living))
    assert (said.status, "is no HOST:PORT" in said.err) == (2, True)


class Growing(http.server.SimpleHTTPRequestHandler):
    """Serves a node's textfile, as node_exporter would."""

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def prometheus(living: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scrapes the exporter and a node's textfile every second; its address."""
    if shutil.which("prometheus") is None:
        pytest.skip("NO PROMETHEUS: apt-get install prometheus (as root, `make setup` does)")
    folder = tmp_path_factory.mktemp("prometheus")
    node, sampler = worked(folder / "node")
    textfile = Textfile(folder / "metrics", "alpha", "n1")
    stop = threading.Event()

    def meter() -> None:
        while not stop.is_set():
            textfile.add(sampler.pending)
            sampler.committed()
            gaps = {"rapl/intel-rapl:9": "denied"}
            textfile.write(time.time_ns(), 1, [channel.key for channel in sampler.channels], gaps)
            node.run(NS_PER_S, {7: 1.0})
            tick(sampler, node)
            sampler.settle()
            stop.wait(0.5)

    threading.Thread(target=meter, daemon=True).start()
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Growing, directory=str(folder)))
    threading.Thread(target=files.serve_forever, daemon=True).start()
    ports = free_port(), free_port()
    exporter = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hpccarbon",
            "exporter",
            f"--config={living}",
            "--every=1s",
            f"--listen=127.0.0.1:{ports[0]}",
        ],
        stderr=subprocess.DEVNULL,
    )
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n"
        f"- {{job_name: hpccarbon, static_configs: [{{targets: ['127.0.0.1:{ports[0]}']}}]}}\n"
        f"- {{job_name: node, static_configs: [{{targets: ['127.0.0.1:{files.server_port}']}}]}}\n"
    )
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{ports[1]}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_for_scrapes(address)
        yield address
    finally:
        stop.set()
        for process in (server, exporter):
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        files.shutdown()


def ask(address: str, query: str) -> list[dict[str, Any]]:
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        said = json.load(answer)
    assert said["status"] == "success", said
    result: list[dict[str, Any]] = said["data"]["result"]
    return result


def wait_for_scrapes(address: str) -> None:
    """Until both targets were scraped three times."""
    deadline = time.monotonic() + 60
    while True:
        try:
            seen = ask(address, "count_over_time(up[1m]) * up")
        except OSError:
            seen = []
        if len(seen) == 2 and all(float(one["value"][1]) >= 3 for one in seen):
            return
        assert time.monotonic() < deadline, f"Prometheus scraped {seen}"
        time.sleep(0.3)


def expressions() -> list[tuple[str, str]]:
    board = json.loads(DASHBOARD.read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]


def test_every_query_of_the_dashboard_has_an_answer(prometheus: str) -> None:
    empty = []
    for title, expression in expressions():
        found = ask(prometheus, expression.replace("$cluster", "alpha"))
        if not found:
            empty.append(title)
    assert empty == []


def test_the_dashboard_names_only_metrics_that_exist(prometheus: str) -> None:
    with urllib.request.urlopen(f"{prometheus}/api/v1/label/__name__/values", timeout=10) as answer:
        known = set(json.load(answer)["data"])
    used = {name for _, text in expressions() for name in re.findall(r"hpccarbon_\w+", text)}
    assert used
    assert used <= known
