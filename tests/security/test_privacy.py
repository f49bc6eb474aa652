"""With `privacy = "own"` the kernel keeps every user to the user's own energy: tried by two real users."""

from __future__ import annotations

import grp
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpccarbon import config as configuration
from hpccarbon.cli.aggregate import command as aggregate
from hpccarbon.errors import HpcCarbonError, ShardError
from hpccarbon.site import extracts, jobs, observe
from hpccarbon.site.engine import connect
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.slurm.record import JobRecord
from tests import refused
from tests.security.accounts import ALICE, BOB, NOBODY_SPECIAL, hpccarbon, open_place, python
from tests.site import maker

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users"),
]
HOUR = maker.HOUR
JOBS = {ALICE: 5001, BOB: 5002}


def record(uid: int, job_id: int) -> JobRecord:
    return JobRecord(
        job_id=job_id,
        restart=0,
        name=f"job of {uid}",
        user=f"user{uid}",
        uid=uid,
        account="acct",
        partition="batch",
        state="COMPLETED",
        exit_code="0:0",
        submit=HOUR - timedelta(minutes=5),
        start=HOUR,
        end=HOUR + timedelta(minutes=3),
        elapsed_s=180,
        alloc_nodes=1,
        alloc_cores=4,
        nodelist="n1",
    )


@pytest.fixture
def shared() -> Iterator[Path]:
    """A shared directory with a job of Alice's, one of Bob's, and one of Alice's whose hook did not tell the uid."""
    with open_place() as place:
        yield _filled(place / "shared")


def _filled(shared: Path) -> Path:
    shared.mkdir(mode=0o755)
    rows = []
    for minute in range(3):
        bucket = HOUR + timedelta(minutes=minute)
        shares = [
            maker.job_row(bucket, JOBS[uid], uid=uid, user=f"user{uid}", account="acct", cpu_uj=uid * 1000)
            for uid in (ALICE, BOB)
        ]
        shares += [maker.job_row(bucket, 5003, cpu_uj=7), maker.row(bucket, "system", cpu_uj=11)]
        rows += shares + maker.meter_rows(shares)
    maker.write(shared, rows)
    with closing(connect(1)) as con:
        jobs.merge(con, shared, "alpha", [record(ALICE, 5001), record(BOB, 5002), record(ALICE, 5003)])
    (shared / "intensity").mkdir()
    return shared


def config_of(shared: Path, **keys: str) -> Path:
    path = shared.parent / "hpccarbon.toml"
    lines = "".join(f'{key} = "{value}"\n' for key, value in ({"privacy": "own"} | keys).items())
    path.write_text(f'cluster = "alpha"\n{lines}[paths]\nshared_dir = "{shared}"\n[slurm]\naccounting = "none"\n')
    path.chmod(0o644)
    return path


def run(path: Path) -> Result:
    result = CliRunner().invoke(aggregate, ["--config", str(path), "--no-accounting"])
    assert result.exit_code == 0, result.output
    return result


def report(path: Path, uid: int, *words: str) -> dict[str, object]:
    done = hpccarbon(uid, "report", "--config", str(path), "--format", "json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


SINCE = ("--since", "2026-03-01", "--until", "2026-03-02")


def test_each_user_reads_the_own_habits_and_no_other(shared: Path) -> None:
    """What a submission's estimate stands on; what was open to all before the site chose so is gone."""
    path = config_of(shared)
    config = configuration.load(path)
    before = shared / "habits" / "alpha" / f"{ALICE}.json"
    before.parent.mkdir(parents=True)
    before.write_text("{}")
    with closing(Ledger(shared, "alpha")) as ledger:
        assert observe.update(config, ledger, HOUR + timedelta(days=1)) == 2
    assert not before.exists()
    code = "import sys\nprint(open(sys.argv[1]).read())"
    for uid, other in ((ALICE, BOB), (BOB, ALICE)):
        mine, theirs = (shared / "extracts" / "alpha" / str(one) / "habits.json" for one in (uid, other))
        told = json.loads(python(uid, code, str(mine)).stdout)
        assert [job[0] for job in told["jobs"]] == [f"job of {uid}"] * (2 if uid == ALICE else 1)
        refused = python(uid, code, str(theirs))
        assert "PermissionError" in refused.stderr
        assert refused.stdout == ""


def test_each_user_reads_the_own_jobs_and_no_other(shared: Path) -> None:
    path = config_of(shared)
    run(path)
    for uid, other in ((ALICE, BOB), (BOB, ALICE)):
        mine = report(path, uid, "--by", "user,job", *SINCE)
        rows = mine["rows"]
        assert isinstance(rows, list)
        told = {row["key"][1]: row["figures"]["energy_uj"] for row in rows if row["holder"] == "job"}
        assert told == {str(JOBS[uid]): 3 * uid * 1000} | ({"5003": 21} if uid == ALICE else {})
        both = hpccarbon(uid, "report", "--config", str(path), "-f", "json", "--job", f"{JOBS[uid]},{JOBS[other]}")
        assert both.returncode == 1
        jobs = json.loads(both.stdout)["jobs"]
        assert [(job["name"], job["state"]) for job in jobs] == [(f"job of {uid}", "COMPLETED")]
        assert f"user{other}" not in both.stdout + both.stderr
        assert f"job of {other}" not in both.stdout + both.stderr


def test_each_user_is_told_of_the_own_jobs_that_no_daemon_saw_and_of_no_other(shared: Path) -> None:
    path = config_of(shared)
    with closing(connect(1)) as con:
        jobs.merge(con, shared, "alpha", [record(ALICE, 6001), record(BOB, 6002), record(NOBODY_SPECIAL, 6003)])
    run(path)
    for uid, own in ((ALICE, "6001"), (BOB, "6002"), (NOBODY_SPECIAL, "6003")):
        told = report(path, uid, "--by", "job", *SINCE)
        rows = told["rows"]
        assert isinstance(rows, list)
        unseen = {row["key"][0]: row["figures"] for row in rows if row["figures"]["energy_uj"] is None}
        assert {job: (one["covered_percent"], one["node_hours"]) for job, one in unseen.items()} == {own: (0.0, 0.0)}


def test_advice_is_about_the_own_jobs_and_the_clusters_replay_is_refused(shared: Path) -> None:
    path = config_of(shared)
    run(path)
    asked = ("advise", "--config", str(path), *SINCE)
    told = hpccarbon(ALICE, *asked, "--account", "acct", "-f", "json")
    assert told.returncode == 0 and json.loads(told.stdout)["jobs"] == 1, told.stderr
    assert json.loads(hpccarbon(ALICE, *asked, "--user", f"user{BOB}", "-f", "json").stdout)["jobs"] == 0
    refused = hpccarbon(ALICE, *asked, "--capacity")
    assert refused.returncode == 1 and "your own alone" in refused.stderr and refused.stdout == ""


def test_nobody_lists_or_opens_what_is_not_their_own(shared: Path) -> None:
    run(config_of(shared))
    room = shared / "extracts" / "alpha"
    hidden = [room, room.parent, room / str(BOB), room / ".new", *(shared / name for name in extracts.PRIVATE_ROOMS)]
    probe = "import os, sys\nfor path in sys.argv[1:]:\n try:\n  print(os.listdir(path))\n except OSError:\n  pass\n"
    assert python(ALICE, probe, *map(str, hidden)).stdout == ""
    files = [path for path in shared.rglob("*") if path.is_file() and str(ALICE) not in path.parts]
    assert len(files) >= 6
    openers = "import sys\nfor path in sys.argv[1:]:\n try:\n  open(path); print(path)\n except OSError:\n  pass\n"
    assert python(ALICE, openers, *map(str, files)).stdout == ""
    mine = room / str(ALICE)
    assert [(stat.S_IMODE(p.stat().st_mode), p.stat().st_uid) for p in (mine, *mine.iterdir())] == [
        (0o700, ALICE),
        (0o400, ALICE),
        (0o400, ALICE),
    ]


def test_the_admin_group_reads_everything(shared: Path) -> None:
    group = grp.getgrnam("daemon")
    path = config_of(shared, admin_group=group.gr_name)
    run(path)
    done = hpccarbon(
        ALICE, "report", "--config", str(path), "--format", "json", "--by", "user", *SINCE, groups=(group.gr_gid,)
    )
    assert done.returncode == 0, done.stderr
    users = {row["key"][0] for row in json.loads(done.stdout)["rows"] if row["key"]}
    assert {f"user{ALICE}", f"user{BOB}"} <= users


def test_who_has_no_extract_is_told_so(shared: Path) -> None:
    path = config_of(shared)
    run(path)
    refused = hpccarbon(NOBODY_SPECIAL, "report", "--config", str(path), *SINCE)
    assert refused.returncode == 1
    assert "nothing of your own has been written yet" in refused.stderr


def test_only_months_with_news_are_written(shared: Path) -> None:
    path = config_of(shared)
    run(path)
    config = configuration.load(path)
    now = datetime.now(timezone.utc)
    assert extracts.update(config, now) == 0
    maker.write(shared, maker.node_hour(3, job_ids=(9,), minutes=range(2)), node="n2")
    run(path)
    assert (shared / "extracts" / "alpha" / str(1000 + 9 % 7)).is_dir()
    maker.write(shared, maker.node_hour(4, job_ids=(9,), minutes=range(2)), node="n3")
    assert extracts.update(config, now, every_s=3600) == 0


def test_a_user_cannot_make_the_writer_touch_a_file_of_somebody_else(shared: Path, tmp_path: Path) -> None:
    path = config_of(shared)
    run(path)
    victim = tmp_path / "victim"
    victim.write_text("root's own")
    victim.chmod(0o600)
    mine = shared / "extracts" / "alpha" / str(ALICE)
    for name in ("ledger.2026-03.parquet", "jobs.2026-03.parquet"):
        (mine / name).unlink()
        (mine / name).symlink_to(victim)
    maker.write(shared, maker.node_hour(3, minutes=range(2)), node="n2")
    run(path)
    assert (victim.read_text(), victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == ("root's own", 0, 0o600)
    assert not (mine / "ledger.2026-03.parquet").is_symlink()


def test_a_link_in_the_place_of_a_users_directory_is_refused(shared: Path, tmp_path: Path) -> None:
    path = config_of(shared)
    run(path)
    home = shared / "extracts" / "alpha" / str(ALICE)
    home.rename(home.with_name("away"))
    home.symlink_to(tmp_path)
    maker.write(shared, maker.node_hour(3, minutes=range(2)), node="n2")
    result = CliRunner().invoke(aggregate, ["--config", str(path), "--no-accounting"])
    assert result.exit_code == 1 and isinstance(result.exception, HpcCarbonError)
    assert not (tmp_path / "ledger.2026-03.parquet").exists()


def test_the_rooms_are_closed_before_anything_is_written(shared: Path) -> None:
    (shared / "ledger").mkdir(mode=0o755)
    run(config_of(shared))
    for name in extracts.PRIVATE_ROOMS:
        assert stat.S_IMODE((shared / name).stat().st_mode) == 0o2750


def test_an_admin_group_that_is_not_there_is_named(shared: Path) -> None:
    result = CliRunner().invoke(aggregate, ["--config", str(config_of(shared, admin_group="no-such-group"))])
    assert result.exit_code == 1
    assert "no group 'no-such-group'" in str(result.exception)


def test_hostile_uids_get_nothing(shared: Path) -> None:
    bucket = HOUR
    shares = [maker.job_row(bucket, 1, uid=2**40, cpu_uj=5), maker.job_row(bucket, 2, uid=2**32 - 1, cpu_uj=5)]
    maker.write(shared, shares + maker.meter_rows(shares), node="n9")
    run(config_of(shared))
    names = {path.name for path in (shared / "extracts" / "alpha").iterdir()}
    assert names == {str(ALICE), str(BOB), ".new", ".made.json"}


# ---- what stands in the writer's way ---------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    result = CliRunner().invoke(aggregate, ["--config", str(path), "--no-accounting"])
    assert result.exit_code == 1 and isinstance(result.exception, HpcCarbonError)
    return str(result.exception)


def test_rooms_that_cannot_be_closed_stay_empty(shared: Path) -> None:
    argv = [sys.executable, "-m", "hpccarbon", "aggregate", "--config", str(config_of(shared)), "--no-accounting"]
    done = refused.run(argv, "fchmod", "EPERM")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: cannot close {shared}/shards to others: Operation not permitted (as root: chgrp" in done.stderr
    assert not (shared / "ledger").exists() and not (shared / "extracts").exists()


def test_a_file_system_on_which_nothing_can_be_given_away_is_named(shared: Path) -> None:
    path = config_of(shared)
    argv = [sys.executable, "-m", "hpccarbon", "aggregate", "--config", str(path), "--no-accounting"]
    done = refused.run(argv, "fchown", "EPERM", when="4+")  # the first three close the rooms
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert 'Operation not permitted (privacy = "own" needs the right to give files away' in done.stderr
    assert not (shared / "extracts" / "alpha" / str(ALICE)).exists()
    run(path)
    assert report(path, ALICE, "--by", "user", *SINCE)["rows"]


def test_nothing_is_written_into_a_room_of_somebody_else(shared: Path) -> None:
    path = config_of(shared)
    (shared / "extracts" / "alpha").mkdir(parents=True)
    os.chown(shared / "extracts" / "alpha", ALICE, -1)
    assert "does not belong to this user: whoever owns it could read every extract" in refusal(path)
    assert list((shared / "extracts" / "alpha").iterdir()) == []
    os.chown(shared / "extracts" / "alpha", 0, -1)
    run(path)
    home = shared / "extracts" / "alpha" / str(ALICE)
    os.chown(home, BOB, -1)
    maker.write(shared, maker.node_hour(3, minutes=range(2)), node="n2")
    assert f"{home} does not belong to uid {ALICE}: remove it" in refusal(path)


def test_what_was_made_is_made_anew_when_nobody_remembers_it(shared: Path) -> None:
    path = config_of(shared)
    run(path)
    config, now = configuration.load(path), datetime.now(timezone.utc)
    (shared / "extracts" / "alpha" / ".made.json").write_text("{")
    assert extracts.update(config, now) == 4, "two users' ledgers and records"
    assert extracts.update(config, now) == 0


def test_a_site_without_records_has_extracts_all_the_same(shared: Path) -> None:
    shutil.rmtree(shared / "jobs")
    path = config_of(shared)
    run(path)
    assert [one.name for one in (shared / "extracts" / "alpha" / str(ALICE)).iterdir()] == ["ledger.2026-03.parquet"]
    assert report(path, ALICE, "--by", "user", *SINCE)["rows"]


def test_what_no_user_can_be_is_given_nothing(shared: Path) -> None:
    config = configuration.load(config_of(shared))
    extracts.give(config, {ALICE: b"hers", -1: b"x", 2**32 - 1: b"x", 2**40: b"x"}, "note.json")
    room = shared / "extracts" / "alpha"
    assert {one.name for one in room.iterdir()} == {str(ALICE), ".new"}
    assert (room / str(ALICE) / "note.json").read_bytes() == b"hers"
    assert (room / str(ALICE) / "note.json").stat().st_uid == ALICE


def test_an_own_file_that_is_damaged_is_named_and_the_other_months_are_read(shared: Path) -> None:
    later = HOUR + timedelta(days=31)
    shares = [maker.job_row(later, 5004, uid=ALICE, cpu_uj=9)]
    maker.write(shared, shares + maker.meter_rows(shares), hour=later)
    run(config_of(shared))
    home = shared / "extracts" / "alpha" / str(ALICE)
    march = home / "ledger.2026-03.parquet"
    march.write_bytes(march.read_bytes()[:-40])
    with closing(extracts.OwnLedger(shared, "alpha", ALICE)) as ledger:
        assert [row.key for row in ledger.energy(Selection(), ("job_id",))] == [(5004,)]
        assert [fault.path for fault in ledger.faults] == [str(march)]
        assert ledger.energy(Selection(), ("bucket",)) == [], "of minutes an extract knows nothing"
    assert extracts.OwnLedger(shared, "alpha", NOBODY_SPECIAL).job_files() == []
    (shared / "extracts" / "alpha" / str(NOBODY_SPECIAL)).touch()
    with pytest.raises(ShardError, match=r"Not a directory \(it should be yours: ask whoever runs hpccarbon\)"):
        extracts.OwnLedger(shared, "alpha", NOBODY_SPECIAL).job_files()


def test_a_damaged_file_of_records_leaves_the_old_extracts(shared: Path) -> None:
    path = config_of(shared)
    run(path)
    mine = shared / "extracts" / "alpha" / str(ALICE) / "ledger.2026-03.parquet"
    before = mine.read_bytes()
    records = shared / "jobs" / "alpha" / "month=2026-03.parquet"
    records.write_bytes(records.read_bytes()[:-40])
    assert "cannot use" in refusal(path)
    assert mine.read_bytes() == before
