"""The tracker inside real Slurm jobs, its daemon beside it: sections, ranks, arrays, time limits."""

from __future__ import annotations

import json
import pwd
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon.site.ledger import Ledger, Selection
from tests.lab import Lab
from tests.lab.powermeter import dynamic_uj
from tests.tracker.conftest import rows

pytestmark = pytest.mark.lab
pytest_plugins = ("tests.lab.fixture",)


@pytest.fixture(scope="module")
def metered(lab: Lab) -> Iterator[Lab]:
    """The lab with a daemon on two nodes, idle power learned."""
    names = lab.names[:2]
    for name in names:
        lab.start_daemon(name)
    time.sleep(7)
    yield lab
    for name in names:
        lab.stop_daemon(name)


@pytest.fixture
def place(metered: Lab, request: pytest.FixtureRequest) -> Path:
    """A directory for one test's rows. Jobs are root's: on some build machines no other may load this Python."""
    directory: Path = metered.dir / "work" / "root" / request.node.name
    directory.mkdir(parents=True)
    return directory


def job(lab: Lab, place: Path, text: str, *options: str, launch: str = "", wait: bool = True) -> int:
    """Submit a Python program in `place`."""
    (place / "program.py").write_text(text)
    done = lab.submit(f"cd {place}\n{launch} {sys.executable} program.py", *options, f"--output={place}/%j.out")
    if wait:
        lab.wait(done, 120)
    return done


SECTIONS = """
import json, time
from multiprocessing import Process
from hpccarbon import EmissionsTracker
def burn(cpus):  # this much CPU time, in a second; longer where the machine is too busy to give it
    end = time.monotonic() + 1.0
    begin = time.process_time()
    while time.process_time() < begin + cpus:
        pass
    time.sleep(max(0.0, end - time.monotonic()))
found = []
for name, cpus in (("one", 0.4), ("two", 0.8)) * 3:
    tracker = EmissionsTracker(name, raise_errors=True)
    begin = time.process_time(); tracker.start(); own = time.process_time() - begin
    burn(cpus)
    begin = time.process_time(); tracker.stop(); own += time.process_time() - begin
    data = tracker.final_emissions_data
    found.append((name, data.cpu_seconds, data.dynamic_joules, data.scope, data.method, own))
print(json.dumps(found))
"""


def test_two_sections_of_a_second_differ_as_their_work_does(metered: Lab, place: Path) -> None:
    number = job(metered, place, SECTIONS, f"-w{metered.names[0]}", "-n1")
    text = (place / f"{number}.out").read_text()
    found = json.loads(text.splitlines()[-1])
    assert {(scope, method) for *_, scope, method, _ in found} == {("job", "measured")}, text
    # The first one loads modules and reads the table of intensities; a busy machine takes twice its time.
    assert sorted(own for *_, own in found)[len(found) // 2] < 0.02
    slope_uj = sum(dynamic_uj(0, 1_000_000_000).values())
    joules = {name: sum(row[2] for row in found if row[0] == name) for name in ("one", "two")}
    seconds = {name: sum(row[1] for row in found if row[0] == name) for name in ("one", "two")}
    assert seconds["two"] / seconds["one"] == pytest.approx(2, rel=0.10), "the sections themselves"
    assert joules["two"] / joules["one"] == pytest.approx(2, rel=0.10)
    # And not only their ratio: the meter's own truth. It reads low where the lab's own processes are busy: their work
    # while the node was idle is in the idle power, and takes a share of the dynamic energy as well.
    for name, found_j in joules.items():
        assert found_j == pytest.approx(seconds[name] * slope_uj / 1e6, rel=0.25)


def test_an_array_has_a_row_per_task_and_a_multi_node_step_a_row_per_node(metered: Lab, place: Path) -> None:
    text = "import time\nfrom hpccarbon import EmissionsTracker\nwith EmissionsTracker('sum'): time.sleep(0.3)\n"
    job(metered, place, text, "--array=1-3", f"-w{metered.names[0]}", "-n1")
    first = rows(place / "emissions.csv")
    assert sorted(row["array_task"].rpartition("_")[2] for row in first) == ["1", "2", "3"]
    (place / "emissions.csv").unlink()
    nodes = ",".join(metered.names[:2])
    job(metered, place, text, f"-w{nodes}", "-N2", "-n4", launch="srun")
    found = rows(place / "emissions.csv")
    assert sorted(row["node"] for row in found) == sorted(metered.names[:2]), "one row per node, not per rank"
    assert {row["scope"] for row in found} == {"job"}
    assert len({row["job_id"] for row in found}) == 1


RANKS = """
import json, os, time
from hpccarbon import EmissionsTracker
tracker = EmissionsTracker("ddp", raise_errors=True)
tracker.start()
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
time.sleep(0.5 * int(os.environ["SLURM_NODEID"]))
mine = tracker.stop()
if os.environ["SLURM_PROCID"] == "0":
    total = tracker.sum_nodes(30)
    print(json.dumps([mine, total.emissions, total.energy_joules, total.node, total.duration, total.cpu_count]))
"""


def test_rank_0_sums_all_nodes(metered: Lab, place: Path) -> None:
    nodes = ",".join(metered.names[:2])
    number = job(metered, place, RANKS, f"-w{nodes}", "-N2", "-n4", launch="srun")
    mine, emissions, joules, named, duration, cores = json.loads((place / f"{number}.out").read_text().splitlines()[-1])
    found = rows(place / "emissions.csv")
    assert len(found) == 2
    assert named == nodes
    assert joules == pytest.approx(sum(float(row["energy_joules"]) for row in found), abs=1e-5)
    assert emissions == pytest.approx(sum(float(row["emissions"]) for row in found))
    assert emissions > mine > 0
    assert duration == max(float(row["duration"]) for row in found)
    assert cores == sum(int(row["cpu_count"]) for row in found)


LAUNCHER = """
import os, subprocess, sys
# As torchrun does: one launcher per node, which starts the ranks of its node and tells each which it is.
ranks = [
    subprocess.Popen(
        [sys.executable, "train.py"],
        env={
            **os.environ,
            "RANK": str(2 * int(os.environ["SLURM_NODEID"]) + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": "4",
        },
    )
    for local in range(2)
]
sys.exit(max(rank.wait() for rank in ranks))
"""
TRAIN = """
import contextlib, os, time
from hpccarbon import EmissionsTracker
first = os.environ["LOCAL_RANK"] == "0"
with EmissionsTracker("train") if first else contextlib.nullcontext():
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
"""


def test_a_launcher_of_its_own_has_one_row_per_node(metered: Lab, place: Path) -> None:
    (place / "train.py").write_text(TRAIN)
    nodes = ",".join(metered.names[:2])
    job(metered, place, LAUNCHER, f"-w{nodes}", "-N2", "--ntasks-per-node=1", launch="srun")
    found = rows(place / "emissions.csv")
    assert sorted(row["node"] for row in found) == sorted(metered.names[:2])
    assert {(row["scope"], row["state"]) for row in found} == {("job", "finished")}


def test_a_time_limit_leaves_the_row_and_the_daemon_goes_on(metered: Lab, place: Path) -> None:
    text = (
        "import time\nfrom hpccarbon import EmissionsTracker\n"
        "EmissionsTracker('limit', measure_power_secs=0.5).start()\nwhile True: time.sleep(0.05)\n"
    )
    number = job(metered, place, text, f"-w{metered.names[0]}", "-n1", wait=False)
    deadline = time.monotonic() + 20
    while not (place / "emissions.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    metered.run(["scancel", str(number)])
    metered.wait(number, 60)
    (row,) = rows(place / "emissions.csv")
    assert row["state"] == "running"
    assert float(row["energy_joules"]) > 0
    assert float(row["duration"]) > 1


KILLED = """
import os, signal, time
from hpccarbon import EmissionsTracker
EmissionsTracker("killed", measure_power_secs=0.2).start()
begin = time.process_time()
while time.process_time() < begin + 1.0:
    pass
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_sigkill_the_row_stays_and_the_daemon_knows_the_whole_job(metered: Lab, place: Path) -> None:
    node = metered.names[0]
    number = job(metered, place, KILLED, f"-w{node}", "-n1")
    (row,) = rows(place / "emissions.csv")
    assert row["state"] == "running"
    time.sleep(1.5)  # the epilog
    metered.stop_daemon(node)  # seals
    metered.start_daemon(node)
    (whole,) = Ledger(metered.dir / "shared", metered.cluster).energy(Selection(job_ids=(number,)))
    assert whole.cpu_time_us is not None
    assert whole.cpu_time_us >= 1_000_000
    assert whole.energy_uj / 1e6 >= float(row["energy_joules"]) > 0


def test_another_users_job_is_not_told(metered: Lab, place: Path) -> None:
    node = metered.names[0]
    number = metered.submit("sleep 5", f"-w{node}", "-n1", user="hcbob")
    text = (
        "import os\nfrom pathlib import Path\nfrom hpccarbon.node.control import ask, Unavailable\n"
        f"os.setuid({pwd.getpwnam('hcalice').pw_uid})\n"
        f"try: ask(Path({str(metered.nodes[node].run_dir / 'control.sock')!r}), {number})\n"
        "except Unavailable as err: print(err)\n"
    )
    mine = job(metered, place, text, f"-w{node}", "-n1")
    assert "no such job of yours" in (place / f"{mine}.out").read_text()
