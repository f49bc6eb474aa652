"""`hpccarbon setup`: shows first, does it once, never overwrites what is the site's, and takes itself back."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon import config as configuration
from hpccarbon.cli import setup as cli
from hpccarbon.errors import HpcCarbonError
from hpccarbon.setup import slurmconf
from hpccarbon.setup.carry import Machine
from hpccarbon.setup.plan import File, Site, User, steps
from tests.lab.cluster import Lab

pytest_plugins = ("tests.lab.fixture",)

SITE = Site(role="both", cluster="alpha", shared_dir="/shared/carbon", zone="DE", pue=1.2, user="carbonuser")
SCRIPTS = Path(__file__).resolve().parent.parent.parent / "slurm_scripts"
CONF = """\
Configuration data as of 2026-11-23T10:00:00
ClusterName             = alpha
Epilog[0]               = /etc/hpccarbon/epilog.sh
Epilog[1]               = /site/epilog.sh
Prolog                  = /site/prolog.sh
PrologFlags             = X11
ProctrackType           = proctrack/cgroup
JobAcctGatherType       = jobacct_gather/linux
TaskPlugin              = task/affinity
AccountingStorageType   = (null)
"""


def hpccarbon(*args: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SLURM_CONF": "/nonexistent/slurm.conf"}
    return subprocess.run(
        [sys.executable, "-m", "hpccarbon", "setup", *args],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def files_below(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_without_apply_nothing_is_changed(tmp_path: Path) -> None:
    done = hpccarbon("--prefix", str(tmp_path), "--cluster", "alpha", "--shared-dir", "/shared/carbon", "--diff")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert '+cluster = "alpha"' in done.stdout
    assert "Nothing was changed" in done.stdout


def test_what_is_written_is_what_the_site_said(tmp_path: Path) -> None:
    asked = ("--prefix", str(tmp_path), "--cluster", "alpha", "--shared-dir", "/shared/carbon", "--zone", "DE")
    done = hpccarbon(*asked, "--pue", "1.2", "--user", "carbonuser", "--no-systemd", "--apply")
    assert done.returncode == 0, done.stderr
    config = configuration.load(tmp_path / "etc/hpccarbon/hpccarbon.toml")
    assert (config.cluster, config.paths.shared_dir, config.daemon.seal_user) == (
        "alpha",
        "/shared/carbon",
        "carbonuser",
    )
    assert (config.carbon.zone, config.carbon.pue, config.report.timezone) == ("DE", 1.2, "UTC")
    assert "\nHPCCARBON_START=yes\n" in (tmp_path / "etc/hpccarbon/hooks.env").read_text()
    assert (tmp_path / "etc/hpccarbon/prolog.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "shared/carbon").stat().st_mode & 0o777 == 0o750
    assert not (tmp_path / "etc/systemd").exists()


def test_a_unit_names_the_sites_program_directory_and_account() -> None:
    units = {step.path: step.text for step in steps(SITE, SCRIPTS, []) if isinstance(step, File)}
    daemon = units["/etc/systemd/system/hpccarbon.service"]
    assert "/opt/hpccarbon/bin/hpccarbon daemon" in daemon
    assert "/shared/carbon" in daemon
    assert "User=carbonuser" in units["/etc/systemd/system/hpccarbon-aggregate.service"]


@pytest.mark.parametrize(("role", "absent"), [("node", "hpccarbon-aggregate.service"), ("head", "prolog.sh")])
def test_a_role_gets_what_it_needs_alone(role: str, absent: str) -> None:
    site = Site(role=role, cluster="alpha", shared_dir="/shared/carbon")  # type: ignore[arg-type]
    paths = [step.path for step in steps(site, SCRIPTS, []) if isinstance(step, File)]
    assert paths
    assert not any(path.endswith(absent) for path in paths)


def plain(machine: Machine) -> list[str]:
    """Carry out the plan's files and directories; accounts and services are other tests'."""
    todo = [step for step in steps(SITE, SCRIPTS, []) if not isinstance(step, User) and hasattr(step, "path")]
    return [state for _step, state in machine.apply(todo)]


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    assert set(plain(Machine(tmp_path))) == {"new"}
    before = files_below(tmp_path)
    assert set(plain(Machine(tmp_path))) == {"same"}
    assert files_below(tmp_path) == before


def test_undo_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    hook = tmp_path / "etc/hpccarbon/prolog.sh"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\n# an older one\n")
    hook.chmod(0o700)
    before = files_below(tmp_path)
    assert "changed" in plain(Machine(tmp_path))
    plain(Machine(tmp_path))  # a second run must not take the first one's work for the site's
    assert all(gone for _entry, gone in Machine(tmp_path).undo())
    assert files_below(tmp_path) == before
    assert hook.stat().st_mode & 0o777 == 0o700
    with pytest.raises(HpcCarbonError, match="nothing to undo"):
        Machine(tmp_path).undo()


def test_what_was_edited_since_stays(tmp_path: Path) -> None:
    plain(Machine(tmp_path))
    config = tmp_path / "etc/hpccarbon/hpccarbon.toml"
    config.write_text(config.read_text() + "# ours\n")
    assert "kept" in plain(Machine(tmp_path))
    left = [entry.what for entry, gone in Machine(tmp_path).undo() if not gone]
    assert left == ["/etc/hpccarbon/hpccarbon.toml", "/etc/hpccarbon"]
    assert config.read_text().endswith("# ours\n")


def test_a_run_that_was_cut_short_can_be_undone(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd").mkdir(parents=True)
    (tmp_path / "etc/systemd/system").write_text("no directory\n")
    with pytest.raises(HpcCarbonError, match="undo"):
        plain(Machine(tmp_path))
    assert (tmp_path / "etc/hpccarbon/prolog.sh").exists()
    Machine(tmp_path).undo()
    assert not (tmp_path / "etc/hpccarbon").exists()


def test_the_lines_that_slurm_conf_lacks_hold_what_it_has() -> None:
    lines = {line.key: line.value for line in slurmconf.lacking(slurmconf.parse(CONF))}
    assert lines == {
        "Prolog": "/etc/hpccarbon/prolog.sh",
        "PrologFlags": "X11,Alloc,Contain",
        "JobAcctGatherType": "jobacct_gather/cgroup",
        "TaskPlugin": "task/affinity,task/cgroup",
        "AccountingStorageType": "accounting_storage/slurmdbd",
    }
    assert "# replaces Prolog=/site/prolog.sh\n" in slurmconf.fragment(slurmconf.lacking(slurmconf.parse(CONF)))


def test_a_slurm_conf_with_all_the_lines_lacks_none() -> None:
    everything = slurmconf.fragment(slurmconf.lacking({}))
    assert slurmconf.lacking(slurmconf.parse(everything)) == []


def test_hooks_in_a_directory_of_the_site_count() -> None:
    found = slurmconf.parse("Prolog = /etc/slurm/prolog.d/*\nEpilog = /etc/slurm/epilog.d/*\nPrologFlags = Contain\n")
    assert not {"Prolog", "Epilog", "PrologFlags"} & {line.key for line in slurmconf.lacking(found)}


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("--cluster", "alpha"), 2, "give --shared-dir"),
        (("--shared-dir", "/shared"), 2, "give --cluster"),
        (("--cluster", "alpha", "--shared-dir", "shared"), 2, "absolute"),
        (("--apply", "--undo"), 2, "exclude each other"),
        (("--undo",), 1, "nothing was set up here"),
        (("--cluster", "alpha", "--shared-dir", "/s", "--zone", "GERMANY"), 1, "GERMANY"),
    ],
)
def test_wrong_use_is_named(tmp_path: Path, args: tuple[str, ...], status: int, message: str) -> None:
    done = hpccarbon("--prefix", str(tmp_path), *args)
    assert done.returncode == status
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_taken_back_is_named_and_the_rest_can_be_tried_again(tmp_path: Path) -> None:
    asked = ("--prefix", str(tmp_path), "--cluster", "alpha", "--shared-dir", "/shared/carbon", "--zone", "DE")
    assert hpccarbon(*asked, "--apply").returncode == 0
    hook = tmp_path / "etc/hpccarbon/prolog.sh"
    kept = tmp_path / "etc/hpccarbon/hooks.env"
    kept.write_bytes(b"\xff edited")
    hook.unlink()
    hook.mkdir()
    failed = hpccarbon("--prefix", str(tmp_path), "--undo")
    assert failed.returncode == 1
    assert "cannot take back /etc/hpccarbon/prolog.sh: Is a directory" in failed.stderr
    hook.rmdir()
    assert hpccarbon("--prefix", str(tmp_path), "--undo").returncode == 0
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [kept.relative_to(tmp_path)]  # it was edited, be it with bytes that are no text


def test_an_image_is_given_the_program_that_lies_in_it(tmp_path: Path) -> None:
    asked = ("--prefix", str(tmp_path), "--cluster", "alpha", "--shared-dir", "/shared/carbon", "--diff")
    done = hpccarbon(*asked)
    assert "warning: the image has no /opt/hpccarbon/bin/hpccarbon yet" in done.stderr
    assert "ExecStart=/opt/hpccarbon/bin/hpccarbon daemon" in done.stdout
    assert sys.prefix not in done.stdout
    program = tmp_path / "usr/bin/hpccarbon"
    program.parent.mkdir(parents=True)
    program.touch()
    done = hpccarbon(*asked)
    assert done.stderr.count("warning: the image") == 0
    assert "ExecStart=/usr/bin/hpccarbon daemon" in done.stdout


def test_the_program_finds_its_scripts() -> None:
    assert (cli._scripts() / "prolog.sh").is_file()


@pytest.fixture
def account() -> Iterator[str]:
    name = f"hct{os.getpid()}"
    yield name
    subprocess.run(["userdel", name], capture_output=True, check=False)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_account_is_made_and_owns_the_shared_directory(tmp_path: Path, account: str) -> None:
    machine = Machine(journal=tmp_path / "setup.json")
    shared = tmp_path / "shared"
    site = Site(role="head", cluster="alpha", shared_dir=str(shared), user=account)
    todo = [
        step for step in steps(site, SCRIPTS, []) if isinstance(step, User) or getattr(step, "path", "") == str(shared)
    ]
    assert len(todo) == 2
    machine.apply(todo)
    entry = pwd.getpwnam(account)
    assert entry.pw_shell == "/usr/sbin/nologin"
    assert (shared.stat().st_uid, shared.stat().st_gid) == (entry.pw_uid, entry.pw_gid)
    assert {(entry.kind, gone) for entry, gone in machine.undo()} == {("user", False), ("directory", True)}


@pytest.mark.lab
def test_a_running_slurm_is_asked(lab: Lab) -> None:
    from hpccarbon.config import Slurm

    found = slurmconf.settings(Slurm(conf=str(lab.dir / "slurm.conf")))
    assert found["ProctrackType"] == ["proctrack/cgroup"]
    assert {line.key for line in slurmconf.lacking(found)} <= {"Prolog", "Epilog"}  # the lab's hooks lie elsewhere
