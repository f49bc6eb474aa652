"""sbatch's command line and script head, read as sbatch reads them."""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.cli.sbatch import OWN
from hpccarbon.slurm import times
from hpccarbon.slurm.options import ALONE, SHORT, WITH_VALUE, command_line, merged, script_head
from hpccarbon.submit.request import request

NOW = datetime(2026, 11, 24, 13, 30, tzinfo=timezone.utc)


def test_options_end_at_the_script() -> None:
    line = command_line(["-N2", "--part", "long", "-vn", "4", "--exclusive", "--time=1-0", "job.sh", "--green", "-N3"])
    assert line.options == [
        {"nodes": "2", "partition": "long", "verbose": "", "ntasks": "4", "exclusive": "", "time": "1-0"}
    ]
    assert (line.script, line.end) == ("job.sh", 7)


def test_own_options_are_taken_out_before_the_script_alone() -> None:
    argv = ["--green", "-n", "2", "--max-delay", "12h", "--comment", "--green", "--", "job.sh", "--green"]
    line = command_line(argv, OWN)
    assert line.own == {"green": "", "max-delay": "12h"}
    assert line.passed == ["-n", "2", "--comment", "--green", "--", "job.sh", "--green"]
    assert line.passed[line.end] == "job.sh"
    assert line.options == [{"ntasks": "2", "comment": "--green"}]


def test_components_of_a_heterogeneous_job() -> None:
    line = command_line(["-n1", ":", "-n", "2", "--gpus=3", "job.sh", ":"])
    assert line.options == [{"ntasks": "1"}, {"ntasks": "2", "gpus": "3"}]
    assert line.script == "job.sh"


def test_an_option_that_nobody_knows_ends_the_reading() -> None:
    line = command_line(["-n1", "--from-tomorrow", "x", "job.sh"], OWN)
    assert (line.unknown, line.script) == ("--from-tomorrow", None)
    assert line.passed == ["-n1", "--from-tomorrow", "x", "job.sh"]


@pytest.mark.parametrize("argv", [["--"], ["-n"], ["--time"], ["-"], [":"], [""], ["--=3"], ["-N", "--", "x"]])
def test_what_sbatch_will_refuse_is_passed_on_as_it_is(argv: list[str]) -> None:
    assert command_line(argv, OWN).passed == argv


def test_the_head_of_a_script() -> None:
    head = script_head(
        "#!/bin/bash\n#SBATCH -J 'two words' --time=10 # ten minutes\n\n#SBATCH --mem 4G\n  # not one\n"
        "#HPCCARBON --green --max-delay 6h\n#SBATCH hetjob\n#SBATCH --gres=gpu:2\necho\n#SBATCH -p late\n"
    )
    assert head.options == [{"job-name": "two words", "time": "10", "mem": "4G"}, {"gres": "gpu:2"}]
    assert head.own == ["--green", "--max-delay", "6h"]
    assert script_head("#SBATCH -J 'open\n#SBATCH -n 2\n").options == [{"ntasks": "2"}]


def test_a_command_line_goes_before_the_environment_and_that_before_the_script() -> None:
    head = script_head("#SBATCH -J script -p script -A script\n")
    found = merged(command_line(["-J", "line"]), head, {"SBATCH_JOB_NAME": "env", "SBATCH_PARTITION": "env"})
    assert found == [{"job-name": "line", "partition": "env", "account": "script"}]


@pytest.mark.parametrize(
    ("argv", "cores", "gpus", "tasks"),
    [
        ("job.sh", 1, 0, 1),
        ("-n 8 -c 4 job.sh", 32, 0, 1),
        ("-N 2-4 --ntasks-per-node=16 job.sh", 32, 0, 1),
        ("-N 3 job.sh", 3, 0, 1),
        ("-N 2 --gres=gpu:a100:4,license:1 job.sh", 2, 8, 1),
        ("--gres=gpu job.sh", 1, 1, 1),
        ("--gres=gpu:h100_80gb:2,shard:3 job.sh", 1, 2, 1),
        ("-G a100:2,h100:1 --cpus-per-gpu=4 job.sh", 12, 3, 1),
        ("-n 4 --gpus-per-task=2 job.sh", 4, 8, 1),
        ("-a 0-9:3,20%2 job.sh", 1, 0, 5),
        ("-n 2 : -n 3 -c 2 --gpus-per-node=1 job.sh", 8, 1, 1),
        ("-n nonsense -c x -a x job.sh", 1, 0, 1),
    ],
)
def test_what_a_job_asks_for(argv: str, cores: int, gpus: int, tasks: int) -> None:
    wanted = request(command_line(argv.split()), script_head(""), {})
    assert (wanted.cores, wanted.gpus, wanted.tasks) == (cores, gpus, tasks)


@pytest.mark.parametrize(
    ("argv", "name"), [(["a/train.sh"], "train.sh"), (["--wrap=ls"], "wrap"), ([], "sbatch"), (["-J", "x", "y"], "x")]
)
def test_a_job_without_a_name_has_the_one_that_sbatch_gives_it(argv: list[str], name: str) -> None:
    assert request(command_line(argv), script_head(""), {}).name == name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("2-01:00:05", 176405),
        ("UNLIMITED", None),
        ("", None),
        ("1:2:3:4", None),
        ("99999999999", None),
        ("999999-999999", 365 * 86400),
    ],
)
def test_time_limits(text: str, seconds: int | None) -> None:
    assert times.limit(text) == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("now+2hours", datetime(2026, 11, 24, 15, 30)),
        ("now+999999weeks", datetime(2027, 11, 24, 13, 30)),
        ("now+90", datetime(2026, 11, 24, 13, 31, 30)),
        ("2026-12-01", datetime(2026, 12, 1)),
        ("2026-12-01T08:15", datetime(2026, 12, 1, 8, 15)),
        ("16:00", datetime(2026, 11, 24, 16)),
        ("06:00:30", datetime(2026, 11, 25, 6, 0, 30)),
        ("tomorrow", datetime(2026, 11, 25)),
        ("teatime", datetime(2026, 11, 24, 16)),
        ("noon", datetime(2026, 11, 25, 12)),
        ("25:00", None),
        ("2026-13-01", None),
        ("12/24", None),
    ],
)
def test_moments(text: str, when: datetime | None) -> None:
    assert times.moment(text, NOW) == (when and when.replace(tzinfo=timezone.utc))


WORDS = st.sampled_from(
    ["-n", "--ntasks=3", "--gres", "gpu:a:2", ":", "--", "-N1-2", "--time", "1-0", "-a", "1-9:2", "--green", "-J", "x"]
)
TEXTS = st.text(max_size=20) | st.text("0123456789-:,=@%kM", max_size=5000) | WORDS


@given(st.lists(TEXTS, max_size=8), st.text(max_size=60) | st.builds("#SBATCH {}\n#HPCCARBON {}".format, TEXTS, TEXTS))
def test_whatever_is_typed_is_passed_on_and_never_a_fault_of_ours(argv: list[str], head: str) -> None:
    line = command_line(argv, OWN)
    kept = [
        word for word in argv if word.partition("=")[0].removeprefix("--") not in OWN and word not in line.own.values()
    ]
    assert [word for word in line.passed if word in kept] == kept
    wanted = request(line, script_head(head), {"SBATCH_TIMELIMIT": head, "SBATCH_GRES": head})
    assert wanted.cores >= 1
    assert wanted.tasks >= 1
    for text in argv:
        times.limit(text)
        times.moment(text, NOW)


# ---- against the sbatch that is installed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("sbatch") is None:
        pytest.skip("no sbatch on this machine")
    path = tmp_path_factory.mktemp("conf") / "slurm.conf"
    path.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=n1\n")
    return path


def said(conf: Path, *argv: str) -> str:
    done = subprocess.run(
        ["sbatch", *argv],
        env={"PATH": os.environ["PATH"], "SLURM_CONF": str(conf)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout + done.stderr


def test_every_option_of_sbatch_takes_a_value_or_none_as_we_think(conf: Path) -> None:
    """getopt itself says which: an option alone at the end of the line either misses its argument or does not."""
    named = set(re.findall(r"--([a-z][a-z0-9-]+)", said(conf, "--help")))
    assert len(named) > 80
    assert named - WITH_VALUE - ALONE == set()
    wrong = {}
    for name in sorted((WITH_VALUE | ALONE) - {"help", "usage", "version"}):
        answer = said(conf, f"--{name}")
        if "unrecognized option" not in answer and ("requires an argument" in answer) != (name in WITH_VALUE):
            wrong[name] = answer
    assert wrong == {}


def test_every_short_option_is_the_long_one_we_think(conf: Path) -> None:
    """The help names them side by side; getopt tells the letters that only one of us knows."""
    pairs = dict(re.findall(r"^ +-([A-Za-z]), +--([a-z-]+)", said(conf, "--help"), re.MULTILINE))
    assert len(pairs) > 25
    assert {letter: SHORT.get(letter) for letter in pairs} == pairs
    unknown = {letter for letter in string.ascii_letters if "invalid option" in said(conf, f"-{letter}")}
    assert set(string.ascii_letters) - unknown == set(SHORT)


def test_no_option_of_ours_is_one_of_sbatch_or_the_beginning_of_one() -> None:
    assert [(ours, its) for ours in OWN for its in WITH_VALUE | ALONE if its.startswith(ours)] == []
