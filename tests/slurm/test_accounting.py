"""What sacct prints becomes job records, whatever users put into a name; what fails says why and what to do."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.config import Config, Paths, Slurm
from hpccarbon.errors import SlurmError
from hpccarbon.slurm import accounting
from hpccarbon.slurm.accounting import fetch, fetch_window, numbered, parse_sacct, parse_time_us
from hpccarbon.slurm.record import JobRecord

CAPTURED = Path(__file__).parent / "captured"
UTC = timezone.utc
SCRIPT = """#!/bin/sh
for word in "$@"; do case "$word" in --delimiter=*) delimiter=${word#--delimiter=} ;; esac; done
printf '%s\\n' "$*" "$TZ $SLURM_TIME_FORMAT $SLURM_CONF" >> "$0.log"
"""


def sacct(folder: Path, body: str) -> Config:
    """A configuration whose sacct is a script."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "sacct"
    script.write_text(SCRIPT + body)
    script.chmod(0o755)
    settings = Slurm(bin_dir=str(folder), timeout_s=5, accounting="sacct")
    return Config(slurm=settings, paths=Paths(shared_dir=str(folder / "shared")))


def printing(folder: Path, name: str) -> Config:
    return sacct(folder, f'sed "s/@@/$delimiter/g" {CAPTURED / name}\n')


def parsed(name: str) -> dict[tuple[int, int], JobRecord]:
    records = numbered(parse_sacct((CAPTURED / name).read_text(), "@@"))
    return {(record.job_id, record.restart): record for record in records}


def test_what_slurm_22_05_printed() -> None:
    jobs = parsed("debian12-22.05.8.txt")
    assert jobs[1, 0] == JobRecord(
        job_id=1,
        name="a|b`; rm",
        user="hcalice",
        uid=1001,
        account="physics",
        partition="batch",
        qos="normal",
        state="COMPLETED",
        exit_code="0:0",
        submit=datetime(2026, 11, 23, 22, 10, 0, tzinfo=UTC),
        start=datetime(2026, 11, 23, 22, 10, 1, tzinfo=UTC),
        end=datetime(2026, 11, 23, 22, 10, 2, tzinfo=UTC),
        elapsed_s=1,
        alloc_nodes=1,
        alloc_cores=2,
        alloc_tres="billing=2,cpu=2,mem=1000M,node=1",
        total_cpu_us=5000,
        nodelist="y1",
    )
    assert jobs[5, 0].name == "x\ny\x1fz\tü"
    assert [(jobs[job, 0].array_job_id, jobs[job, 0].array_task_id) for job in (2, 7, 8)] == [(2, 3), (2, 1), (2, 2)]
    assert [(jobs[job, 0].het_job_id, jobs[job, 0].het_offset) for job in (3, 4)] == [(3, 0), (3, 1)]
    assert (jobs[6, 0].state, jobs[6, 1].state) == ("REQUEUED", "COMPLETED")
    assert jobs[6, 0].end == jobs[6, 1].submit
    assert (jobs[10, 0].state, jobs[10, 0].end, jobs[10, 0].consumed_energy_j) == ("RUNNING", None, None)


@pytest.mark.parametrize("name", ["debian13-24.11.5.txt", "debian-sid-26.05.5.txt"])
def test_what_newer_releases_printed(name: str) -> None:
    jobs = parsed(name)
    assert (jobs[1, 0].name, jobs[3, 0].name) == ("a|b`; rm", "x\ny\x1fz\tü")
    assert [(jobs[job, 0].array_job_id, jobs[job, 0].array_task_id) for job in (2, 6, 7)] == [(2, 3), (2, 1), (2, 2)]
    assert (jobs[4, 0].state, jobs[4, 0].exit_code) == ("FAILED", "3:0")
    assert (jobs[5, 0].state, jobs[8, 0].state) == ("REQUEUED", "CANCELLED")
    assert (jobs[9, 0].state, jobs[9, 0].end, jobs[9, 0].nodelist) == ("RUNNING", None, "c2")
    assert all(job.start and job.submit and job.user and job.alloc_cores and job.alloc_tres for job in jobs.values())
    assert jobs[1, 0].total_cpu_us is not None


def test_what_the_manual_says() -> None:
    jobs = parsed("constructed.txt")
    waiting = {key: jobs.pop(key) for key in sorted(jobs) if jobs[key].start is None}
    assert [(job, one.state, one.array_job_id) for (job, _), one in waiting.items()] == [
        (201, "CANCELLED", None),
        (202, "PENDING", 202),
    ]
    assert sorted(jobs) == [(200, 0), (203, 0)]  # no steps
    long = jobs[200, 0]
    assert (long.state, long.exit_code, long.consumed_energy_j) == ("CANCELLED", "0:15", 123456)
    assert long.submit == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert long.total_cpu_us == ((28 * 24 + 10) * 3600 + 17 * 60 + 36) * 1_000_000
    assert (jobs[203, 0].consumed_energy_j, jobs[203, 0].qos, jobs[203, 0].name) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("00:00:00", 0),
        ("00:00.005", 5_000),
        ("01:02", 62_000_000),
        ("1-00:00:00", 86_400_000_000),
        ("123:45:01.123456", (123 * 3600 + 45 * 60 + 1) * 1_000_000 + 123_456),
        ("2-03", 51 * 3_600_000_000),
        ("", None),
        ("INVALID", None),
    ],
)
def test_cpu_times(text: str, us: int | None) -> None:
    assert parse_time_us(text) == us


@given(st.integers(0, 10**15).map(lambda ms: ms * 1000))
def test_cpu_times_survive_being_printed(us: int) -> None:
    seconds, rest = divmod(us, 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest // 1000:03d}"
    assert parse_time_us(f"{days}-{text}" if days else text) == us


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_job_name_comes_through(name: str) -> None:
    delimiter = "\x1f0123456789abcdef\x1f"
    rows = [["7", "7", *[""] * 9, "", *[""] * 7, name], ["8", "8", *[""] * 9, "", *[""] * 7, name]]
    for row in rows:
        row[accounting.FIELDS.index("Start")] = "1795471800"
    text = "".join(delimiter.join(row) + delimiter + "\n" for row in rows)
    assert [record.name for record in parse_sacct(text, delimiter)] == [name or None] * 2


@given(st.text(alphabet="|0123456789ab-:\n", max_size=200))
def test_any_answer_is_records_or_a_slurm_error(text: str) -> None:
    try:
        parse_sacct(text, "|")
    except SlurmError:
        return


def test_fetch_asks_once_for_many_and_in_utc(tmp_path: Path) -> None:
    config = printing(tmp_path, "debian12-22.05.8.txt")
    assert [record.restart for record in fetch(config, [6, 6, 5]) if record.job_id == 6] == [0, 1]
    asked, environment = (tmp_path / "sacct.log").read_text().splitlines()[:2]
    assert "--jobs=5,6" in asked
    assert "--duplicates" in asked
    assert environment.startswith("UTC %s")
    assert fetch(config, []) == []


def test_a_window_is_asked_for_day_by_day(tmp_path: Path) -> None:
    config = printing(tmp_path, "constructed.txt")
    since = datetime(2026, 3, 1, 10, 30, tzinfo=timezone(timedelta(hours=1)))
    answers = list(fetch_window(config, since, since + timedelta(hours=30)))
    assert [len(answer) for answer in answers] == [2, 2]
    log = (tmp_path / "sacct.log").read_text()
    assert "--starttime=2026-03-01T09:30:00 --endtime=2026-03-02T09:30:00" in log
    assert "--starttime=2026-03-02T09:30:00 --endtime=2026-03-02T15:30:00" in log


def test_a_users_shell_does_not_change_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLURM_TIME_FORMAT", "standard"), ("SLURM_CLUSTERS", "other"), ("SLURM_CONF", "/etc/passwd")):
        monkeypatch.setenv(name, value)
    config = sacct(tmp_path, 'env | grep -c SLURM_CLUSTERS >> "$0.log"; true\n')
    assert fetch(config, [1]) == []
    assert (tmp_path / "sacct.log").read_text().splitlines()[1:] == ["UTC %s /etc/passwd", "0"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1",
            "sacct: error: Problem talking to the database: Connection refused (is slurmdbd up?",
        ),
        ("echo 'Slurm accounting storage is disabled' >&2; exit 1", "keeps no accounting"),
        ("exit 3", "sacct: exit status 3"),
        ("echo 'JobID|what'", "has not the fields"),
        ('printf "x$delimiter%.0s" $(seq 20)', "row of job 'x'"),
    ],
)
def test_what_fails_says_why(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(SlurmError) as failure:
        fetch(sacct(tmp_path, body + "\n"), [1])
    assert said in str(failure.value)


def test_a_command_that_hangs_is_given_up(tmp_path: Path) -> None:
    slow = Config(slurm=Slurm(bin_dir=str(tmp_path), timeout_s=0.3, accounting="sacct"))
    sacct(tmp_path, "exec sleep 60\n")
    start = time.monotonic()
    with pytest.raises(SlurmError, match=r"no answer within 0.3 s"):
        fetch(slow, [1])
    assert time.monotonic() - start < 5


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    config = Config(slurm=Slurm(conf=str(tmp_path / "slurm.conf"), accounting="sacct"))
    with pytest.raises(SlurmError, match="no such file"):
        fetch(config, [1])


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accounting.source(Config()) is None
    assert fetch(Config(), [1]) == []
    assert fetch(Config(slurm=Slurm(accounting="none")), [1]) == []
    with pytest.raises(SlurmError, match="not found in PATH"):
        fetch(Config(slurm=Slurm(accounting="sacct")), [1])
    if not os.environ.get("HPCCARBON_HAS_PYSLURM"):
        with pytest.raises(SlurmError, match=r"pyslurm: .*install hpccarbon\[pyslurm\]"):
            fetch(Config(slurm=Slurm(accounting="pyslurm")), [1])
