"""The node's metrics: clean by Prometheus' own check, adding up as the shards do, written by the real daemon."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from hpccarbon.node.sampler import Sampler
from hpccarbon.node.textfile import Textfile
from hpccarbon.units import NS_PER_S
from tests.node.test_daemon import Running, wait_for
from tests.node.virtual import Node, tick

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    """The samples of a text exposition, as the reference parser reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def summed(series: Series, name: str, **labels: str) -> float:
    """All series of a name that have these labels, added up."""
    return sum(value for (one, has), value in series.items() if one == name and labels.items() <= dict(has).items())


def lint(text: str) -> str:
    """What `promtool check metrics` complains of."""
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMTOOL: apt-get install prometheus (as root, `make setup` does)")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    return done.stdout + done.stderr


def worked(directory: Path, *, dram: bool = True) -> tuple[Node, Sampler]:
    """A node on which a job ran for ten seconds."""
    node = Node(directory, dram=dram)
    sampler = node.sampler()
    tick(sampler, node)
    node.start(7, cores=2)
    tick(sampler, node)
    for _ in range(10):
        node.run(NS_PER_S, {7: 1.0}, system=0.2)
        tick(sampler, node)
    sampler.settle()
    return node, sampler


def test_the_holders_add_up_to_the_meters(tmp_path: Path) -> None:
    node, sampler = worked(tmp_path)
    textfile = Textfile(tmp_path / "hpccarbon.prom", "alpha", "n1")
    textfile.add(sampler.pending)
    textfile.write(node.wall_ns, 1, [channel.key for channel in sampler.channels], sampler.gaps)
    series = parsed((tmp_path / "hpccarbon.prom").read_text())
    meters = summed(series, "hpccarbon_node_meter_energy_joules_total")
    assert summed(series, "hpccarbon_node_energy_joules_total") == pytest.approx(meters, abs=1e-6)
    assert meters * 1e6 == pytest.approx(sum(node.total_uj.values()), abs=1)
    assert summed(series, "hpccarbon_node_cpu_seconds_total", holder="job") == pytest.approx(10)
    assert summed(series, "hpccarbon_node_meter_up") == len(sampler.channels)


def test_counters_only_grow_and_forget_no_commit(tmp_path: Path) -> None:
    node, sampler = worked(tmp_path)
    textfile = Textfile(tmp_path / "hpccarbon.prom", "alpha", "n1")
    seen = []
    for _ in range(3):
        textfile.add(sampler.pending)
        sampler.committed()
        textfile.write(node.wall_ns, 1, [], {})
        seen.append(summed(parsed((tmp_path / "hpccarbon.prom").read_text()), "hpccarbon_node_energy_joules_total"))
        node.run(NS_PER_S, {7: 1.0})
        tick(sampler, node)
        sampler.settle()
    assert seen[0] < seen[1] < seen[2]


def test_a_component_without_a_meter_has_no_series(tmp_path: Path) -> None:
    node, sampler = worked(tmp_path, dram=False)
    textfile = Textfile(tmp_path / "hpccarbon.prom", "alpha", "n1")
    textfile.add(sampler.pending)
    textfile.write(node.wall_ns, 1, [], {})
    text = (tmp_path / "hpccarbon.prom").read_text()
    assert 'component="cpu"' in text
    assert 'component="dram"' not in text


def test_promtool_has_nothing_to_say(tmp_path: Path) -> None:
    node, sampler = worked(tmp_path)
    textfile = Textfile(tmp_path / "hpccarbon.prom", "alpha", 'n"1\\\n')
    textfile.add(sampler.pending)
    textfile.write(node.wall_ns, 1, [channel.key for channel in sampler.channels], {"rapl/intel-rapl:9": "denied"})
    text = (tmp_path / "hpccarbon.prom").read_text()
    assert lint(text) == ""
    assert summed(parsed(text), "hpccarbon_node_meter_up", meter="rapl/intel-rapl:9") == 0
    assert {dict(labels).get("node") for _, labels in parsed(text)} == {'n"1\\\n'}


def test_the_number_of_series_does_not_depend_on_the_jobs(tmp_path: Path) -> None:
    node, sampler = worked(tmp_path)
    textfile = Textfile(tmp_path / "hpccarbon.prom", "alpha", "n1")
    textfile.add(sampler.pending)
    textfile.write(node.wall_ns, 1, [], {})
    few = len(parsed((tmp_path / "hpccarbon.prom").read_text()))
    for job in range(100, 140):
        node.start(job)
    tick(sampler, node)
    node.run(NS_PER_S, dict.fromkeys(range(100, 140), 0.1))
    tick(sampler, node)
    sampler.settle()
    textfile.add(sampler.pending)
    textfile.write(node.wall_ns, 41, [], {})
    assert len(parsed((tmp_path / "hpccarbon.prom").read_text())) == few


def test_the_daemon_writes_it_and_lives_on_where_it_cannot(tmp_path: Path) -> None:
    folder = tmp_path / "collector"
    folder.mkdir()
    daemon = Running(Node(tmp_path / "node"), f'textfile = "{folder}/hpccarbon_%n.prom"\n')
    try:
        daemon.node.start(7, cores=2)
        time.sleep(0.3)
        daemon.node.run(NS_PER_S // 2, {7: 1.0})
        time.sleep(0.3)
        assert daemon.stop() == 0
        path = folder / "hpccarbon_n1.prom"
        series = parsed(path.read_text())
        assert summed(series, "hpccarbon_node_cpu_seconds_total", holder="job") == pytest.approx(0.5)
        assert path.stat().st_mode & 0o777 == 0o644
        assert [one.name for one in folder.iterdir()] == [path.name]
        shutil.rmtree(folder)
        daemon.start()
        daemon.node.run(NS_PER_S // 2, {7: 1.0})
        wait_for(lambda: "metrics: cannot write" in daemon.log.read_text(), "the daemon's complaint", 5)
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
