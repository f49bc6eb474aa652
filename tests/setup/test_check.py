"""`hpccarbon setup --check`: what was set up is looked at, and each thing that does not hold is named."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpccarbon.setup.carry import Machine
from hpccarbon.setup.plan import Directory

CHECKOUT = Path(__file__).resolve().parent.parent.parent
ASKED = ("--cluster", "alpha", "--shared-dir", "/shared/carbon", "--zone", "DE")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def hpccarbon(*args: str, status: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpccarbon", "setup", *args],
        env=os.environ | {"SLURM_CONF": "/nonexistent/slurm.conf"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that setup has been through, as a node without units."""
    hpccarbon("--prefix", str(tmp_path), *ASKED, "--role", "node", "--no-systemd", "--apply", status=0)
    return tmp_path


def test_apply_says_of_each_thing_how_it_stands(tmp_path: Path) -> None:
    said = hpccarbon("--prefix", str(tmp_path), *ASKED, "--no-systemd", "--apply", status=0)
    assert "ok configuration: loads; cluster alpha" in said
    assert "?? account hpccarbon: not checked" in said
    assert "ok shell /etc/hpccarbon/prolog.sh: parses" in said
    assert "ok lines /etc/hpccarbon/slurm.conf.lines: 7 line(s) of Prolog, Epilog" in said
    assert "?? slurm.conf: not checked: slurmctld could not be asked" in said
    assert "-- program /opt/hpccarbon/bin/hpccarbon: not in the image yet" in said
    assert " things checked: 0 wrong, " in said


def test_check_needs_no_options_and_changes_nothing(image: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    said = hpccarbon("--prefix", str(image), "--check", status=0)
    assert "aggregate" not in said  # it was set up as a node
    assert "service" not in said
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == before


def test_where_nothing_is_set_up_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert "nothing is set up here" in hpccarbon("--prefix", str(tmp_path), "--check", status=1)
    assert "exclude each other" in hpccarbon("--check", "--apply", status=2)


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def do(image: Path) -> None:
        path = image / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return do


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda image: (image / "etc/hpccarbon").chmod(0o777), "!! directory /etc/hpccarbon: mode 0777"),
        (lambda image: (image / "shared/carbon").chmod(0o757), "!! directory /shared/carbon: mode 0757"),
        (lambda image: (image / "shared/carbon").chmod(0o550), "lacks 0200 of 0750"),
        (lambda image: (image / "shared/carbon").rmdir(), "!! directory /shared/carbon: missing"),
        (lambda image: (image / "etc/hpccarbon/hooks.env").chmod(0o664), "!! file /etc/hpccarbon/hooks.env: mode 0664"),
        (lambda image: (image / "etc/hpccarbon/prolog.sh").chmod(0o644), "lacks 0111 of 0755"),
        (lambda image: (image / "etc/hpccarbon/epilog.sh").unlink(), "!! file /etc/hpccarbon/epilog.sh: missing"),
        (lambda image: (image / "etc/hpccarbon/hpccarbon.toml").chmod(0o600), "lacks 0044 of 0644"),
        (replace("etc/hpccarbon/hooks.env", "HPCCARBON_START=yes", "if yes"), "!! shell /etc/hpccarbon/hooks.env: "),
        (
            replace("etc/hpccarbon/hooks.env", "HPCCARBON_RUN_DIR=/run/hpccarbon", 'HPCCARBON_RUN_DIR="/run/other"'),
            "!! hooks: write to /run/other, the daemon reads /run/hpccarbon",
        ),
        (replace("etc/hpccarbon/slurm.conf.lines", "Prolog=", "Prolog ="), "is no KEY=VALUE of slurm.conf"),
        (replace("etc/hpccarbon/slurm.conf.lines", "Alloc,Contain", "X11"), "PrologFlags does not hold what is wanted"),
        (replace("etc/hpccarbon/slurm.conf.lines", "Epilog=", "Prolog="), "Prolog stands twice"),
    ],
)
def test_what_does_not_hold_is_named_with_the_next_step(
    image: Path, damage: Callable[[Path], object], named: str
) -> None:
    damage(image)
    said = hpccarbon("--prefix", str(image), "--check", status=1)
    line = next(line for line in said.splitlines() if named in line)
    assert line.startswith("!! ")
    assert said.splitlines()[said.splitlines().index(line) + 1].startswith("     -> ")


def test_a_configuration_that_does_not_load_is_wrong_usage(image: Path) -> None:
    (image / "etc/hpccarbon/hpccarbon.toml").write_text("cluster = 7\n")
    assert "hpccarbon.toml" in hpccarbon("--prefix", str(image), "--check", status=2)


def test_a_hook_of_another_release_is_said_and_is_no_fault(image: Path) -> None:
    hook = image / "etc/hpccarbon/prolog.sh"
    hook.write_text(hook.read_text() + "# older\n")
    said = hpccarbon("--prefix", str(image), "--check", status=0)
    assert "-- file /etc/hpccarbon/prolog.sh: is not what this release brings" in said


def test_a_unit_that_was_lost_is_missed(tmp_path: Path) -> None:
    """The journal knows that there was one."""
    where = ("--prefix", str(tmp_path))
    hpccarbon(*where, *ASKED, "--role", "node", "--apply", status=0)
    (tmp_path / "etc/systemd/system/hpccarbon.service").unlink()
    assert "!! file /etc/systemd/system/hpccarbon.service: missing" in hpccarbon(*where, "--check", status=1)


def test_a_directory_of_ours_with_another_mode_is_mended_and_given_back(tmp_path: Path) -> None:
    machine, step = Machine(tmp_path), Directory("/etc/hpccarbon", 0o755, "")
    there = tmp_path / "etc/hpccarbon"
    there.mkdir(parents=True, mode=0o700)
    assert machine.apply([step]) == [(step, "changed")]
    assert (there.stat().st_mode & 0o7777, machine.state(step)) == (0o755, "same")
    there.chmod(0o711)
    machine.apply([step])
    assert [entry.kind for entry, gone in machine.undo() if gone] == ["rights"]
    assert there.stat().st_mode & 0o7777 == 0o700


def test_a_directory_of_the_sites_keeps_its_mode(tmp_path: Path) -> None:
    machine, step = Machine(tmp_path), Directory("/shared", 0o750, "", site=True)
    (tmp_path / "shared").mkdir(mode=0o700)
    assert machine.apply([step]) == [(step, "kept")]
    assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o700


@pytest.mark.root
@ROOT
def test_another_owner_is_no_same_directory(tmp_path: Path) -> None:
    machine, step = Machine(journal=tmp_path / "setup.json"), Directory(str(tmp_path / "ours"), 0o755, "")
    there = tmp_path / "ours"
    there.mkdir(mode=0o755)
    there.chmod(0o755)
    assert machine.state(step) == "same"
    os.chown(there, 65534, 65534)
    assert machine.state(step) == "changed"
    machine.apply([step])
    assert (there.stat().st_uid, there.stat().st_gid) == (0, 0)
    machine.undo()
    assert there.stat().st_uid == 65534


# What a machine has and an image has not: accounts, owners, a systemd that runs. /etc, /run and the shared directory
# are of a mount namespace, and end with it; systemctl is a script that notes what it was asked.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>/mnt/asked
case $1 in
is-enabled) if [ -e /mnt/disabled ]; then echo disabled; else echo enabled; fi ;;
is-active) if [ -e /mnt/failed ]; then echo failed; exit 3; else echo active; fi ;;
show) if [ -e /mnt/stale ]; then echo yes; else echo no; fi ;;
esac
"""
MACHINE = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/bin /mnt/shared
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mount -t tmpfs none /run
printf %s "$SYSTEMCTL" >/mnt/bin/systemctl
chmod 755 /mnt/bin/systemctl
export PATH=/mnt/bin:$PATH
set +e
"""


def on_a_machine(*lines: str) -> str:
    setup = shlex.join([sys.executable, "-m", "hpccarbon", "setup"])
    script = MACHINE + "\n".join(line.replace("SETUP", setup) for line in lines)
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        env=os.environ | {"SLURM_CONF": "/nonexistent/slurm.conf", "SYSTEMCTL": SYSTEMCTL, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    if "cannot mount" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("NO MOUNTS: a machine of its own cannot be made here")
    return done.stdout + done.stderr


FULL = (
    "SETUP --cluster alpha --shared-dir /mnt/shared/carbon --user hpccheck --zone DE --apply >/mnt/said; echo status $?"
)


@pytest.mark.root
@ROOT
def test_a_machine_without_systemd_is_checked_but_for_its_services() -> None:
    said = on_a_machine(FULL, "cat /mnt/said", "stat -c '%U %a' /mnt/shared/carbon")
    assert "status 0" in said
    assert "ok account hpccheck: uid " in said
    assert "ok directory /mnt/shared/carbon: mode 0750" in said
    assert "hpccheck 750" in said
    assert "?? service hpccarbon.service: not checked: systemd does not run here" in said
    assert "ok doctor: " in said or "!! doctor, " in said
    assert "runs, version " in said


@pytest.mark.root
@ROOT
def test_a_machine_with_systemd_is_asked_for_its_units() -> None:
    said = on_a_machine(
        "mkdir -p /run/systemd/system",
        FULL,
        "cat /mnt/said /mnt/asked",
        "touch /mnt/failed; SETUP --check >/mnt/said; echo status $?; grep -A1 '^!!' /mnt/said; rm /mnt/failed",
        "touch /mnt/disabled; SETUP --check | grep -A1 '^!!'; rm /mnt/disabled",
        "touch /mnt/stale; SETUP --check | grep -A1 '^!!'",
    )
    assert "enable --now hpccarbon.service" in said
    assert "ok service hpccarbon.service: enabled, active" in said
    assert "status 1" in said
    assert "!! service hpccarbon.service: enabled, failed\n     -> journalctl -u hpccarbon.service" in said
    assert (
        "!! service hpccarbon-aggregate.service: disabled, active\n     -> systemctl enable --now hpccarbon-agg" in said
    )
    assert "by an older unit file\n     -> systemctl daemon-reload" in said


@pytest.mark.root
@ROOT
def test_a_service_begins_anew_when_its_unit_was_replaced_and_only_then() -> None:
    said = on_a_machine(
        "mkdir -p /run/systemd/system",
        FULL,
        "mkdir -p /etc/systemd/system/multi-user.target.wants",
        "ln -s ../hpccarbon.service ../hpccarbon-aggregate.service /etc/systemd/system/multi-user.target.wants/",
        "echo '# edited' >>/etc/systemd/system/hpccarbon.service",
        "SETUP | grep -e '^[~=] service'",
        "rm /mnt/asked; SETUP --apply >/dev/null; echo status $?; grep -v -e ^is- -e ^show /mnt/asked",
        "rm /mnt/asked; SETUP --apply >/dev/null; echo again; grep -v -e ^is- -e ^show /mnt/asked",
    )
    assert "~ service   hpccarbon.service: to be restarted by its new file" in said
    assert "= service   hpccarbon-aggregate.service: as it should be" in said
    _before, _status, after = said.rpartition("status 0\n")
    assert after.split("again\n")[0] == "daemon-reload\ntry-restart hpccarbon.service\n"
    assert "restart" not in after.split("again\n")[1]


@pytest.mark.root
@ROOT
def test_what_went_wrong_on_a_machine_since_is_named() -> None:
    said = on_a_machine(
        FULL,
        "chown nobody: /mnt/shared/carbon /etc/hpccarbon/hooks.env",
        "sed -i s,^HPCCARBON_BIN=.*,HPCCARBON_BIN=/nowhere/hpccarbon, /etc/hpccarbon/hooks.env",
        "rm /etc/systemd/system/hpccarbon*.service",
        "SETUP --check; echo status $?",
        "userdel hpccheck; SETUP --check",
    )
    assert "status 1" in said
    assert "which is not hpccheck's\n     -> chown hpccheck: /mnt/shared/carbon" in said
    assert "which is not root's\n     -> chown root: /etc/hpccarbon/hooks.env" in said
    assert "!! program /nowhere/hpccarbon: does not run: No such file or directory" in said
    assert "!! account hpccheck: there is none" in said
    assert "owner not checked: there is no account hpccheck" in said
