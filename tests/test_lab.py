"""The lab itself: real Slurm jobs, real cgroups, and a power meter that can be trusted to the microjoule."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, LabError
from tests.lab.powermeter import START_UJ, SYSTEM_LOAD_NS_PER_S, ZONES, Truth, dynamic_uj
from tests.lab.processes import CGROUP, identity, members, remove_tree, send

pytest_plugins = ("tests.lab.fixture",)
pytestmark = pytest.mark.lab


def burn(seconds: float) -> str:
    """A job that uses this much CPU time, however busy the machine is."""
    # python3 by PATH: the interpreter of these tests may lie where other users have no access.
    return f"exec python3 -c 'import time\nwhile time.process_time() < {seconds}: pass'"


def hook_files(lab: Lab, node: str, job: int) -> dict[str, dict[str, str]]:
    found = {}
    for path in (lab.nodes[node].run_dir / "jobs").glob(f"{job}.*"):
        lines = path.read_text().split("\n")
        assert lines[-2:] == ["END", ""]
        found[path.name] = dict(line.split("=", 1) for line in lines[:-2])
    return found


def raw_counter(lab: Lab, node: str, zone: str) -> int:
    """A counter as a daemon finds it: through the class directory, as text."""
    return int((lab.nodes[node].root / "sys/class/powercap" / zone.rsplit("/", 1)[-1] / "energy_uj").read_text())


def test_up_again_is_quick_and_changes_nothing(lab: Lab) -> None:
    before = (lab.dir / "lab.json").read_bytes(), lab.status()
    start = time.monotonic()
    assert lab.up() is False
    assert time.monotonic() - start < 2
    assert ((lab.dir / "lab.json").read_bytes(), lab.status()) == before


def test_jobs_of_two_users_share_a_node(lab: Lab) -> None:
    first = lab.names[0]
    jobs = {
        user: lab.submit("sleep 1.5; id -un", "-w", first, "-n1", "-c2", user=user) for user in ("hcalice", "hcbob")
    }
    seen: set[str] = set()
    scope = CGROUP / "cpuacct" / lab.nodes[first].cgroup
    end = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < end:
        paths = {str(path.relative_to(scope)) for path in scope.glob("uid_*/job_*")}
        seen = paths if len(paths) == 2 else seen
        time.sleep(0.02)
    assert seen == {f"uid_{pwd.getpwnam(user).pw_uid}/job_{job}" for user, job in jobs.items()}
    assert set(lab.wait(jobs.values(), 30).values()) == {"COMPLETED"}
    for user, job in jobs.items():
        assert (lab.dir / "work" / user / f"{job}.out").read_text() == f"{user}\n"
        row = lab.sacct(job, "User", "Account", "AllocCPUS", "NodeList")[0]
        account = {"hcalice": "physics", "hcbob": "chemistry"}[user]
        assert (row["User"], row["Account"], row["AllocCPUS"], row["NodeList"]) == (user, account, "2", first)
        files = hook_files(lab, first, job)
        assert sorted(files) == [f"{job}.0.epilog", f"{job}.0.prolog"]
        told = files[f"{job}.0.prolog"]
        assert told["SLURM_JOB_ACCOUNT"] == account
        assert told["SLURM_JOB_USER"] == user
        assert told["SLURM_JOB_CPUS_PER_NODE"] == "2"
        assert told["SLURMD_NODENAME"] == first
    assert list(scope.glob("uid_*")) == []  # Slurm removes them before the epilog, and keeps the parent


def test_a_job_on_two_nodes_has_hooks_on_both(lab: Lab) -> None:
    names = lab.names
    nodes = names[0], names[3]
    job = lab.submit("srun hostname", "-N2", "-p", "all", "-w", ",".join(nodes), user="hcbob")
    assert lab.wait(job, 30) == {str(job): "COMPLETED"}
    for node in nodes:
        assert sorted(hook_files(lab, node, job)) == [f"{job}.0.epilog", f"{job}.0.prolog"]
    assert hook_files(lab, names[1], job) == {}


def test_an_array_is_as_many_jobs(lab: Lab) -> None:
    job = lab.submit("sleep 0.2", "--array=1-5%3", user="hcalice")
    assert lab.wait(job, 60) == {f"{job}_{task}": "COMPLETED" for task in range(1, 6)}
    rows = [row for row in lab.sacct(job, "JobIDRaw", jobs=5) if "." not in row["JobID"]]
    raw = {int(row["JobIDRaw"]) for row in rows}
    assert len(raw) == 5
    hooked = {one for one in raw for node in lab.nodes if f"{one}.0.epilog" in hook_files(lab, node, one)}
    assert hooked == raw  # the hooks see every task's own job id, and never the array's


def test_a_cancelled_job_has_its_epilog(lab: Lab) -> None:
    node = lab.names[2]
    job = lab.submit("sleep 100", "-w", node, user="hcalice")
    started(lab, node, job)
    lab.run(["scancel", str(job)], user="hcalice")
    assert lab.wait(job, 30) == {str(job): "CANCELLED"}
    assert f"{job}.0.epilog" in hook_files(lab, node, job)


def started(lab: Lab, node: str, job: int, restart: int = 0) -> None:
    end = time.monotonic() + 40
    while f"{job}.{restart}.prolog" not in hook_files(lab, node, job):
        assert time.monotonic() < end, lab.run(["scontrol", "show", "job", str(job)], check=False).stdout
        time.sleep(0.05)


def test_a_requeued_job_is_a_second_run(lab: Lab) -> None:
    node = lab.names[0]
    job = lab.submit('[ "${SLURM_RESTART_COUNT:-0}" = 1 ] || sleep 100', "-w", node, "--requeue", user="hcalice")
    started(lab, node, job)
    lab.run(["scontrol", "requeue", str(job)])
    started(lab, node, job, restart=1)
    assert lab.wait(job, 60) == {str(job): "COMPLETED"}
    files = hook_files(lab, node, job)
    assert sorted(files) == [f"{job}.{run}.{kind}" for run in (0, 1) for kind in ("epilog", "prolog")]
    states = [row["State"] for row in lab.sacct(job, jobs=2) if row["JobID"] == str(job)]
    assert sorted(states) == ["COMPLETED", "REQUEUED"]


def test_the_task_prolog_runs_with_the_users_rights(lab: Lab) -> None:
    hook = lab.dir / "hooks" / "task_prolog"
    folder = lab.dir / "work" / "hcbob" / "told"
    done = lab.run(
        ["srun", "-n2", "-J", "a name", f"--task-prolog={hook}", "sh", "-c", "echo ran"],
        user="hcbob",
        env={"HPCCARBON_USER_DIR": str(folder)},
    )
    assert done.stdout == "ran\nran\n"
    (file,) = folder.iterdir()
    assert "SLURM_JOB_NAME=a name\n" in file.read_text()
    assert file.owner() == folder.owner() == "hcbob"


# The meter


def difference(before: Truth, after: Truth) -> tuple[int, int, dict[str, int]]:
    energy = {zone: after.energy_uj[zone] - before.energy_uj[zone] for zone in after.energy_uj}
    return after.t_ns - before.t_ns, after.busy_ns - before.busy_ns, energy


@pytest.mark.parametrize("number", [0, 1, 2])
def test_counters_follow_the_formula(lab: Lab, number: int) -> None:
    """What the job's cgroup used, by another road than the meter's (sacct), explains the counters to 2 %."""
    node = lab.names[number]
    before = lab.meter_truth(node)
    first = {zone.path: raw_counter(lab, node, zone.path) for zone in ZONES[number]}
    job = lab.submit(burn(2), "-w", node, user="hcalice")
    lab.wait(job, 60)
    time.sleep(0.1)
    after = lab.meter_truth(node)
    last = {zone.path: raw_counter(lab, node, zone.path) for zone in ZONES[number]}
    t_ns, busy_ns, energy = difference(before, after)
    minutes, seconds = lab.sacct(job, "TotalCPU")[0]["TotalCPU"].split(":")
    used_ns = int((int(minutes) * 60 + float(seconds)) * 1e9)
    assert used_ns > 1_900_000_000
    assert busy_ns == pytest.approx(used_ns + SYSTEM_LOAD_NS_PER_S * t_ns // 10**9, rel=0.02)
    for zone in ZONES[number]:
        # Exact: energy is the formula at both ends; 1 µJ each for the two roundings.
        exact = (zone.idle_mw * t_ns + zone.slope_mw * busy_ns) // 1_000_000
        assert abs(energy[zone.path] - exact) <= 2
        # The files say the same, but for the ticks between the two looks (100 ms at most at 120 W).
        shown = (last[zone.path] - first[zone.path]) % zone.range_uj
        assert shown == pytest.approx(energy[zone.path], abs=12_000_000)
        assert dynamic_uj(number, used_ns)[zone.path] == zone.slope_mw * used_ns // 1_000_000


def test_counters_are_what_the_truth_says_at_this_moment(lab: Lab) -> None:
    for name, node in lab.nodes.items():
        for zone in ZONES[node.number]:
            low = lab.meter_truth(name).energy_uj[zone.path]
            shown = raw_counter(lab, name, zone.path)
            high = lab.meter_truth(name).energy_uj[zone.path]
            span = (shown - START_UJ - low) % zone.range_uj
            assert span <= high - low


def test_the_second_node_wraps(lab: Lab) -> None:
    node = lab.names[1]
    zone = ZONES[1][0]
    job = lab.submit(burn(60), "-w", node, "-t", "2", user="hcalice")
    low = lab.meter_truth(node).energy_uj[zone.path] + START_UJ
    wraps, counter = low // zone.range_uj, raw_counter(lab, node, zone.path)
    end = time.monotonic() + 90
    while (now := raw_counter(lab, node, zone.path)) >= counter:
        counter = now
        assert time.monotonic() < end
        time.sleep(0.02)
    lab.run(["scancel", str(job)])
    lab.wait(job, 30)
    assert counter < zone.range_uj
    assert (lab.meter_truth(node).energy_uj[zone.path] + START_UJ) // zone.range_uj == wraps + 1


def test_readers_never_see_a_half_written_or_falling_counter(lab: Lab) -> None:
    root = lab.nodes[lab.names[0]].root
    names = ("sys/class/powercap/intel-rapl:0/energy_uj", "sys/fs/cgroup/cpuacct/cpuacct.usage", "proc/stat")
    fds = [os.open(root / name, os.O_RDONLY) for name in names]
    last = [0, 0]
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for index in range(2):
                text = os.pread(fds[index], 64, 0)
                assert re.fullmatch(rb"\d{15}\n", text)
                assert int(text) >= last[index]
                last[index] = int(text)
            fields = os.pread(fds[2], 512, 0).split(b"\n")[0].split()
            assert len(fields) == 11
    finally:
        for fd in fds:
            os.close(fd)


def test_busy_time_of_the_node_in_all_its_files(lab: Lab) -> None:
    name = lab.names[3]
    root = lab.nodes[name].root
    truth = lab.meter_truth(name)
    usage = int((root / "sys/fs/cgroup/cpuacct/cpuacct.usage").read_text())
    user, _, _, idle = map(int, (root / "proc/stat").read_text().split("\n")[0].split()[1:5])
    assert usage == pytest.approx(truth.busy_ns, abs=100_000_000)
    assert user == pytest.approx(usage / 1e7, abs=10)
    assert user + idle == pytest.approx(8 * truth.t_ns / 1e7, abs=80)
    assert not (root / "sys/class/powercap").exists()
    assert truth.energy_uj == {}


def test_a_killed_meter_goes_on_where_it_would_have_been(lab: Lab) -> None:
    node = lab.names[0]
    before = lab.meter_truth(node)
    meter = lab.process("meter")
    assert meter is not None
    send(meter, signal.SIGKILL)
    job = lab.submit(burn(0.5), "-w", node, user="hcalice")
    lab.wait(job, 30)
    assert lab.up() is True
    time.sleep(0.1)
    t_ns, busy_ns, energy = difference(before, lab.meter_truth(node))
    assert busy_ns >= 500_000_000 + SYSTEM_LOAD_NS_PER_S * t_ns // 10**9
    for zone in ZONES[0]:
        assert abs(energy[zone.path] - (zone.idle_mw * t_ns + zone.slope_mw * busy_ns) // 1_000_000) <= 2


def test_the_meter_is_cheap(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    process = lab.process("meter")
    assert process is not None

    def used() -> int:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])

    start, before = time.monotonic_ns(), used()
    time.sleep(2)
    share = (used() - before) / (time.monotonic_ns() - start)
    with capsys.disabled():
        print(f"\nthe meter takes {share:.2%} of a core")
    assert share < 0.08


# Crashes and the end


def kill_everything(lab: Lab) -> None:
    end = time.monotonic() + 10
    while targets := members([lab.group]):
        assert time.monotonic() < end
        for process in targets:
            send(process, signal.SIGKILL)


def test_up_after_everything_was_killed(lab: Lab) -> None:
    node = lab.names[1]
    job = lab.submit("sleep 100", "-w", node, "--no-requeue", user="hcalice")
    started(lab, node, job)
    before = lab.meter_truth(node)
    kill_everything(lab)
    assert not lab.healthy()
    assert lab.up() is True
    assert lab.healthy()
    assert lab.meter_truth(node).t_ns > before.t_ns
    # Where slurmctld had not saved yet that the job ran, it starts it once more; else the job is a NODE_FAIL.
    lab.run(["scancel", str(job)], check=False)
    lab.wait(job, 60)
    again = lab.submit("true", "-w", node, user="hcbob")
    if again == job:
        # slurmctld gave out the lost job's id once more; slurmd still knows the old credential and has it requeued.
        lab.run(["scancel", str(again)], check=False)
        again = lab.submit("true", "-w", node, user="hcbob")
    assert lab.wait(again, 60) == {str(again): "COMPLETED"}


def test_up_after_a_reboot(lab: Lab) -> None:
    """As a reboot leaves the folder: no process, another boot id, no cgroups, no users' runtime state."""
    kill_everything(lab)
    state = json.loads((lab.dir / "lab.json").read_text())
    (lab.dir / "lab.json").write_text(json.dumps({**state, "boot_id": "of-before"}))
    remove_tree(lab.group)
    for name in lab.names:
        for base in CGROUP.iterdir():
            if (base / f"slurm_{name}").is_dir():
                remove_tree(base / f"slurm_{name}")
    origin = lab.dir / "meter" / "origin.json"
    origin.write_text(json.dumps({**json.loads(origin.read_text()), "boot_id": "of-before"}))
    names = lab.names
    assert lab.up() is True
    assert lab.names == names
    assert lab.meter_truth(names[0]).t_ns < 60_000_000_000  # counters begin anew, as the kernel's do
    job = lab.submit("true", user="hcbob")
    assert lab.wait(job, 60) == {str(job): "COMPLETED"}


def test_a_service_that_was_started_but_not_recorded_is_taken_up(lab: Lab) -> None:
    state = json.loads((lab.dir / "lab.json").read_text())
    forgotten = {name: entry for name, entry in state["processes"].items() if name not in ("mariadb", "slurmctld")}
    (lab.dir / "lab.json").write_text(json.dumps({**state, "processes": forgotten}))
    assert lab.up() is True
    assert json.loads((lab.dir / "lab.json").read_text())["processes"] == state["processes"]


def test_a_recycled_pid_is_not_killed(lab: Lab) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        process = identity(stranger.pid)
        assert process is not None
        assert not send(process._replace(start_ticks=process.start_ticks - 1), signal.SIGKILL)
        assert stranger.poll() is None
        stranger.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hclab2-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_second_lab_beside_it_comes_and_goes_without_a_trace(lab: Lab, folder: Path) -> None:
    second = Lab(folder)
    prefix = f"s{os.getpid()}n"
    start = time.monotonic()
    second.up(prefix=prefix, gpus=True)
    assert time.monotonic() - start < 30
    try:
        node = f"{prefix}2"
        job = second.submit("sleep 100", "-w", node, "--gpus=2", user="hcalice")
        started(second, node, job)
        told = hook_files(second, node, job)[f"{job}.0.prolog"]
        assert re.fullmatch(r"[0-3],[0-3]", told["SLURM_JOB_GPUS"])
        with pytest.raises(LabError, match="other options"):
            second.up(gpus=False)
        with pytest.raises(LabError, match="no node"):
            second.start_daemon("n9")
        assert lab.healthy()
    finally:
        running = members([second.group])
        second.down()
    assert running  # the job among them: it was not cancelled before
    assert [process for process in running if identity(process.pid) == process] == []
    assert [path for base in CGROUP.iterdir() for path in base.glob(f"*{prefix}*")] == []
    assert not folder.exists()
    assert lab.healthy()
    assert pwd.getpwnam("hcalice")  # the first lab still needs them
    second.down()  # nothing there: no harm


def test_nodes_of_another_lab_are_not_taken(lab: Lab, folder: Path) -> None:
    third = Lab(folder)
    with pytest.raises(LabError, match="another lab uses the nodes"):
        third.up(prefix=lab.names[0].removesuffix("1"))
    third.down()
    assert lab.healthy()


def test_a_folder_that_is_no_lab_is_left_alone(lab: Lab, folder: Path) -> None:
    (folder / "thesis.tex").write_text("years")
    stranger = Lab(folder)
    with pytest.raises(LabError, match="not a lab"):
        stranger.up()
    stranger.down()
    assert (folder / "thesis.tex").exists()


def test_down_leaves_no_trace(lab: Lab) -> None:
    """The last of this module: the session's lab goes, with a job running, and comes back for other modules."""
    node, prefix = lab.names[0], lab.names[0].removesuffix("1")
    job = lab.submit("sleep 100 & sleep 100", "-w", node, user="hcbob")
    started(lab, node, job)
    folder, group = lab.dir, lab.group
    running = members([group])
    start = time.monotonic()
    lab.down()
    assert time.monotonic() - start < 10
    try:
        assert running
        assert [process for process in running if identity(process.pid) == process] == []
        assert [path for base in CGROUP.iterdir() for path in base.glob(f"*_{prefix}[1-4]")] == []
        assert not group.exists()
        assert not folder.exists()
        if not members(group.parent.glob("hpccarbon_lab.*")):  # other labs on this machine need them still
            assert {"hcalice", "hcbob"}.isdisjoint(user.pw_name for user in pwd.getpwall())
    finally:
        folder.mkdir(mode=0o755, exist_ok=True)
        lab.up(prefix=prefix)
