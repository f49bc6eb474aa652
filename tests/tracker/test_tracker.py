"""The tracker as CodeCarbon's users write it, in processes of their own, without a daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hpccarbon.tracker.data import CODECARBON_COLUMNS
from tests.tracker.conftest import Program, rows

CODECARBON_3_3 = """
    timestamp project_name run_id experiment_id duration emissions emissions_rate cpu_power gpu_power ram_power
    cpu_energy gpu_energy ram_energy energy_consumed water_consumed country_name country_iso_code region
    cloud_provider cloud_region os python_version codecarbon_version cpu_count cpu_model gpu_count gpu_model
    longitude latitude ram_total_size tracking_mode cpu_utilization_percent gpu_utilization_percent
    ram_utilization_percent ram_used_gb on_cloud pue wue
"""
BURN = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
"""


def test_the_first_38_columns_are_codecarbons() -> None:
    assert list(CODECARBON_COLUMNS) == CODECARBON_3_3.split()


def test_a_script_written_for_codecarbon_runs_with_its_import_changed(program: Program, tmp_path: Path) -> None:
    done = program(
        BURN
        + """
import pandas
from hpccarbon import EmissionsTracker
results = []
for name, work in (("small", 0.1), ("large", 0.3)):
    tracker = EmissionsTracker(project_name=name, output_dir=".", measure_power_secs=1, log_level="error",
                               save_to_file=True, allow_multiple_runs=True)
    tracker.start()
    try:
        burn(work)
    finally:
        emissions = tracker.stop()
    if emissions is None:
        raise SystemExit("no emissions")
    results.append({"model": name, "emissions": emissions, "kwh": tracker.final_emissions_data.energy_consumed})
print(pandas.DataFrame(results).sort_values("emissions").iloc[0].model)
assert tracker.stop() == emissions
import threading
assert threading.active_count() == 1
""",
        CODECARBON_TRACKING_MODE="process",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "small"
    found = rows(tmp_path / "emissions.csv")
    assert [row["project_name"] for row in found] == ["small", "large"]
    assert {row["state"] for row in found} == {"finished"}
    assert float(found[1]["cpu_seconds"]) > float(found[0]["cpu_seconds"]) > 0


def test_the_machines_memory_stands_in_the_row(program: Program, tmp_path: Path) -> None:
    program("from hpccarbon import EmissionsTracker\nwith EmissionsTracker('memory'): pass\n")
    (row,) = rows(tmp_path / "emissions.csv")
    here = psutil.virtual_memory()
    assert float(row["ram_total_size"]) == pytest.approx(here.total / 2**30, abs=0.001)
    assert 0 < float(row["ram_used_gb"]) < float(row["ram_total_size"])
    assert 0 < float(row["ram_utilization_percent"]) <= 100


def test_context_manager_decorator_tasks_and_metrics(program: Program, tmp_path: Path) -> None:
    done = program(
        BURN
        + """
from hpccarbon import OfflineEmissionsTracker, track_emissions
@track_emissions(project_name="decorated", offline=True, country_iso_code="FRA")
def work(x): burn(0.05); return x + 1
assert work(1) == 2
with OfflineEmissionsTracker(project_name="tasks", country_iso_code="FRA") as tracker:
    tracker.start_task("a"); burn(0.1); a = tracker.stop_task()
    tracker.start_task("a"); burn(0.3); b = tracker.stop_task()
    tracker.log_metric("accuracy", 0.93)
assert b.task_name.startswith("a_") and b.cpu_seconds > 2 * a.cpu_seconds > 0, (a, b)
assert tracker.final_emissions_data.cpu_seconds >= a.cpu_seconds + b.cpu_seconds
print(tracker.run_id)
""",
        CODECARBON_TRACKING_MODE="process",
    )
    assert done.returncode == 0, done.stderr
    found = {row["project_name"]: row for row in rows(tmp_path / "emissions.csv")}
    assert set(found) == {"decorated", "tasks"}
    assert found["tasks"]["metrics"] == '{"accuracy": 0.93}'
    assert found["tasks"]["country_iso_code"] == "FRA"
    tasks = rows(tmp_path / f"emissions_base_{done.stdout.strip()}.csv")
    assert len(tasks) == 2
    assert tasks[0]["task_name"] == "a"


def test_an_exception_of_the_program_goes_through_and_the_row_stays(program: Program, tmp_path: Path) -> None:
    done = program("from hpccarbon import EmissionsTracker\nwith EmissionsTracker('x'):\n    raise ValueError('mine')")
    assert "ValueError: mine" in done.stderr
    assert rows(tmp_path / "emissions.csv")[0]["state"] == "finished"


def test_fifty_processes_lose_and_mix_no_row(tmp_path: Path) -> None:
    """All create the same file at once, and finish at once."""
    text = (
        "import sys, time\nfrom hpccarbon import EmissionsTracker\n"
        "tracker = EmissionsTracker(sys.argv[1], country_iso_code='DEU', output_dir=sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "tracker.start(); tracker.log_metric('x', 1); tracker.stop()\n"
    )
    argv = [sys.executable, "-c", text]
    every = [
        subprocess.Popen([*argv, f"p{n}", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(50)
    ]
    for one in every:
        assert one.stdout is not None
        one.stdout.readline()
    for one in every:
        one.communicate("go\n", timeout=60)
    found = rows(tmp_path / "emissions.csv")
    assert sorted(row["project_name"] for row in found) == sorted(f"p{n}" for n in range(50))
    assert {row["state"] for row in found} == {"finished"}
    assert len({row["run_id"] for row in found}) == 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_keeps_its_row(tmp_path: Path, number: signal.Signals) -> None:
    text = (
        "import signal, time\nfrom hpccarbon import EmissionsTracker\n"
        "tracker = EmissionsTracker('killed', country_iso_code='DEU', measure_power_secs=0.2)\ntracker.start()\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\nprint('on', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(10) == -number
    (row,) = rows(tmp_path / "emissions.csv")
    assert row["state"] == "running"
    assert float(row["duration"]) > 0.3
    assert float(row["energy_joules"]) > 0


def test_children_that_live_a_fifth_of_a_second_are_billed(program: Program) -> None:
    done = program(
        """
import subprocess, sys, resource
from hpccarbon import EmissionsTracker
tracker = EmissionsTracker("children", tracking_mode="process", save_to_file=False, measure_power_secs=0.3)
before = resource.getrusage(resource.RUSAGE_CHILDREN)
tracker.start()
for _ in range(30):
    subprocess.run([sys.executable, "-S", "-c", "import time\\nwhile time.process_time() < 0.2: pass"])
tracker.stop()
after = resource.getrusage(resource.RUSAGE_CHILDREN)
truth = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(tracker.final_emissions_data.cpu_seconds / truth, truth)
"""
    )
    ratio, truth = map(float, done.stdout.split())
    assert truth > 6
    assert ratio == pytest.approx(1, rel=0.05)


def test_stop_that_races_a_tick_bills_nothing_twice(program: Program) -> None:
    done = program(
        """
import resource, time
from hpccarbon import EmissionsTracker
for _ in range(15):
    tracker = EmissionsTracker(tracking_mode="process", save_to_file=False, measure_power_secs=0.1)
    tracker.start(); before = time.process_time()
    while time.process_time() < before + 0.1: pass
    tracker.stop(); used = time.process_time() - before
    print(tracker.final_emissions_data.cpu_seconds / used)
"""
    )
    ratios = [float(line) for line in done.stdout.split()]
    assert len(ratios) == 15
    assert max(ratios) < 1.6, "twice would be 2"
    assert min(ratios) > 0.7


def test_a_forked_child_writes_no_row_and_leaves_the_parents(program: Program, tmp_path: Path) -> None:
    done = program(
        """
import os
from hpccarbon import EmissionsTracker
tracker = EmissionsTracker("parent", country_iso_code="DEU")
tracker.start()
pid = os.fork()
if pid == 0:
    tracker.stop()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert tracker.stop() is not None
"""
    )
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "emissions.csv")
    assert row["state"] == "finished"


def test_misuse_is_one_clear_error(program: Program) -> None:
    for arguments, words in (
        ("output_dir='/no/such'", "output_dir '/no/such' is not there"),
        ("projct_name='x'", "did you mean 'project_name'?"),
        ("tracking_mode='all'", "tracking_mode must be"),
        ("pue=0.5", "pue must be 1 or more"),
        ("emissions_endpoint='ftp://x'", "no http or https URL"),
        ("output_file='../x.csv'", "without directories"),
    ):
        for kind in ("EmissionsTracker", "OfflineEmissionsTracker"):
            done = program(f"from hpccarbon import {kind}\n{kind}({arguments})")
            assert done.returncode == 1
            assert words in done.stderr.splitlines()[-1]


def test_an_unknown_place_is_said_and_never_guessed(program: Program) -> None:
    text = """
from hpccarbon import EmissionsTracker
with EmissionsTracker({0}save_to_file=False) as tracker: pass
print(tracker.final_emissions_data.zone, tracker.final_emissions_data.intensity_g_per_kwh > 100)
"""
    nowhere = program(text.format(""))
    assert nowhere.stdout.split() == ["WORLD", "True"]
    assert "no place is known" in nowhere.stderr
    unknown = program(text.format("country_iso_code='DEE', "))
    assert unknown.stdout.split() == ["WORLD", "True"]
    assert "'DEE' is no ISO 3166-1" in unknown.stderr
    assert "DEU" in unknown.stderr
    given = program(text.format("country_iso_code='DEU', "))
    assert given.stdout.split()[0] == "DE"
    assert given.stderr == ""


def test_a_job_without_a_daemon_or_scontrol_still_gets_a_value(program: Program) -> None:
    done = program(
        """
from hpccarbon import EmissionsTracker
with EmissionsTracker(country_iso_code="DEU", save_to_file=False) as tracker: pass
data = tracker.final_emissions_data
print(data.scope, data.job_id, tracker.final_emissions >= 0)
""",
        SLURM_JOB_ID="17",
        SLURM_CPUS_ON_NODE="1",
        PATH="/nowhere",
    )
    assert done.stdout.split() == ["process", "17", "True"]


def test_settings_come_from_arguments_then_environment_then_files(program: Program, tmp_path: Path) -> None:
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nproject_name = file\nsave_to_file = false\ncountry_iso_code = FRA\napi_key = secret\npue = 1.5\n"
    )
    text = """
from hpccarbon import EmissionsTracker
tracker = EmissionsTracker({0})
tracker.start(); tracker.stop()
data = tracker.final_emissions_data
print(data.project_name, data.country_iso_code, data.pue)
"""
    done = program(text.format(""), CODECARBON_PROJECT_NAME="theirs")
    assert done.stdout.split() == ["theirs", "FRA", "1.5"]
    assert done.stderr.count("api_key has no meaning here") == 1
    done = program(text.format(""), CODECARBON_PROJECT_NAME="theirs", HPCCARBON_TRACKER_PROJECT_NAME="ours")
    assert done.stdout.split()[0] == "ours"
    assert program(text.format("'argument'"), CODECARBON_PROJECT_NAME="theirs").stdout.split()[0] == "argument"
    assert not (tmp_path / "emissions.csv").exists()


def test_no_network_is_touched(tmp_path: Path) -> None:
    text = "from hpccarbon import EmissionsTracker\nwith EmissionsTracker(save_to_file=False): pass"
    trace = tmp_path / "trace"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", str(trace), sys.executable, "-c", text],
        cwd=tmp_path,
        capture_output=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("SLURM")},
    )
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()


def test_handlers_of_the_users_own_hear_everything_and_break_nothing(program: Program) -> None:
    done = program(
        """
from hpccarbon import EmissionsTracker
from hpccarbon.tracker.output import BaseOutput
class Mine(BaseOutput):
    def out(self, total, delta): print("out", total.project_name, delta.duration > 0)
    def live_out(self, total, delta): raise RuntimeError("broken handler")
    def exit(self): print("exit")
tracker = EmissionsTracker("mine", output_handlers=[Mine()], save_to_file=False)
tracker.start(); print("value", tracker.flush() is not None); tracker.stop()
"""
    )
    assert done.stdout.split("\n")[:4] == ["out mine True", "value True", "out mine True", "exit"]
    assert done.stderr.count("broken handler") == 1
    assert done.returncode == 0


def test_a_daemon_that_does_not_answer_is_said(program: Program, tmp_path: Path) -> None:
    text = """
import socket
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); door.bind("door"); door.listen(1)
from hpccarbon import EmissionsTracker
with EmissionsTracker(country_iso_code="DEU", save_to_file=False) as tracker: pass
print(tracker.final_emissions_data.scope)
"""
    done = program(text, SLURM_JOB_ID="17", HPCCARBON_SOCKET=str(tmp_path / "door"))
    assert done.stdout.split() == ["process"]
    assert "no answer from the daemon" in done.stderr
    assert "from its own meters instead" in done.stderr
