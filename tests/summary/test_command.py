"""`hpccarbon summary` as an operator meets it: what it writes, says and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.summary.inside import run


def test_it_writes_four_files_and_names_budgets(site: Path, tmp_path: Path) -> None:
    done = run("summary", "--month", "2026-03", "-o", str(tmp_path / "new" / "folder"), "--config", str(site))
    assert done.status == 0
    names = [Path(line).name for line in done.out.splitlines()]
    assert names == [f"summary-2026-03.{kind}" for kind in ("html", "json", "csv", "parquet")]
    assert all(Path(line).stat().st_size > 1000 for line in done.out.splitlines())
    assert done.err == ("warning: budget physics: 93 % of 8 kWh used\nwarning: budget site: 127 % of 20 kWh used\n"), (
        "and nothing else: no progress where nobody watches"
    )


def test_an_empty_month_is_said_to_be_one(site: Path, tmp_path: Path) -> None:
    done = run("summary", "--month", "2024-01", "-f", "csv", "-o", str(tmp_path), "--config", str(site))
    assert (done.status, done.err) == (0, "warning: nothing was metered in 2024-01\n")


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("--month", "2026-13", "-o", "x"), 2, "is no month"),
        (("--month", "2190-01", "-o", "x"), 2, "has not begun yet"),
        ((), 2, "Missing option '-o'"),
        (("--month", "2026-03", "-o", "/proc/nowhere"), 1, "cannot make the directory /proc/nowhere"),
        (("--cluster", "nix", "-o", "/tmp"), 1, "holds nothing of cluster 'nix'; there are: alpha"),
    ],
)
def test_what_cannot_be_done_is_one_line(site: Path, args: tuple[str, ...], status: int, said: str) -> None:
    done = run("summary", *args, "--config", str(site))
    assert (done.status, done.out) == (status, "")
    assert said in done.err
    assert done.err.startswith("error: ")


def test_a_choice_that_is_missing_is_one_line_too() -> None:
    done = run("completion")
    assert done.err.count("\n") == 2
    assert "\\x0a" not in done.err


def test_now_is_for_jobs_and_needs_a_daemon(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = tmp_path / "now.toml"
    config.write_text(site.read_text().replace("[paths]", f'[paths]\nrun_dir = "{tmp_path}"'))
    said = run("now", "--config", str(config))
    assert (said.status, "outside of a job: name one with --job ID" in said.err) == (2, True)
    said = run("now", "--job", "7", "--config", str(config))
    assert (said.status, said.out) == (1, "")
    assert "no answer from the daemon" in said.err
