"""`hpccarbon sbatch` beside plain sbatch on a real cluster: one job by `scontrol show job`, or the same refusal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hpccarbon.slurm.options import ALONE, WITH_VALUE
from tests.lab import Lab
from tests.lab.cluster import CHECKOUT

pytestmark = pytest.mark.lab
pytest_plugins = ("tests.lab.fixture",)

TOGETHER: tuple[dict[str, str], ...] = (
    {"job-name": "a 'b' \"c\" $d", "comment": "-n 4 --green", "nodes": "1-2", "ntasks": "2", "cpus-per-task": "1"},
    {"ntasks-per-node": "1", "mem": "10M", "tmp": "1", "mincpus": "1", "contiguous": "", "overcommit": "", "nice": "5"},
    {"time": "1-0:30", "time-min": "10", "signal": "B:USR1@60", "begin": "now+1hour", "open-mode": "append"},
    {"deadline": "now+9days", "time": "10", "delay-boot": "3", "profile": "none", "propagate": "NOFILE"},
    {"error": "e-%j", "output": "o-%j", "input": "/dev/null", "chdir": "/tmp", "export": "A=1,B=two words"},
    {"mail-type": "END,FAIL", "mail-user": "nobody@example.org", "account": "physics", "wckey": "w", "quiet": ""},
    {"exclusive": "user", "cpu-freq": "high", "core-spec": "0", "distribution": "block:cyclic", "use-min-nodes": ""},
    {"mem-per-cpu": "5M", "threads-per-core": "1", "hint": "nomultithread", "verbose": "", "no-requeue": ""},
    {"sockets-per-node": "1", "cores-per-socket": "1", "extra-node-info": "1:1:1", "requeue": "", "no-kill": ""},
    {"ntasks-per-core": "1", "ntasks-per-socket": "1", "oversubscribe": "", "mem-bind": "none"},
    {"array": "0-3%2", "spread-job": "", "switches": "1@5:00", "ignore-pbs": "", "get-user-env": ""},
    {"dependency": "afterany:1", "priority": "7", "qos": "normal", "gid": "0", "uid": "0", "wait-all-nodes": "1"},
    {"partition": "batch", "network": "x", "clusters": "hclab"},
)
"""Options that one job can have at the same time, with values that Slurm takes."""
ALONE_ONES: tuple[dict[str, str], ...] = tuple(
    {name: value}
    for name, value in {
        "acctg-freq": "task=30", "batch": "x", "extra": "x=1", "bb": "capacity=1G",
        "bbf": "/nowhere", "cluster-constraint": "x", "constraint": "big",
        "container": "/nowhere", "cpus-per-gpu": "2", "export-file": "/nowhere", "gpu-bind": "closest",
        "gpu-freq": "high", "gpus": "1", "gpus-per-node": "1", "gpus-per-socket": "1", "gpus-per-task": "1",
        "gres": "gpu:1", "gres-flags": "enforce-binding", "licenses": "matlab:2", "mcs-label": "x",
        "mem-per-gpu": "1G", "nodefile": "/nowhere", "ntasks-per-gpu": "1", "power": "level",
        "prefer": "x", "reservation": "none", "thread-spec": "1", "reboot": "", "container-id": "x",
        "container-type": "x", "segment": "1", "tres-bind": "x", "tres-per-task": "cpu:1", "oom-kill-step": "",
        "resv-ports": "", "stepmgr": "", "spread-segments": "", "consolidate-segments": "", "exclude": "x",
        "nodelist": "x", "from-tomorrow": "1",
    }.items()
)  # fmt: skip
SAID_ONLY = ("help", "usage", "version", "test-only")
ELSEWHERE = {"hold", "parsable", "wrap", "wait"}
"""Given to every job here, or in a test of their own."""
_OWN = re.compile(
    r"\b(Submit|Eligible|Accrue|Sched|Start|End|LastSched|SuspendTime|Deadline)\w*=\S+|\b(Scheduler|SLUID)=\S+"
)
"""What no two jobs have in common, or need not."""


@pytest.fixture(scope="module")
def script(lab: Lab) -> Iterator[Path]:
    path = lab.dir / "work" / "job.sh"
    path.write_text("#!/bin/sh\n#SBATCH --comment=head -n1\nsleep 1\n")
    path.chmod(0o755)
    yield path
    lab.run(["scancel", "--user=root"])


def words(options: dict[str, str]) -> list[str]:
    """An option's value behind `=`, or, where it must have one, as the next word: both in turn."""
    said: list[str] = []
    for number, (name, value) in enumerate(options.items()):
        if name in WITH_VALUE and number % 2:
            said += [f"--{name}", value]
        else:
            said.append(f"--{name}={value}" if value or name in WITH_VALUE else f"--{name}")
    return said


def outcome(lab: Lab, argv: list[str], stdin: str | None = None) -> tuple[int, str, str, str]:
    """Exit code, stdout and stderr of a submission without job ids, and the jobs as slurmctld has them."""
    done: subprocess.CompletedProcess[str] = lab.run(argv, check=False, stdin=stdin)
    ids = re.findall(r"\d+", done.stdout) if not done.returncode else []
    shown = lab.run(["scontrol", "show", "job", "-d", ids[0]]).stdout if ids else ""
    told = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("hpccarbon: "))
    for number, one in enumerate(sorted({*ids, *re.findall(r"(?:JobId|HetJobIdSet)=(\d+)", shown)}, key=int)):
        shown = re.sub(rf"(?<!\d){one}(?!\d)", f"<{number}>", shown)
    return done.returncode, re.sub(r"\d+", "N", done.stdout), re.sub(r"job \d+", "job N", told), _OWN.sub("", shown)


def compare(lab: Lab, argv: list[str], stdin: str | None = None) -> tuple[int, str, str, str]:
    """The outcome, which must be that of plain sbatch."""
    plain = outcome(lab, ["sbatch", *argv], stdin)
    assert outcome(lab, ["hpccarbon", "sbatch", *argv], stdin) == plain
    return plain


@pytest.mark.parametrize("options", TOGETHER, ids=lambda options: "+".join(options)[:60])
def test_the_same_job(lab: Lab, script: Path, options: dict[str, str]) -> None:
    assert compare(lab, ["--parsable", "--hold", *words(options), str(script), "--green", "two words"])[0] == 0


@pytest.mark.parametrize("options", ALONE_ONES, ids=lambda options: next(iter(options)))
def test_the_same_job_or_the_same_refusal(lab: Lab, script: Path, options: dict[str, str]) -> None:
    compare(lab, ["--parsable", "--hold", *words(options), str(script)])


def test_every_option_of_the_help_was_tried(lab: Lab) -> None:
    named = set(re.findall(r"--([a-z][a-z0-9-]+)", lab.run(["sbatch", "--help"]).stdout))
    tried = {name for options in (*TOGETHER, *ALONE_ONES) for name in options}
    assert (named | WITH_VALUE | ALONE) - tried - set(SAID_ONLY) - ELSEWHERE == set()


def test_scripts_on_stdin_quoting_arrays_and_heterogeneous_jobs(lab: Lab, script: Path) -> None:
    here = "#!/bin/bash\n#SBATCH -J 'from stdin'\n#SBATCH --array=1,3\ncat <<'END'\n$HOME `x` \\\nEND\n"
    assert "JobName=from stdin" in compare(lab, ["-H", "--parsable"], here)[3]
    assert compare(lab, ["-H", "--parsable", "-n1", ":", "-n2", str(script), ":", "x"])[0] == 0
    assert compare(lab, ["-H", "--parsable", "-n1", "--", str(script), "--time=3"])[0] == 0
    assert "JobName=wrap" in compare(lab, ["-H", "--parsable", "--wrap", "echo 'a b' \"$HOME\" | cat; true"])[3]
    assert compare(lab, ["-H"], "no script at all\n")[0] == 1
    assert compare(lab, ["-H", "/nowhere.sh"])[0] == 1


@pytest.mark.parametrize("option", SAID_ONLY)
def test_questions_are_answered_by_sbatch(lab: Lab, script: Path, option: str) -> None:
    """Our own help aside: as a drop-in that, too, is sbatch's."""
    argv = [f"--{option}", "-n1", str(script)]
    plain = lab.run(["sbatch", *argv], check=False)
    ours = lab.run(["hpccarbon", "sbatch", *argv], check=False)
    clocks = re.compile(r"\d{2}:\d{2}:\d{2}|[Jj]ob \d+")
    assert (ours.returncode, clocks.sub("", ours.stdout + ours.stderr)) == (
        plain.returncode,
        clocks.sub("", plain.stdout + plain.stderr),
    )


def test_the_script_that_runs_is_the_one_that_was_given(lab: Lab) -> None:
    """What slurmctld keeps of a script from stdin is what was put in, to the byte; --wait gives its exit code."""
    text = "#!/bin/sh\n# \ttabs, trailing blanks  \n: $1 \"$@\" '\\n'\nexit 3\n"
    ids = [
        lab.run([*argv, "--hold", "--parsable"], stdin=text).stdout.strip()
        for argv in (["sbatch"], ["hpccarbon", "sbatch"])
    ]
    kept = [lab.run(["scontrol", "write", "batch_script", one, "-"]).stdout for one in ids]
    assert kept == [text, text]
    done = lab.run(["hpccarbon", "sbatch", "--wait", "-o", "/dev/null"], stdin=text, check=False)
    assert done.returncode == 3


# ---- as a drop-in, and when things are broken ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def drop_in(lab: Lab) -> dict[str, str]:
    """The environment of a site that put the wrapper before Slurm's own command."""
    folder = lab.dir / "work" / "wrappers"
    folder.mkdir(exist_ok=True)
    shutil.copy(CHECKOUT / "slurm_scripts" / "sbatch", folder / "sbatch")
    return {"PATH": f"{folder}:{lab.env()['PATH']}", "HPCCARBON_PYTHON": sys.executable}


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["-H", "--parsable", "-n1"], ["-H", "-J", "a b", "--nice"]]
)
def test_the_drop_in_is_sbatch(lab: Lab, script: Path, drop_in: dict[str, str], argv: list[str]) -> None:
    plain, through = (lab.run(["sbatch", *argv, str(script)], check=False, env=env) for env in ({}, drop_in))
    numbers = re.compile(r"\d+$", re.MULTILINE)
    assert (through.returncode, numbers.sub("", through.stdout)) == (plain.returncode, numbers.sub("", plain.stdout))


def test_the_drop_in_leaves_no_trace_in_the_job(lab: Lab, drop_in: dict[str, str]) -> None:
    output = lab.dir / "work" / "environment.out"
    lab.run(["sbatch", "--wait", f"--output={output}"], env=drop_in, stdin="#!/bin/sh\nenv\n")
    assert "HPCCARBON_SBATCH" not in output.read_text()


@pytest.mark.parametrize("python", ["/nowhere/python3", "/bin/false-is-not-python", "broken"])
def test_a_broken_installation_is_not_in_the_way(
    lab: Lab, drop_in: dict[str, str], tmp_path: Path, python: str
) -> None:
    """No Python, or one whose hpccarbon cannot be imported."""
    if python == "broken":
        python = sys.executable
        (tmp_path / "hpccarbon").mkdir()
        (tmp_path / "hpccarbon" / "__init__.py").write_text("raise SystemError('half an upgrade')\n")
    env = {**drop_in, "HPCCARBON_PYTHON": python, "PYTHONPATH": str(tmp_path)}
    done = lab.run(["sbatch", "--hold", "--parsable"], env=env, stdin="#!/bin/sh\ntrue\n")
    assert done.stdout.strip().isdecimal()
    assert done.stderr == ""


def broken_config(lab: Lab, folder: Path) -> str:
    return "cluster = [\n"


def unknown_zone(lab: Lab, folder: Path) -> str:
    return f'cluster = "x"\n[paths]\nshared_dir = "{folder}"\n[carbon]\nzone = "ATLANTIS"\n'


def unreadable_history(lab: Lab, folder: Path) -> str:
    room = folder / "habits" / "x"
    room.mkdir(parents=True)
    for name in ("0.json", "partitions.json"):
        (room / name).write_bytes(b"\xff\x00{")
    return f'cluster = "x"\n[paths]\nshared_dir = "{folder}"\n'


def dead_file_system(lab: Lab, folder: Path) -> str:
    """Opening a pipe that nobody writes waits for ever, as a dead file server does."""
    room = folder / "habits" / "x"
    room.mkdir(parents=True)
    os.mkfifo(room / "0.json")
    return f'cluster = "x"\n[paths]\nshared_dir = "{folder}"\n[submit]\ntimeout_s = 0.5\n'


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        (broken_config, "no estimate: config"),
        (unknown_zone, "no estimate: unknown zone `ATLANTIS`"),
        (unreadable_history, "no estimate: nothing is known"),
        (dead_file_system, "no estimate: nothing was found out in time"),
    ],
)
def test_whatever_is_broken_the_job_is_submitted_and_one_line_says_so(
    lab: Lab, tmp_path: Path, breakage: Callable[[Lab, Path], str], said: str
) -> None:
    config = tmp_path / "hpccarbon.toml"
    config.write_text(breakage(lab, tmp_path))
    env = {"HPCCARBON_CONFIG": str(config)}
    begun = time.monotonic()
    done = lab.run(["hpccarbon", "sbatch", "--hold", "--parsable"], env=env, stdin="#!/bin/sh\ntrue\n")
    assert done.stdout.strip().isdecimal()
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begun < 10
    refused = lab.run(["hpccarbon", "sbatch", "--partition=nowhere", "--wrap=true"], env=env, check=False)
    assert refused.returncode == 1
    assert "invalid partition" in refused.stderr


def test_a_child_that_hangs_holds_nothing_that_a_shell_waits_for(lab: Lab, tmp_path: Path) -> None:
    """`job=$(sbatch ...)` reads to the end of stdout: that must come with sbatch's own, whatever still hangs."""
    config = tmp_path / "hpccarbon.toml"
    config.write_text(dead_file_system(lab, tmp_path).replace("timeout_s = 0.5", "timeout_s = 5.0"))
    argv = ["hpccarbon", "sbatch", "--hold", "--parsable", "--wrap=true"]
    env = {**lab.env(), "HPCCARBON_CONFIG": str(config)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as wrapper:
        children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children")
        deadline = time.monotonic() + 10
        while not (found := children.read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        (child,) = found
        assert {str(Path(f"/proc/{child}/fd/{number}").readlink()) for number in range(3)} == {"/dev/null"}
        assert wrapper.communicate(timeout=30)[0].strip().isdecimal()


def test_who_asks_for_a_version_does_not_wait_for_the_end_of_stdin(lab: Lab) -> None:
    argv = ["hpccarbon", "sbatch", "--version"]
    with subprocess.Popen(argv, env=lab.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asked:
        assert asked.wait(20) == 0
        assert asked.stdout is not None
        assert "slurm" in asked.stdout.read()


# ---- --green -------------------------------------------------------------------------------------------------------

CLEAN_H = 3


@pytest.fixture(scope="module")
def foreseen(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A configuration whose zone has hourly values: the third hour from now is the cleanest for a day."""
    folder = tmp_path_factory.mktemp("green")
    config = folder / "hpccarbon.toml"
    config.write_text(f'cluster = "x"\n[paths]\nshared_dir = "{folder}"\n[carbon]\nzone = "DE"\n')
    env = {"HPCCARBON_CONFIG": str(config)}
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    lines = ["start,intensity_gco2e_per_kwh"]
    lines += [
        f"{hour + timedelta(hours=number):%Y-%m-%dT%H:%M:%SZ},{100 if number == CLEAN_H else 400 - 5 * number}"
        for number in range(48)
    ]
    (folder / "de.csv").write_text("\n".join(lines))
    lab.run(
        ["hpccarbon", "intensity", "import", str(folder / "de.csv"), "--zone=DE", "--basis=lifecycle", "--source=made"],
        env=env,
    )
    return env


def eligible(lab: Lab, env: dict[str, str], *argv: str, script: str = "true") -> tuple[float, str]:
    """In how many hours a job submitted with --green may start, and what was said."""
    begun = time.time()
    done = lab.run(
        ["hpccarbon", "sbatch", "--green", "--parsable", *argv], env=env, stdin=f"#!/bin/sh\n{script}\n", check=False
    )
    assert done.returncode == 0, done.stderr
    shown = lab.run(["scontrol", "show", "job", done.stdout.strip()]).stdout
    lab.run(["scancel", done.stdout.strip()])
    found = re.search(r"EligibleTime=(\S+)", shown)
    assert found is not None
    if found[1] == "Unknown":
        return 0.0, done.stderr
    when = datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc).timestamp()
    return (when - begun) / 3600, done.stderr


def test_a_green_job_begins_in_the_cleanest_hour(lab: Lab, foreseen: dict[str, str]) -> None:
    wait_h, said = eligible(lab, foreseen, "--time=60")
    clean = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) + timedelta(hours=CLEAN_H)
    assert wait_h * 3600 == pytest.approx((clean - datetime.now(timezone.utc)).total_seconds(), abs=10)
    assert "--green: begins" in said
    assert "% less" in said
    by_script, _ = eligible(lab, foreseen, script="#SBATCH --time=60\n#HPCCARBON --green --max-delay 12h")
    assert by_script == pytest.approx(wait_h, abs=0.01)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--time=60", "--max-delay=1h"], "begins"),
        (["--time=60", "--deadline=now+2hours"], "begins"),
        (["--time=60", "--begin=now+10hours"], "it has a --begin of its own"),
        (["--time=60", "--dependency=afterany:999999"], "it waits for another job"),
        (["--time=60", "--hold"], "it is held"),
        ([], "how long it will run is not known"),
        (["--time=60", "--deadline=12/24/30"], "was not understood"),
    ],
)
def test_no_later_than_allowed_and_not_what_is_bound_already(
    lab: Lab, foreseen: dict[str, str], argv: list[str], why: str
) -> None:
    wait_h, said = eligible(lab, foreseen, *argv)
    assert why in said
    own_h = 10 if any("begin" in word for word in argv) else 0
    most_h = {"--max-delay=1h": 1.0, "--deadline=now+2hours": 1.0}.get(argv[-1] if argv else "", own_h)
    assert wait_h <= most_h + 0.01
    if why != "begins":
        assert wait_h == pytest.approx(own_h, abs=0.01)


def test_moved_all_the_same_when_told_to_and_never_earlier_than_its_own_begin(
    lab: Lab, foreseen: dict[str, str]
) -> None:
    wait_h, _ = eligible(lab, foreseen, "--time=60", "--begin=now+1hour", "--move")
    assert CLEAN_H - 1 <= wait_h <= CLEAN_H
    later_h, _ = eligible(lab, foreseen, "--time=60", "--begin=now+5hours", "--move", "--max-delay=4h")
    assert 5 <= later_h <= 9 + 0.01  # Slurm counts whole seconds, from its own now


def test_a_dry_run_submits_nothing_and_says_the_plan_as_json(lab: Lab, foreseen: dict[str, str]) -> None:
    before = lab.states()
    argv = ["hpccarbon", "sbatch", "--green", "--dry-run", "--format=json", "--time=60", "--wrap=true"]
    plan = json.loads(lab.run(argv, env=foreseen).stdout)
    assert plan["kind"] == "submission"
    assert plan["choice"]["saved_percent"] > 50
    assert datetime.fromisoformat(plan["begin"].replace("Z", "+00:00")).minute == 0
    assert lab.states() == before
