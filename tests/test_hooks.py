"""The Slurm hooks as real processes: what they write, and that nothing makes them fail, wait or speak."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "slurm_scripts"
KINDS = ("prolog", "epilog")
SHELLS = [shell for shell in ("dash", "bash") if any(Path(d, shell).exists() for d in ("/bin", "/usr/bin"))]
NOBODY = 65533
"""A uid without processes."""

JOB = {
    "SLURM_CLUSTER_NAME": "hclab",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_UID": "1001",
    "SLURM_JOB_USER": "hcalice",
    "SLURM_JOB_ACCOUNT": "physics",
    "SLURM_JOB_CPUS_PER_NODE": "8(x2),4",
    "SLURM_NODELIST": "n[1-3]",
    "SLURMD_NODENAME": "n2",
    "SLURM_JOB_RESTART_COUNT": "0",
    "SLURM_JOB_GPUS": "0,1",
}


class Site:
    """A run directory and a settings file below a test's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run" / "n2"
        self.jobs = self.run_dir / "jobs"
        self.jobs.mkdir(parents=True)
        self.settings = folder / "hooks.env"
        self.set()

    def set(self, **settings: str) -> None:
        lines = {"HPCCARBON_RUN_DIR": f"{self.folder}/run/%n", **settings}
        self.settings.write_text("".join(f"{key}='{value}'\n" for key, value in lines.items()))

    def call(
        self, kind: str, env: Mapping[str, str] | None = None, shell: str = "dash", **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a hook with just these variables, as slurmd does: no PATH."""
        variables = {"HPCCARBON_HOOKS_ENV": str(self.settings), **(JOB if env is None else env), **more}
        return subprocess.run(
            [f"/bin/{shell}", str(SCRIPTS / f"{kind}.sh")], env=variables, capture_output=True, timeout=10
        )

    def left(self) -> list[str]:
        return sorted(path.name for path in self.jobs.iterdir())

    def values(self, name: str) -> dict[str, str]:
        lines = (self.jobs / name).read_text().split("\n")
        assert lines[-2:] == ["END", ""]
        return dict(line.split("=", 1) for line in lines[:-2])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def silent(done: subprocess.CompletedProcess[bytes]) -> bool:
    return (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_leaves_what_slurmd_told_it(site: Site, kind: str, shell: str) -> None:
    before = time.time_ns()
    assert silent(site.call(kind, shell=shell))
    assert site.left() == [f"4711.0.{kind}"]
    assert site.values(f"4711.0.{kind}") == JOB
    status = (site.jobs / f"4711.0.{kind}").stat()
    assert status.st_mode & 0o777 == 0o600
    assert before - 20_000_000 <= status.st_mtime_ns <= time.time_ns()  # mtime has the resolution of a timer tick


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", ["x\nSLURM_JOB_USER=root", "x\nEND", "x\r", "\x1b[31m", "\x7f"])
def test_a_value_cannot_forge_a_line(site: Site, kind: str, shell: str, bad: str) -> None:
    assert silent(site.call(kind, shell=shell, SLURM_JOB_ACCOUNT=bad))
    expected = {key: value for key, value in JOB.items() if key != "SLURM_JOB_ACCOUNT"}
    assert site.values(f"4711.0.{kind}") == expected


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("value", ["$(touch /tmp/x) `id` ; & | > < *", "%s%n%d\\n\\0", "'\"", "-n", "Zürich", "a=b"])
def test_values_are_data_and_never_code(site: Site, shell: str, value: str) -> None:
    assert silent(site.call("prolog", shell=shell, SLURM_JOB_ACCOUNT=value))
    assert site.values("4711.0.prolog")["SLURM_JOB_ACCOUNT"] == value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("job", ["", "abc", "1/../../x", "1\n2", "-1", "9" * 19, "1 2"])
def test_a_job_id_that_is_no_number_does_nothing(site: Site, kind: str, job: str) -> None:
    assert silent(site.call(kind, SLURM_JOB_ID=job))
    assert site.left() == []


@pytest.mark.parametrize("node", ["../n2", "n2/../../etc", "..", "n2;id", "n 2"])
def test_a_node_name_stays_inside_the_path(site: Site, node: str) -> None:
    before = sorted(site.folder.rglob("*"))
    assert silent(site.call("prolog", SLURMD_NODENAME=node))
    assert sorted(site.folder.rglob("*")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_no_variables_at_all(site: Site, kind: str) -> None:
    assert silent(site.call(kind, env={}))
    assert site.left() == []


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_job_id(site: Site, kind: str) -> None:
    assert silent(site.call(kind, env={"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2"}))
    assert site.values(f"7.0.{kind}") == {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["-eu", "-f", "-C", "-a"])
def test_options_of_the_calling_shell_do_not_matter(site: Site, kind: str, option: str) -> None:
    done = subprocess.run(
        ["/bin/dash", option, str(SCRIPTS / f"{kind}.sh")],
        env={"HPCCARBON_HOOKS_ENV": str(site.settings), "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2"},
        capture_output=True,
    )
    assert silent(done)
    assert site.left() == [f"7.0.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_twice_keeps_the_first_and_counts_on(site: Site, kind: str) -> None:
    assert silent(site.call(kind))
    first = (site.jobs / f"4711.0.{kind}").read_bytes()
    for _ in range(12):
        assert silent(site.call(kind, SLURM_JOB_USER="other"))
    names = [f"4711.0.{kind}", *(f"4711.0.{again}.{kind}" for again in range(2, 10))]
    assert site.left() == sorted(names)
    assert (site.jobs / f"4711.0.{kind}").read_bytes() == first
    assert site.values(f"4711.0.2.{kind}")["SLURM_JOB_USER"] == "other"


@pytest.mark.parametrize("kind", KINDS)
def test_a_requeue_has_its_own_file(site: Site, kind: str) -> None:
    assert silent(site.call(kind))
    assert silent(site.call(kind, SLURM_JOB_RESTART_COUNT="1"))
    assert site.left() == [f"4711.0.{kind}", f"4711.1.{kind}"]


def test_an_epilog_told_of_the_next_run_belongs_to_this_one(site: Site) -> None:
    """As slurmd 22.05 calls them for a job that is requeued once: see test_lab."""
    for kind, restart in (("prolog", "0"), ("epilog", "1"), ("prolog", "1"), ("epilog", "1")):
        assert silent(site.call(kind, SLURM_JOB_RESTART_COUNT=restart))
    assert site.left() == [f"4711.{run}.{kind}" for run in (0, 1) for kind in ("epilog", "prolog")]
    assert site.values("4711.0.epilog")["SLURM_JOB_RESTART_COUNT"] == "1"  # what Slurm said stays as it was said


@pytest.mark.parametrize("restart", ["08", "-1", "1x", "99999999999", ""])
def test_a_restart_count_that_is_none(site: Site, restart: str) -> None:
    for kind in KINDS:
        assert silent(site.call(kind, SLURM_JOB_RESTART_COUNT=restart))
    assert len(site.left()) in (0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_directory_is_made_for_root_alone(site: Site, kind: str) -> None:
    site.set(HPCCARBON_RUN_DIR=f"{site.folder}/new/%n")
    assert silent(site.call(kind))
    directory = site.folder / "new" / "n2" / "jobs"
    assert [path.name for path in directory.iterdir()] == [f"4711.0.{kind}"]
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["/proc/nowhere", "/dev/null/x", "relative/dir", "", "/sys/kernel"])
def test_a_directory_that_cannot_be_written_to(site: Site, kind: str, where: str) -> None:
    site.set(HPCCARBON_RUN_DIR=where)
    assert silent(site.call(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_no_link_is_followed(site: Site, kind: str) -> None:
    victim = site.folder / "victim"
    victim.write_text("mine")
    (site.jobs / f"4711.0.{kind}").symlink_to(victim)
    (site.jobs / f"4711.0.2.{kind}").symlink_to(site.folder / "not-there")
    assert silent(site.call(kind))
    assert victim.read_text() == "mine"
    assert not (site.folder / "not-there").exists()
    assert site.values(f"4711.0.3.{kind}")["SLURM_JOB_ID"] == "4711"

    elsewhere = site.folder / "elsewhere"
    elsewhere.mkdir()
    site.jobs.rename(site.folder / "moved")
    site.jobs.symlink_to(elsewhere)
    assert silent(site.call(kind))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_in_the_way_does_not_make_it_wait(site: Site, kind: str) -> None:
    os.mkfifo(site.jobs / f"4711.0.{kind}")
    os.mkfifo(site.run_dir / "daemon.pid")
    site.set(HPCCARBON_START="yes", HPCCARBON_BIN="/bin/false")
    assert silent(site.call(kind))
    assert f"4711.0.2.{kind}" in site.left()


@pytest.mark.parametrize("kind", [*KINDS, "task_prolog"])
@pytest.mark.parametrize(
    "text", ["if then (", "set -eu\n", "exit 3\n", "false\nreturn 1\n", ")\n", "echo spoken\n", "${x?}\n"]
)
def test_settings_that_are_broken_cannot_fail_the_job(site: Site, kind: str, text: str) -> None:
    with site.settings.open("a") as file:
        file.write(text + "\n")
    assert silent(site.call(kind))


@pytest.mark.parametrize("kind", [*KINDS, "task_prolog"])
def test_settings_that_are_missing_or_no_file(site: Site, kind: str) -> None:
    for where in (site.folder, site.folder / "absent", "/dev/full"):
        assert silent(site.call(kind, HPCCARBON_HOOKS_ENV=str(where), HPCCARBON_USER_DIR=str(site.folder / "user")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("kind", [*KINDS, "task_prolog"])
def test_a_signal_ends_it_with_0(site: Site, kind: str, number: signal.Signals) -> None:
    with site.settings.open("a") as file:
        file.write("while :; do :; done\n")
    variables = {"HPCCARBON_HOOKS_ENV": str(site.settings), **JOB}
    # A shell cannot trap what was ignored when it began, and a suite in the background ignores SIGINT.
    argv = ["/usr/bin/env", "--default-signal", "/bin/dash", str(SCRIPTS / f"{kind}.sh")]
    child = subprocess.Popen(argv, env=variables)
    try:
        time.sleep(0.1)
        child.send_signal(number)
        assert child.wait(5) == 0
    finally:
        child.kill()


@pytest.fixture
def open_site() -> Iterator[Site]:
    """A site that other users can reach (pytest's own folders are closed to them) and that nobody owns."""
    folder = Path(tempfile.mkdtemp(prefix="hooks-"))
    site = Site(folder)
    folder.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    yield site
    shutil.rmtree(folder)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without processes")
@pytest.mark.parametrize("kind", KINDS)
def test_no_process_is_started_in_the_ordinary_case(open_site: Site, kind: str) -> None:
    script = open_site.folder / f"{kind}.sh"
    script.write_bytes((SCRIPTS / f"{kind}.sh").read_bytes())
    # With a limit of one process nothing but builtins works. The limit does not bind root.
    done = subprocess.run(
        ["/usr/bin/prlimit", "--nproc=1", "/bin/dash", str(script)],
        env={"HPCCARBON_HOOKS_ENV": str(open_site.settings), **JOB},
        user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, timeout=10,
    )  # fmt: skip
    assert silent(done)
    assert open_site.values(f"4711.0.{kind}") == JOB


# The daemon


@pytest.fixture
def daemon(site: Site) -> Iterator[Callable[[], list[dict[str, str]]]]:
    """A stand-in for the daemon's program: notes how it was called, writes its pid, stays. Its calls so far."""
    program = site.folder / "daemon-program"
    log = site.folder / "calls"
    program.write_text(
        "#!/bin/sh\n"
        f"read -r _ _ _ _ group session _ </proc/$$/stat\n"
        'fds=$(ls /proc/$$/fd | tr "\\n" ,)\n'
        f'echo "pid=$$|group=$group|session=$session|args=$*|job=${{SLURM_JOB_ID-none}}|fds=$fds" >>{log}\n'
        f"echo $$ >{site.run_dir}/daemon.pid\n"
        "exec 0</dev/null\nwhile :; do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    site.set(HPCCARBON_START="yes", HPCCARBON_BIN=str(program), HPCCARBON_CONFIG="/etc/some where/c.toml")

    def calls() -> list[dict[str, str]]:
        text = log.read_text() if log.exists() else ""
        return [dict(part.split("=", 1) for part in line.split("|")) for line in text.splitlines()]

    yield calls
    for call in calls():
        try:
            os.kill(int(call["pid"]), signal.SIGKILL)
        except ProcessLookupError:
            continue


def eventually(check: Callable[[], bool], timeout_s: float = 5) -> bool:
    end = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_dead_daemon_is_started_once_and_lets_go_of_the_prolog(
    site: Site, daemon: Callable[[], list[dict[str, str]]]
) -> None:
    done = site.call("prolog", SLURM_CONF="/etc/slurm/slurm.conf")
    assert silent(done)  # and capture_output saw the end of its pipes: the daemon does not hold them
    pid_file = site.run_dir / "daemon.pid"
    assert eventually(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
    for _ in range(3):
        assert silent(site.call("prolog"))
    time.sleep(0.2)
    (call,) = daemon()
    assert call["args"] == "daemon --config /etc/some where/c.toml --node n2"
    assert call["group"] == call["session"] == call["pid"]
    assert call["job"] == "none"
    assert set(call["fds"].strip(",").split(",")) <= {"0", "1", "2", "3", "10"}  # the stand-in's own script is 10
    assert (site.run_dir / "daemon.log").exists()


def test_the_daemon_survives_the_prologs_process_group(site: Site, daemon: Callable[[], list[dict[str, str]]]) -> None:
    for count in range(20):  # slurmd kills the group as soon as its prolog has ended: that must never hit the daemon
        (site.run_dir / "daemon.pid").unlink(missing_ok=True)
        child = subprocess.Popen(
            ["/bin/dash", str(SCRIPTS / "prolog.sh")],
            env={"HPCCARBON_HOOKS_ENV": str(site.settings), **JOB},
            start_new_session=True,
        )
        assert child.wait(5) == 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        assert eventually(lambda expected=count + 1: len(daemon()) == expected)  # type: ignore[misc]
        assert Path(f"/proc/{daemon()[-1]['pid']}").exists()


def test_no_daemon_is_started_unless_the_site_says_so(site: Site, daemon: Callable[[], list[dict[str, str]]]) -> None:
    text = site.settings.read_text()
    site.settings.write_text(text.replace("HPCCARBON_START='yes'", "HPCCARBON_START='no'"))
    assert silent(site.call("prolog"))
    site.settings.write_text(text)
    assert silent(site.call("epilog"))
    time.sleep(0.2)
    assert daemon() == []


@pytest.mark.parametrize("pid", ["", "abc", "999999999", "-1", "0x1", "{other}"])
def test_a_pid_file_of_the_dead_does_not_count(
    site: Site, daemon: Callable[[], list[dict[str, str]]], pid: str
) -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as other:  # a living process that got the pid of a dead daemon
        (site.run_dir / "daemon.pid").write_text(pid.format(other=other.pid) + "\n")
        assert silent(site.call("prolog"))
        assert eventually(lambda: len(daemon()) == 1)
        other.kill()


def test_a_program_that_cannot_be_started_is_no_harm(site: Site) -> None:
    for program in ("/nowhere/hpccarbon", "/bin/false", "/etc"):
        site.set(HPCCARBON_START="yes", HPCCARBON_BIN=program)
        assert silent(site.call("prolog"))
    assert len(site.left()) == 3


# The task prolog

TASK = {
    "SLURM_JOB_ID": "88",
    "SLURM_ARRAY_JOB_ID": "80",
    "SLURM_ARRAY_TASK_ID": "8",
    "SLURM_JOB_NAME": "a job; $(id)",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_CPUS_ON_NODE": "2",
}


def read_task(path: Path) -> dict[str, str]:
    lines = path.read_text().split("\n")
    assert lines[-2:] == ["END", ""]
    return dict(line.split("=", 1) for line in lines[:-2])


@pytest.mark.parametrize("shell", SHELLS)
def test_the_task_prolog_leaves_what_only_a_task_knows(site: Site, shell: str) -> None:
    user = site.folder / "user"
    assert silent(site.call("task_prolog", TASK, shell, HPCCARBON_USER_DIR=str(user)))
    expected = {key: value for key, value in TASK.items() if key != "SLURM_LOCALID"}
    assert read_task(user / "88.0.task") == {**expected, "SLURM_JOB_RESTART_COUNT": "0"}
    assert user.stat().st_mode & 0o777 == 0o700
    assert silent(site.call("task_prolog", TASK, shell, HPCCARBON_USER_DIR=str(user), SLURM_STEP_ID="1"))
    assert [path.name for path in user.iterdir()] == ["88.0.task"]  # the first step says it all


def test_its_directory_is_named_by_the_real_uid(site: Site) -> None:
    assert silent(site.call("task_prolog", TASK, XDG_RUNTIME_DIR=str(site.folder), SLURM_JOB_UID="0"))
    assert (site.folder / f"hpccarbon-{os.getuid()}" / "88.0.task").exists()


def test_one_task_per_node_writes(site: Site) -> None:
    assert silent(site.call("task_prolog", TASK, HPCCARBON_USER_DIR=str(site.folder / "user"), SLURM_LOCALID="3"))
    assert not (site.folder / "user").exists()


def test_srun_prolog_has_no_task_and_writes_too(site: Site) -> None:
    variables = {key: value for key, value in TASK.items() if key not in ("SLURM_LOCALID", "SLURM_PROCID")}
    assert silent(site.call("task_prolog", variables, HPCCARBON_USER_DIR=str(site.folder / "user")))
    assert (site.folder / "user" / "88.0.task").exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a directory of another user")
def test_a_directory_that_someone_else_made_is_left_alone(site: Site) -> None:
    foreign = site.folder / f"hpccarbon-{os.getuid()}"
    foreign.mkdir()
    os.chown(foreign, 65533, 65533)
    assert silent(site.call("task_prolog", TASK, XDG_RUNTIME_DIR=str(site.folder)))
    assert list(foreign.iterdir()) == []

    target = site.folder / "target"
    target.mkdir()
    foreign.rmdir()
    foreign.symlink_to(target)
    assert silent(site.call("task_prolog", TASK, XDG_RUNTIME_DIR=str(site.folder)))
    assert list(target.iterdir()) == []


def test_the_hooks_are_quick(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.run_dir / "daemon.pid").write_text(f"{os.getpid()}\n")
    medians = {}
    for kind in (*KINDS, "task_prolog"):
        times = []
        for number in range(40):
            start = time.perf_counter()
            site.call(kind, SLURM_JOB_ID=str(number + 1), HPCCARBON_USER_DIR=str(site.folder / "user"))
            times.append(time.perf_counter() - start)
        medians[kind] = statistics.median(times) * 1000
    with capsys.disabled():
        print("\nmedian ms, start of the process included:", {kind: round(ms, 2) for kind, ms in medians.items()})
    assert max(medians.values()) < 50  # the aim is 5 ms; a busy test machine is no reason to fail


def test_the_scripts_share_their_text() -> None:
    """Prolog and epilog stand alone, so that one can be copied without the other; what both do is the same text."""
    texts = [(SCRIPTS / f"{kind}.sh").read_text() for kind in KINDS]
    parts = [re.search(r"\nnode=\$.*?\n\tset \+C\n}\n", text, re.S) for text in texts]
    assert parts[0] is not None and parts[1] is not None
    assert parts[0].group() == parts[1].group()
