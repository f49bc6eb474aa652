"""The report in Slurm's own places, with a real Slurm: AdminComment, the mail at a job's end, the job's own output."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon.report.comment import parsed
from hpccarbon.slurm import comment
from tests.lab import Lab
from tests.lab.cluster import CHECKOUT

pytestmark = pytest.mark.lab
pytest_plugins = ("tests.lab.fixture",)
BURN = "python3 -c 'import time\nwhile time.process_time() < 1: pass'"
MAILER = """#!/bin/sh
{{ printf '%s|' "$@"; echo; cat; }} >{box}/.$$ && mv {box}/.$$ {box}/$$.mail
"""


@pytest.fixture(scope="module")
def box(lab: Lab) -> Iterator[Path]:
    """A lab whose slurm.conf has our MailProg and TaskEpilog; the folder that the mails fall into."""
    box = lab.dir / "mails"
    box.mkdir(exist_ok=True)
    mailer = lab.dir / "hooks" / "mailer"
    mailer.write_text(MAILER.format(box=box))
    mailer.chmod(0o755)
    settings = lab.dir / "hooks" / "places.env"
    settings.write_text(
        (lab.dir / "hooks" / "hooks.env").read_text() + f"HPCCARBON_MAILER={mailer}\nHPCCARBON_MAIL_DELAY_S=5\n"
    )
    for name in ("mailprog", "task_epilog"):
        wrapper = lab.dir / "hooks" / name
        script = CHECKOUT / "slurm_scripts" / f"{name}.sh"
        wrapper.write_text(
            f'#!/bin/sh\nHPCCARBON_HOOKS_ENV={settings}\nexport HPCCARBON_HOOKS_ENV\nexec {script} "$@"\n'
        )
        wrapper.chmod(0o755)
    conf = lab.dir / "slurm.conf"
    before = conf.read_text()
    places = f"MailProg={lab.dir}/hooks/mailprog\nTaskEpilog={lab.dir}/hooks/task_epilog"
    conf.write_text(before.replace("MailProg=/bin/true", places))
    lab.run(["scontrol", "reconfigure"])
    for node in lab.names[:2]:
        lab.start_daemon(node)
    yield box
    for node in lab.names[:2]:
        lab.stop_daemon(node)
    conf.write_text(before)
    lab.run(["scontrol", "reconfigure"])


@pytest.fixture(scope="module")
def ended(lab: Lab, box: Path) -> int:
    """A job with a mail that has ended and whose node has sealed."""
    output = lab.dir / "work" / "hcalice" / "places.out"
    options = ("-n1", f"-w{lab.names[0]}", "--mail-type=END", "--mail-user=nobody@localhost", "-Jlittle_one")
    job = lab.submit(f"echo working\nsrun true\n{BURN}", *options, f"-o{output}", user="hcalice")
    lab.wait(job, 60)
    return job


def test_the_job_s_output_ends_with_where_to_look(lab: Lab, ended: int) -> None:
    output = lab.dir / "work" / "hcalice" / "places.out"
    deadline = time.monotonic() + 10
    while f"report --job {ended}" not in output.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    lines = output.read_text().splitlines()
    assert lines[0] == "working"
    (said,) = [line for line in lines if "hpccarbon" in line]  # once for the script, and not for its step
    # Where the user may not run the checkout's program, the line has no figure.
    assert said.endswith(f"hpccarbon report --job {ended}")


def test_the_line_tells_what_the_job_used_here(lab: Lab, box: Path) -> None:
    """As root, who may run this checkout's program wherever it lies."""
    output = lab.dir / "work" / "root" / "places.out"
    job = lab.submit(BURN, "-n1", f"-w{lab.names[0]}", f"-o{output}")
    lab.wait(job, 60)
    deadline = time.monotonic() + 10
    while "hpccarbon: " not in output.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    (said,) = output.read_text().splitlines()
    found = re.fullmatch(
        rf"hpccarbon: job {job}: ([\d.]+) J on {lab.names[0]} \(\d+ % covered, 100 % measured\);"
        rf" all of it, with its carbon: hpccarbon report --job {job}",
        said,
    )
    assert found is not None, said
    assert 5 < float(found[1]) < 500, "a second of one core"


def test_who_wants_no_line_gets_none(lab: Lab, box: Path) -> None:
    output = lab.dir / "work" / "hcalice" / "quiet.out"
    # Not by --export: from 26.05 on Slurm then asks for the user's login environment, and these users have no login.
    argv = ["sbatch", "--parsable", "-n1", f"-w{lab.names[0]}", f"-o{output}"]
    done = lab.run(argv, user="hcalice", stdin="#!/bin/sh\ntrue\n", env={"HPCCARBON_EPILOG": "no"})
    lab.wait(int(done.stdout), 60)
    time.sleep(1)
    assert "hpccarbon" not in output.read_text()


def test_the_mail_at_the_end_holds_the_report(lab: Lab, box: Path, ended: int) -> None:
    deadline = time.monotonic() + 60
    while not list(box.glob("*.mail")):
        assert time.monotonic() < deadline, "no mail came"
        time.sleep(0.3)
    (mail,) = box.glob("*.mail")
    head, _, body = mail.read_text().partition("\n")
    assert head.startswith(f"-s|Slurm Job_id={ended} Name=little_one Ended, Run time")
    assert head.endswith("|nobody@localhost|")
    assert f"{ended}" in body.splitlines()[0]
    assert "Energy" in body
    assert "CO2e" in body
    assert f"hpccarbon report --job {ended}" in body.splitlines()[-1]


def test_admin_comments_are_set_kept_and_left_alone(lab: Lab, box: Path, ended: int) -> None:
    array = lab.submit("true", "-n1", f"-w{lab.names[0]}", "--array=1-2", user="hcbob")
    lab.wait(array, 60)
    time.sleep(7)
    lab.run([lab.program, "aggregate", "--quiet"])
    lab.run(["sacctmgr", "-i", "modify", "job", "where", f"jobid={array}_2", "set", "AdminComment=js1:somebody"])

    def annotate() -> str:
        return lab.run([lab.program, "annotate", "--grace", "1s"]).stderr

    said = annotate()
    assert "1 left alone" in said
    rows = {one.name: one.text for one in _comments(lab, ended, array)}
    numbers = parsed(rows[str(ended)])
    assert numbers is not None
    assert numbers["wh"] > 0
    assert 0 < numbers["cov"] <= 100
    assert rows[f"{array}_2"] == "js1:somebody"
    assert parsed(rows[f"{array}_1"]) is not None
    # A busy machine may seal the last minute of a job later than the grace; once all have, nothing is written again.
    deadline = time.monotonic() + 60
    while not annotate().startswith("annotated 0 jobs"):
        assert time.monotonic() < deadline, "it writes the same comments again and again"
        time.sleep(2)
    assert {one.name: one.text for one in _comments(lab, ended, array)}[f"{array}_2"] == "js1:somebody"


def _comments(lab: Lab, *jobs: int) -> list[comment.Comment]:
    done = lab.run(
        [
            "sacct",
            "-X",
            "-n",
            "-P",
            "-S",
            "1970-01-01",
            "--format=JobIDRaw,JobID,AdminComment",
            "-j",
            ",".join(map(str, jobs)),
        ]
    )
    return list(comment.parse(done.stdout))


def test_a_mailer_that_is_missing_and_a_report_that_fails_lose_no_mail(tmp_path: Path) -> None:
    """The script alone: no hpccarbon to be had, and the mail is sent all the same, at once for what has not ended."""
    mailer = tmp_path / "mailer"
    mailer.write_text(MAILER.format(box=tmp_path))
    mailer.chmod(0o755)
    (tmp_path / "env").write_text(
        f"HPCCARBON_MAILER={mailer}\nHPCCARBON_MAIL_DELAY_S=0\nHPCCARBON_BIN=/nonexistent/hpccarbon\n"
    )
    base = {"HPCCARBON_HOOKS_ENV": str(tmp_path / "env"), "SLURM_JOB_ID": "7", "TMPDIR": str(tmp_path)}
    for kind, subject in (("Ended", "it ended"), ("Began", "it began"), ("Ended", "$(touch owned); `id`")):
        before = set(tmp_path.glob("*.mail"))
        subprocess.run(
            [str(CHECKOUT / "slurm_scripts" / "mailprog.sh"), "-s", subject, "me@there"],
            env={**base, "SLURM_JOB_MAIL_TYPE": kind},
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=5,
            cwd=tmp_path,
        )
        deadline = time.monotonic() + 10
        while set(tmp_path.glob("*.mail")) == before:
            assert time.monotonic() < deadline, f"no mail: {subject}"
            time.sleep(0.05)
        (mail,) = set(tmp_path.glob("*.mail")) - before
        assert mail.read_text().startswith(f"-s|{subject}|me@there|\n")
    assert not (tmp_path / "owned").exists()
