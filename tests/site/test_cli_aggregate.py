"""`hpccarbon aggregate` and `hpccarbon verify` as an operator runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpccarbon.cli.aggregate import command as aggregate
from hpccarbon.cli.verify import command as verify
from hpccarbon.site.index import ledger_path
from tests.site import maker

HEADER = "component"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hpccarbon.toml"
    path.write_text(f'cluster = "alpha"\n[paths]\nshared_dir = "{tmp_path / "shared"}"\n[slurm]\naccounting = "none"\n')
    return path


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in arguments])  # type: ignore[arg-type]


def test_once(config: Path, tmp_path: Path) -> None:
    paths = maker.site(tmp_path / "shared", hours=3, nodes=4)
    paths[0].write_bytes(b"PAR1 nothing")
    result = run(aggregate, "--config", config)
    assert result.exit_code == 0
    expected = r"aggregated 3 hours from 12 shards \(1 set aside\), packed 1 day, 0 job records; \d+\.\d s\n"
    assert re.fullmatch(expected, result.stdout)
    assert result.stderr == (
        f"warning: set aside {paths[0]}: not a whole Parquet file: truncated, or copied while it was written\n"
    )
    again = run(aggregate, "--config", config, "--no-accounting")
    assert re.fullmatch(r"aggregated 0 hours from 0 shards; \d+\.\d s\n", again.stdout)
    assert again.stderr == ""
    assert run(aggregate, "--config", config, "--quiet").output == ""


def test_a_site_without_shards(config: Path) -> None:
    assert run(aggregate, "--config", config).exit_code == 0
    assert "verified 0 hours" in run(verify, "--config", config).stdout


def test_since_and_until(config: Path, tmp_path: Path) -> None:
    maker.site(tmp_path / "shared", hours=3, nodes=1)
    result = run(aggregate, "--config", config, "--since", "2026-03-01T11:00", "--until", "2026-03-01T12:00")
    assert result.stdout.startswith("aggregated 1 hour from 1 shard,")
    assert [p.name for p in (tmp_path / "shared" / "ledger").rglob("hour=*")] == ["hour=11.parquet"]


@pytest.mark.parametrize("text", ["0s", "soon", "5 days"])
def test_what_is_no_duration_is_refused(config: Path, text: str) -> None:
    result = run(aggregate, "--config", config, "--every", text)
    assert result.exit_code == 2
    assert "write 60s, 5min or 1h" in result.stderr


def test_a_ledger_that_cannot_be_written_is_one_line(config: Path, tmp_path: Path) -> None:
    maker.site(tmp_path / "shared", hours=1, nodes=1)
    (tmp_path / "shared" / "ledger" / "alpha" / "date=2026-03-01").parent.mkdir(parents=True)
    (tmp_path / "shared" / "ledger" / "alpha" / "date=2026-03-01").write_text("a file where a directory should be")
    result = run(aggregate, "--config", config)
    assert result.exit_code == 1
    assert re.fullmatch(r"error: cannot use \S+/hour=10.parquet: .*\n", result.stderr)


def test_watch_merges_what_comes_and_ends_on_sigterm(config: Path, tmp_path: Path) -> None:
    maker.site(tmp_path / "shared", hours=1, nodes=1)
    arguments = ["aggregate", "--config", str(config), "--watch", "--every", "1s"]
    code = f"import sys; from hpccarbon.cli import main; main({arguments!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("aggregated 1 hour from 1 shard")
        maker.write(tmp_path / "shared", maker.node_hour(5), node="n2")
        assert process.stdout.readline().startswith("aggregated 1 hour from 2 shards")
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_verify_shows_that_everything_adds_up(config: Path, tmp_path: Path) -> None:
    maker.site(tmp_path / "shared", hours=2, nodes=2)
    young = run(verify, "--config", config)
    assert (young.exit_code, young.stderr) == (0, "")
    assert "verified 2 hours, 4 shards, 2 nodes: everything adds up; 2 hours wait" in young.stdout
    run(aggregate, "--config", config)
    result = run(verify, "--config", config)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == [HEADER, "jobs", "system", "unallocated", "meters", "difference"]
    assert all(line.endswith(" 0 µJ") for line in lines[1:5])
    assert lines[5] == "verified 2 hours, 4 shards, 2 nodes: everything adds up"
    for path in (tmp_path / "shared" / "shards").rglob("*.parquet"):
        path.unlink()
    assert run(verify, "--config", config).stdout.splitlines()[:5] == lines[:5]


def test_verify_names_what_does_not_add_up(config: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    paths = maker.site(shared, hours=2, nodes=2)
    run(aggregate, "--config", config, "--no-pack")
    other = tmp_path / "other"
    maker.site(other, hours=2, nodes=2, seed=9)
    assert run(aggregate, "--config", _moved(config, other), "--no-pack").exit_code == 0
    # A ledger file that says it was made of these shards and was not.
    mine, theirs = (ledger_path(root, "alpha", maker.HOUR) for root in (shared, other))
    _forge(theirs, mine)
    rows = maker.node_hour(3, hour=maker.HOUR.replace(hour=11))
    rows[0]["cpu_uj"] += 1
    maker.write(shared, rows, hour=maker.HOUR.replace(hour=11), node="n1")
    result = run(verify, "--config", config)
    assert result.exit_code == 1
    assert f"error: {paths[2]}: energy does not add up: cpu_uj of all holders is" in result.stderr
    assert re.search(rf"error: {re.escape(str(mine))}: node n1, job: cpu_uj is \d+, in the shards \d+", result.stderr)
    assert "faults" in result.stdout


def test_verify_names_what_a_ledger_file_cannot_say(config: Path, tmp_path: Path) -> None:
    """One is damaged, one does not add up by itself, one was made of a shard of other columns; the last is well."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = tmp_path / "shared"
    paths = maker.site(shared, hours=4, nodes=1)
    table = pq.read_table(paths[2], partitioning=None)
    place = table.schema.get_field_index("modelled_uj")
    wide = table.schema.set(place, table.schema.field(place).with_type(pa.int32()))
    pq.write_table(table.cast(wide), paths[2])
    run(aggregate, "--config", config, "--no-pack")
    damaged, short, odd, well = sorted((shared / "ledger").rglob("hour=*.parquet"))
    _damage(damaged)
    table = pq.read_table(short, partitioning=None)
    place = table.schema.get_field_index("cpu_uj")
    holders, values = table["holder"].to_pylist(), table["cpu_uj"].to_pylist()
    more = [value and value + (holder == "job") for holder, value in zip(holders, values, strict=True)]
    pq.write_table(table.set_column(place, table.field(place), [more]), short)
    for path in (paths[0], paths[1]):
        path.unlink()
    result = run(verify, "--config", config)
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert len(said) == 3 and not any(str(well) in line for line in said), said
    assert said[0].startswith(f"error: {damaged}: ")
    assert re.fullmatch(
        rf"error: {re.escape(str(short))}: node n1: cpu_uj of all holders is \d+, of the meters \d+", said[1]
    )
    assert said[2] == f"error: {paths[2]}: columns differ from schema version 1: modelled_uj"
    assert odd.exists()


def _damage(path: Path) -> None:
    """Break the pages and leave the footer: what the file says of itself still reads."""
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 3] = bytes(len(data) // 3 - 4)
    path.write_bytes(data)


def _moved(config: Path, shared: Path) -> Path:
    path = config.with_name("other.toml")
    path.write_text(re.sub(r'shared_dir = ".*"', f'shared_dir = "{shared}"', config.read_text()))
    return path


def _forge(source: Path, target: Path) -> None:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(target).metadata
    table = pq.read_table(source, partitioning=None)
    pq.write_table(table.replace_schema_metadata(metadata), target)
