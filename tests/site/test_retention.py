"""Raw shards go only where the ledger holds every row of them, and what comes late never costs the ledger a row."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hpccarbon.cli.retention import command
from hpccarbon.config import Retention
from hpccarbon.errors import HpcCarbonError, ShardError
from hpccarbon.site import index, packs, retention
from hpccarbon.site.aggregate import Outcome, aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.lock import exclusive
from hpccarbon.site.shards import digest, list_hour
from hpccarbon.site.verify import verify
from tests import refused
from tests.site import maker

RULES = Retention(pack_days=14, keep_days=100)
DAY = date(2026, 3, 1)
SOON = maker.HOUR + timedelta(days=20)
LATER = maker.HOUR + timedelta(days=120)
FOLDER = "shards/alpha/date=2026-03-01"
EVERYONE = Selection(holders=("job", "system", "unallocated", "meter"))


def merged(shared: Path, since: datetime | None = None, until: datetime | None = None) -> Outcome:
    with open_crew(1) as crew:
        return aggregate(shared, "alpha", crew, since=since, until=until)


def kept(shared: Path, now: datetime, *, apply: bool = True) -> list[tuple[str, str]]:
    steps = list(retention.run(shared, "alpha", RULES, now, apply=apply))
    assert all(step.day == DAY for step in steps)
    return [(step.action, step.reason) for step in steps]


def energy(shared: Path) -> Any:
    ledger = Ledger(shared, "alpha")
    rows = ledger.energy(EVERYONE, ("hour", "node", "holder", "job_id"))
    assert ledger.faults == []
    return rows


def names(shared: Path) -> list[str]:
    return sorted(path.name for path in (shared / FOLDER).iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    maker.site(shared, hours=2, nodes=2)
    merged(shared)
    return shared


@pytest.fixture
def packed(site: Path) -> Path:
    assert kept(site, SOON) == [("pack", "")]
    return site


@pytest.fixture
def removed(packed: Path) -> Path:
    assert kept(packed, LATER) == [("remove", "")]
    return packed


def test_without_apply_nothing_changes(site: Path) -> None:
    before = sorted((path, path.lstat().st_mtime_ns) for path in site.rglob("*"))
    assert kept(site, SOON, apply=False) == [("pack", "")]
    assert sorted((path, path.lstat().st_mtime_ns) for path in site.rglob("*")) == before


def test_a_young_day_is_left_alone(site: Path) -> None:
    assert kept(site, maker.HOUR + timedelta(days=14)) == []
    assert names(site) == ["hour=10", "hour=11"]


def test_packed_and_removed_days_read_the_same(site: Path) -> None:
    before = energy(site)
    assert kept(site, SOON) == [("pack", "")]
    assert names(site) == ["packed.json", "shards.tar"]
    assert (energy(site), merged(site).hours) == (before, 0)
    assert kept(site, SOON) == []
    assert kept(site, LATER) == [("remove", "")]
    assert names(site) == ["packed.json"]
    assert (energy(site), merged(site).hours) == (before, 0)
    assert verify(site, "alpha").faults == ()
    assert kept(site, LATER) == []


def test_any_tar_brings_the_very_shards_back(packed: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", packed / FOLDER / "shards.tar", "-C", tmp_path], check=True)
    mine = list_hour(str(tmp_path / "hour=10"))
    assert digest(mine) == packs.noted(packed / FOLDER)["hour=10"].digest


def test_restore_brings_the_minutes_back(packed: Path) -> None:
    minutes = Selection(job_ids=(1000,))
    assert Ledger(packed, "alpha").energy(minutes, ("bucket",)) == []
    assert retention.restore(packed, "alpha", DAY) == 4
    assert len(Ledger(packed, "alpha").energy(minutes, ("bucket",))) == 120
    assert merged(packed).hours == 0
    assert kept(packed, SOON) == [("pack", "")]
    assert names(packed) == ["packed.json", "shards.tar"]


def test_what_the_ledger_lacks_stays(site: Path) -> None:
    maker.write(site, maker.node_hour(7), node="n9")
    ((action, why),) = kept(site, SOON)
    assert action == "keep" and "made of other shards" in why
    index.ledger_path(site, "alpha", maker.HOUR).unlink()
    ((action, why),) = kept(site, SOON)
    assert action == "keep" and "not in the ledger yet" in why
    assert len(list_hour(str(site / FOLDER / "hour=10"))) == 3


def test_a_ledger_with_one_other_microjoule_stays(packed: Path) -> None:
    path = index.ledger_path(packed, "alpha", maker.HOUR)
    table = pq.read_table(path, partitioning=None)
    values = table["cpu_uj"].to_pylist()
    values[0] += 1
    pq.write_table(table.set_column(table.schema.get_field_index("cpu_uj"), table.field("cpu_uj"), [values]), path)
    ((action, why),) = kept(packed, LATER)
    assert action == "keep" and "does not hold what the shards hold" in why
    assert names(packed) == ["packed.json", "shards.tar"]


def test_a_ledger_file_that_cannot_be_compared_keeps_the_pack(packed: Path) -> None:
    path = index.ledger_path(packed, "alpha", maker.HOUR)
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 3] = bytes(len(data) // 3 - 4)  # the footer still says what it was made of
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    ((action, why),) = kept(packed, LATER)
    assert action == "keep" and f"hour=10: cannot compare {path} with the shards" in why
    assert names(packed) == ["packed.json", "shards.tar"]


def test_a_pack_with_an_untrusted_shard_is_never_removed(tmp_path: Path) -> None:
    paths = maker.site(tmp_path, hours=1, nodes=2)
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    merged(tmp_path)
    assert kept(tmp_path, SOON) == [("pack", "")]
    ((action, why),) = kept(tmp_path, LATER)
    assert action == "keep" and "n1." in why and "1 shards could not be trusted" in why


def test_a_shard_that_comes_after_packing_joins_the_others(packed: Path) -> None:
    before = energy(packed)
    maker.write(packed, maker.node_hour(7), node="n9")
    assert energy(packed) == before  # not the late one alone, while nobody has merged it
    assert merged(packed).hours == 1
    after = energy(packed)
    assert [row for row in after if row.key[1] != "n9"] == before
    assert len(after) > len(before)
    assert kept(packed, SOON) == [("pack", "")]
    assert (names(packed), energy(packed)) == (["packed.json", "shards.tar"], after)
    assert kept(packed, LATER) == [("remove", "")]
    assert energy(packed) == after


def test_a_newer_version_of_a_packed_shard_replaces_it(packed: Path) -> None:
    maker.write(packed, maker.node_hour(77, job_ids=(5,)), node="n1")
    merged(packed)
    rows = energy(packed)
    assert {row.key[3] for row in rows if row.key[:2] == (maker.HOUR, "n1") and row.key[2] == "job"} == {5}
    assert verify(packed, "alpha").faults == ()


def test_a_shard_that_comes_after_removal_is_kept_aside(removed: Path) -> None:
    before = energy(removed)
    late = maker.write(removed, maker.node_hour(7), node="n9")
    assert energy(removed) == before
    outcome = merged(removed)
    there = removed / FOLDER / "late" / f"hour=10.{late.name}"
    assert outcome.set_aside == ((str(there), "it came after the raw shards of its hour were removed"),)
    assert there.exists() and not late.parent.exists()
    assert (energy(removed), merged(removed)) == (before, Outcome(0, 0, (), ()))


def test_late_shards_of_several_hours_are_all_named(removed: Path) -> None:
    for hour in (maker.HOUR, maker.HOUR + timedelta(hours=1)):
        maker.write(removed, maker.node_hour(7, hour=hour), hour=hour, node="n9")
    assert [Path(path).name.partition(".")[0] for path, _ in merged(removed).set_aside] == ["hour=10", "hour=11"]


def test_an_hour_that_nobody_had_is_merged_even_then(removed: Path) -> None:
    before = energy(removed)
    hour = maker.HOUR + timedelta(hours=5)
    maker.write(removed, maker.node_hour(7, hour=hour), hour=hour, node="n9")
    assert merged(removed).hours == 1
    assert [row for row in energy(removed) if row.key[0] != hour] == before
    assert kept(removed, LATER) == [("pack", "")]
    assert names(removed) == ["packed.json", "shards.tar"]
    maker.write(removed, maker.node_hour(8), node="n8")  # of an hour that is not in the new pack
    assert len(merged(removed).set_aside) == 1
    assert [row for row in energy(removed) if row.key[0] != hour] == before


def test_a_lost_ledger_file_is_made_again_from_the_pack(packed: Path) -> None:
    before = energy(packed)
    path = index.ledger_path(packed, "alpha", maker.HOUR)
    content = path.read_bytes()
    path.unlink()
    assert merged(packed).hours == 1
    assert (path.read_bytes(), energy(packed)) == (content, before)


@pytest.mark.parametrize(("bound", "made"), [("since", 11), ("until", 10)])
def test_of_lost_ledger_files_those_that_were_asked_for_are_made_again(packed: Path, bound: str, made: int) -> None:
    second = maker.HOUR + timedelta(hours=1)
    lost = [index.ledger_path(packed, "alpha", hour) for hour in (maker.HOUR, second)]
    for path in lost:
        path.unlink()
    assert merged(packed, **{bound: second}).hours == 1
    assert [path.exists() for path in lost] == [made == 10, made == 11]
    assert [name for name in names(packed) if name.startswith("hour=")] == [f"hour={made}"]


def test_an_interrupted_removal_goes_on(site: Path) -> None:
    before, day = energy(site), site / FOLDER
    files = {hour: list_hour(str(day / hour)) for hour in ("hour=10", "hour=11")}
    packs.pack(day, files)
    (day / "hour=10").rename(day / ".hour=10.removed")
    next((day / ".hour=10.removed").iterdir()).unlink()
    assert (energy(site), merged(site).hours) == (before, 0)
    assert kept(site, SOON) == [("pack", "")]
    assert (names(site), energy(site)) == (["packed.json", "shards.tar"], before)


def test_a_shard_that_is_sealed_while_its_hour_goes_is_not_lost(site: Path) -> None:
    day = site / FOLDER
    listed = list_hour(str(day / "hour=10"))
    packs.pack(day, {"hour=10": listed})
    newer = maker.write(site, maker.node_hour(77), node="n1")
    other = maker.write(site, maker.node_hour(78), node="n7")
    contents = {path.name: path.read_bytes() for path in (newer, other)}
    assert packs.remove_hour(day, "hour=10", listed) == 2
    assert {path.name: path.read_bytes() for path in (day / "hour=10").iterdir()} == contents
    assert [path.name for path in day.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_leaves_the_shards_where_they_are(site: Path) -> None:
    day = site / FOLDER
    (day / f".shards.tar.{os.getpid()}.new").mkdir()  # what cannot be opened for writing, whoever asks
    ((action, why),) = kept(site, SOON)
    assert action == "keep" and "cannot pack the day" in why
    assert len(list_hour(str(day / "hour=10"))) == 2


@pytest.mark.parametrize("bad", ["hour=10/../../x.parquet", "/etc/x.parquet", "hour=10/a.txt", "hour=99/a.b.parquet"])
def test_a_pack_with_foreign_members_is_refused(packed: Path, bad: str) -> None:
    import io
    import tarfile

    with tarfile.open(packed / FOLDER / "shards.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(bad), io.BytesIO())
    with pytest.raises(ShardError, match="which is no shard"):
        packs.packed(packed / FOLDER)
    with pytest.raises(ShardError, match="which is no shard"):
        retention.restore(packed, "alpha", DAY)


def test_a_symlink_in_the_place_of_a_shard_is_not_followed(site: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("marked")
    shard = list_hour(str(site / FOLDER / "hour=10"))[0]
    Path(shard.path).unlink()
    Path(shard.path).symlink_to(secret)
    listed = shard._replace(size=secret.stat().st_size, mtime_ns=secret.stat().st_mtime_ns)
    with pytest.raises(ShardError, match="cannot pack"):
        packs.pack(site / FOLDER, {"hour=10": [listed]})


def test_it_waits_for_no_aggregator(site: Path) -> None:
    with exclusive(site / "ledger" / "alpha" / ".lock"):
        with pytest.raises(HpcCarbonError, match="another aggregator"):
            kept(site, SOON)
        assert kept(site, SOON, apply=False) == [("pack", "")]


def test_the_command(site: Path, tmp_path: Path) -> None:
    config = tmp_path / "hpccarbon.toml"
    config.write_text(
        f'cluster = "alpha"\n[paths]\nshared_dir = "{site}"\n[retention]\npack_days = 14\nkeep_days = 100\n'
    )

    def run(*words: str) -> Any:
        return CliRunner().invoke(command, ["--config", str(config), *words])

    shown = run()
    size = sum(path.stat().st_size for path in (site / FOLDER).rglob("*.parquet")) / 1e6
    assert shown.stdout == (
        f"2026-03-01  4 shards, {size:.1f} MB  would be packed\n"
        "1 day looked at, 0 kept; nothing was changed, add --apply\n"
    )
    done = run("--apply")
    assert done.stdout.endswith("packed\n1 day looked at, 0 kept\n") and done.exit_code == 0
    assert run("--restore", "2026-03-01").stdout == "2026-03-01: 4 shards brought back; the pack stays\n"
    assert run("--restore", "yesterday").exit_code == 2
    shutil.rmtree(site / "ledger" / "alpha" / "date=2026-03-01")
    refused = run("--apply")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "error: 2026-03-01 kept: hour=10: it is not in the ledger yet (run `hpccarbon aggregate`)\n"
    )


def test_a_shard_that_changes_while_its_day_is_packed_stops_the_pack(packed: Path) -> None:
    assert retention.restore(packed, "alpha", DAY) == 4
    day = packed / FOLDER
    listed, before = list_hour(str(day / "hour=10")), (day / "shards.tar").read_bytes()
    maker.write(packed, maker.node_hour(77), node="n1")
    with pytest.raises(ShardError, match="it changed while its day was packed") as told:
        packs.pack(day, {"hour=10": listed})
    assert told.value.path.endswith(f"hour=10/{listed[0].name}")
    assert (day / "shards.tar").read_bytes() == before
    assert names(packed) == ["hour=10", "hour=11", "packed.json", "shards.tar"]


def _cut(day: Path) -> None:
    with (day / "shards.tar").open("r+b") as file:
        file.truncate(1500)


def _text(day: Path) -> None:
    (day / "shards.tar").write_text("<html>busy</html>")


def _folder(day: Path) -> None:
    (day / "shards.tar").unlink()
    (day / "shards.tar").mkdir()


def _link(day: Path) -> None:
    (day / "shards.tar").rename(day / "elsewhere.tar")
    (day / "shards.tar").symlink_to("elsewhere.tar")


def _note(day: Path) -> None:
    (day / "packed.json").write_text('{"hour=10": ')


@pytest.mark.parametrize("damage", [_cut, _text, _folder, _link, _note])
def test_what_is_damaged_is_named_and_left(packed: Path, damage: Callable[[Path], None]) -> None:
    before, day = energy(packed), packed / FOLDER
    damage(day)
    there = names(packed)
    ((action, why),) = kept(packed, LATER)
    expected = "the note of what was packed cannot be read" if damage is _note else "the pack cannot be read"
    assert action == "keep" and expected in why
    assert (names(packed), energy(packed)) == (there, before)
    if damage is not _note:
        with pytest.raises(ShardError, match=expected):
            retention.restore(packed, "alpha", DAY)
        with pytest.raises(ShardError, match=expected):
            list(packs.contents(day, "hour=10", {"n1"}))


def test_nothing_is_brought_back_through_a_link(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (packed / FOLDER / "hour=10").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShardError, match="cannot bring hour=10 back"):
        retention.restore(packed, "alpha", DAY)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_day_without_a_pack_says_whether_it_had_one(removed: Path) -> None:
    with pytest.raises(ShardError, match=r"there is no pack of this day \(its raw shards were removed"):
        retention.restore(removed, "alpha", DAY)
    with pytest.raises(ShardError, match=r"there is no pack of this day$"):
        retention.restore(removed, "alpha", DAY + timedelta(days=1))


def test_what_was_sealed_last_wins_over_what_an_interrupted_removal_holds(site: Path) -> None:
    day = site / FOLDER
    listed = list_hour(str(day / "hour=10"))
    packs.pack(day, {"hour=10": listed})
    maker.write(site, maker.node_hour(76), node="n1")
    (day / "hour=10").rename(day / ".hour=10.removed")
    (day / ".hour=10.removed" / ".n9.tmp").touch()  # what a sealing child left that was killed
    newest = maker.write(site, maker.node_hour(77), node="n1")
    content = newest.read_bytes()
    assert packs.unfinished(day) == ["hour=10"]
    assert packs.remove_hour(day, "hour=10", listed) == 1
    assert [(path.name, path.read_bytes()) for path in (day / "hour=10").iterdir()] == [(newest.name, content)]
    assert packs.unfinished(day) == []
    assert packs.remove_hour(day, "hour=12", []) == 0  # another one was quicker


def test_a_removal_that_cannot_go_on_keeps_the_day(site: Path) -> None:
    day = site / FOLDER
    packs.pack(day, {"hour=10": list_hour(str(day / "hour=10"))})
    (day / ".hour=10.removed").write_text("a file where a directory should be")
    ((action, why),) = kept(site, SOON)
    assert action == "keep" and "cannot remove it" in why
    assert len(list_hour(str(day / "hour=10"))) == 2


def test_late_shards_that_cannot_be_set_aside_stay_where_they_are(removed: Path) -> None:
    late = maker.write(removed, maker.node_hour(7), node="n9")
    (removed / FOLDER / "late").write_text("a file where a directory should be")
    with pytest.raises(ShardError, match="cannot set late shards aside"):
        packs.reopen(str(late.parent))
    assert late.exists()


@pytest.mark.parametrize(
    ("calls", "error", "at", "when", "said"),
    [
        ("fsync", "EIO", "", "1", "cannot pack the day: [Errno 5]"),
        ("fsync", "ENOSPC", "", "3", "packed.json: cannot write it: No space left on device"),
        ("/^rename", "EROFS", "hour=10", "1+", "hour=10: cannot remove it: [Errno 30]"),
        ("/^unlink", "EROFS", "shards.tar", "1+", "shards.tar: cannot remove it: Read-only file system"),
        ("flock", "ENOLCK", "", "1+", "No locks available (mount the shared directory with locks)"),
    ],
    ids=["pack", "note", "hour", "old pack", "lock"],
)
def test_what_the_file_system_refuses_is_said_and_done_the_next_time(
    site: Path, tmp_path: Path, calls: str, error: str, at: str, when: str, said: str
) -> None:
    before = energy(site)
    if at == "shards.tar":
        assert kept(site, SOON) == [("pack", "")]
    config = tmp_path / "hpccarbon.toml"
    keep_days = 100 if at == "shards.tar" else 0
    config.write_text(
        f'cluster = "alpha"\n[paths]\nshared_dir = "{site}"\n[retention]\npack_days = 14\nkeep_days = {keep_days}\n'
    )
    argv = [sys.executable, "-m", "hpccarbon", "retention", "--apply", "--config", str(config)]
    done = refused.run(argv, calls, error, site / FOLDER / at if at else None, when)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert [name for name in names(site) if name.startswith(".")] == []
    assert (energy(site), merged(site).hours) == (before, 0)
    if at == "shards.tar":
        assert kept(site, LATER) == [("remove", "")]
    else:
        assert kept(site, SOON) == [("pack", "")]
    assert energy(site) == before


@pytest.mark.parametrize("lost", [False, True])
def test_a_pack_that_cannot_be_read_stops_no_other_day(packed: Path, lost: bool) -> None:
    """And of its own day nothing is made of the late shards alone, be the hour in the ledger or lost."""
    before, pack = energy(packed), packed / FOLDER / "shards.tar"
    whole = pack.read_bytes()
    pack.write_text("<html>busy</html>")
    if lost:
        index.ledger_path(packed, "alpha", maker.HOUR).unlink()
    maker.write(packed, maker.node_hour(7), node="n9")
    other = maker.HOUR + timedelta(days=1)
    maker.write(packed, maker.node_hour(8, hour=other), hour=other, node="n8")
    outcome = merged(packed)
    ((path, why),) = outcome.failed
    assert (outcome.hours, path) == (1, str(pack))
    assert "the pack cannot be read" in why
    if lost:
        assert not index.ledger_path(packed, "alpha", maker.HOUR).exists()
    else:
        assert {row.key[1] for row in energy(packed) if row.key[0] == maker.HOUR} == {"n1", "n2"}
    assert {row.key[1] for row in energy(packed) if row.key[0] == other} == {"n8"}
    pack.write_bytes(whole)
    assert (merged(packed).hours, merged(packed).hours) == (1, 0)
    after = [row for row in energy(packed) if row.key[1] not in ("n8", "n9")]
    assert after == before
    assert {row.key[1] for row in energy(packed) if row.key[0] == maker.HOUR} == {"n1", "n2", "n9"}


def test_a_note_that_cannot_be_read_stops_no_other_day(packed: Path) -> None:
    (packed / FOLDER / "packed.json").write_text('{"hour=10": ')
    maker.write(packed, maker.node_hour(7), node="n9")
    other = maker.HOUR + timedelta(days=1)
    maker.write(packed, maker.node_hour(8, hour=other), hour=other, node="n8")
    outcome = merged(packed)
    ((path, why),) = outcome.failed
    assert (outcome.hours, path) == (1, str(packed / FOLDER / "packed.json"))
    assert "the note of what was packed cannot be read" in why
