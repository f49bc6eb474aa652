"""The Lua examples in a real slurmctld and a real sbatch: an estimate beforehand, budgets that warn or refuse."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cluster import CHECKOUT

pytestmark = pytest.mark.lab
pytest_plugins = ("tests.lab.fixture",)
SCRIPTS = CHECKOUT / "slurm_scripts"
HEAD = "cluster,name,accounts,period,since,until,unit,limit,used,used_percent,elapsed_percent,state,covered_percent"


def budget(accounts: str, state: str, days: int = 3) -> str:
    end = f"{datetime.now(timezone.utc) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"
    return f'alpha,"the ""big"", one",{accounts},month,2026-01-01T00:00:00Z,{end},kWh,8,9,112.5,60,{state},99\r\n'


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Lab]:
    """The lab with both scripts where slurm.conf lies, as a site would install them."""
    conf = lab.dir / "slurm.conf"
    before = conf.read_text()
    program = str(Path(sys.executable).parent / "hpccarbon")
    (lab.dir / "cli_filter.lua").write_text(
        (SCRIPTS / "cli_filter.lua").read_text().replace("/opt/hpccarbon/bin/hpccarbon", program)
    )
    refusing(lab, refuse=False)
    conf.write_text(f"{before}JobSubmitPlugins=lua\nCliFilterPlugins=lua\n")
    try:
        lab.run(["scontrol", "reconfigure"])
        yield lab
    finally:
        conf.write_text(before)
        lab.run(["scontrol", "reconfigure"])
        for name in ("cli_filter.lua", "job_submit.lua", "budgets.csv"):
            (lab.dir / name).unlink(missing_ok=True)


def refusing(lab: Lab, *, refuse: bool) -> None:
    """Install job_submit.lua; slurmctld loads it anew when its time changes."""
    text = (SCRIPTS / "job_submit.lua").read_text()
    text = text.replace("/var/lib/hpccarbon/budgets.csv", str(lab.dir / "budgets.csv"))
    text = text.replace("REFUSE = false", f"REFUSE = {str(refuse).lower()}")
    time.sleep(1.1)
    (lab.dir / "job_submit.lua").write_text(text)


def submit(lab: Lab, *options: str, user: str | None = None) -> tuple[int, str]:
    done = lab.run(["sbatch", "--hold", "--parsable", *options], stdin="#!/bin/sh\ntrue\n", check=False, user=user)
    if not done.returncode:
        lab.run(["scancel", done.stdout.strip()])
    return done.returncode, done.stderr


def test_budgets_warn_and_refuse_by_account(site: Lab) -> None:
    table = site.dir / "budgets.csv"
    table.write_text(f"{HEAD}\r\n{budget('physics', 'spent')}{budget('biology', 'ok')}")
    code, said = submit(site, user="hcalice")  # of physics, by default
    assert code == 0
    assert "account physics has used 112 % of its 8 kWh of this month" in said or "113 %" in said
    assert "has used" not in submit(site, user="hcbob")[1]  # of chemistry
    refusing(site, refuse=True)
    code, said = submit(site, user="hcalice")
    assert code != 0
    assert "account physics has used" in said
    assert submit(site, user="hcbob")[0] == 0
    table.write_text(f"{HEAD}\r\n{budget(chr(34) + 'physics,chemistry' + chr(34), 'near')}")
    for user in ("hcalice", "hcbob"):
        code, said = submit(site, user=user)
        assert code == 0, "a budget that is nearly used up refuses nobody"
        assert "has used" in said
    table.write_text(f"{HEAD}\r\n{budget('', 'spent')}")
    code, said = submit(site, user="hcbob")
    assert code != 0
    assert "the cluster has used" in said


def test_the_table_is_the_one_that_the_report_writes() -> None:
    assert (CHECKOUT / "tests" / "golden" / "budget.csv").read_text().splitlines()[0] == HEAD


@pytest.mark.parametrize("content", [None, "", "nonsense", HEAD, 'a,"b\n', HEAD + "\n,,,\n", "over", "\x00\xff"])
def test_budgets_that_cannot_be_read_bind_nobody(site: Lab, content: str | None) -> None:
    refusing(site, refuse=True)
    table = site.dir / "budgets.csv"
    table.unlink(missing_ok=True)
    if content is not None:
        table.write_text(f"{HEAD}\n{budget('physics', 'spent', days=-3)}" if content == "over" else content)
    code, said = submit(site, user="hcalice")
    assert code == 0
    assert "has used" not in said


def test_an_estimate_is_told_before_a_job_is_submitted(site: Lab) -> None:
    code, said = submit(site, "--job-name=it's; touch /tmp/never", "--ntasks=2", "--time=10")
    assert code == 0
    assert re.search(r"lua: (about|no estimate)", said)
    assert not Path("/tmp/never").exists()
    assert "estimate" not in site.run(["srun", "-n1", "true"]).stderr


def test_an_hpccarbon_that_is_not_there_or_hangs_is_not_in_the_way(site: Lab, tmp_path: Path) -> None:
    script = site.dir / "cli_filter.lua"
    kept = script.read_text()
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    try:
        for program in ("/nowhere/hpccarbon", str(slow)):
            script.write_text(re.sub(r'HPCCARBON = ".*"', f'HPCCARBON = "{program}"', kept))
            begun = time.monotonic()
            code, said = submit(site)
            assert (code, said) == (0, "")
            assert time.monotonic() - begun < 10
    finally:
        script.write_text(kept)
