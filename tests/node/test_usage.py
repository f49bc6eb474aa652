"""Where Slurm keeps its jobs, in every layout; and what the hooks left, read without trust."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.errors import MeterMalformed, MeterMissing
from hpccarbon.node.sysroot import SysRoot, parse_cpu_list
from hpccarbon.node.usage import cgroup
from hpccarbon.node.usage.jobs import JobFiles, facts, parse_variables
from hpccarbon.node.usage.processes import ProcessTime, members, parse_stat
from hpccarbon.node.usage.watch import Watch

CPU_STAT = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n"


def put(root: Path, relative: str, text: str = "0\n") -> None:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


V2 = "sys/fs/cgroup"
LAYOUTS = {
    "v1, one slurmd": ("sys/fs/cgroup/cpuacct/slurm", "uid_1000/job_42", "cpuacct.usage", 1),
    "v1, multiple slurmd": ("sys/fs/cgroup/cpuacct/slurm_n1", "uid_1000/job_42", "cpuacct.usage", 1),
    "v1, joined controllers": ("sys/fs/cgroup/cpu,cpuacct/slurm", "uid_0/job_42", "cpuacct.usage", 1),
    "v2, 22.05 to 25.05": (f"{V2}/system.slice/slurmstepd.scope", "job_42", "cpu.stat", 2),
    "v2, multiple slurmd": (f"{V2}/system.slice/n1_slurmstepd.scope", "job_42", "cpu.stat", 2),
    "v2, 25.11 renamed slice": (f"{V2}/slurm.slice/n1_slurmstepd.scope", "job_42", "cpu.stat", 2),
    "v2, in a container": (f"{V2}/docker-1.scope/system.slice/slurmstepd.scope", "job_42", "cpu.stat", 2),
    "v2, 26.05 SLUID": (f"{V2}/system.slice/slurmstepd.scope", "s0123456789ABC", "cpu.stat", 2),
    "v2, 24.11 slice below a prefix": (
        f"{V2}/kubepods.slice/pod1/slurm.slice/n1_slurmstepd.scope",
        "job_42",
        "cpu.stat",
        2,
    ),
    "hybrid": (f"{V2}/unified/system.slice/n1_slurmstepd.scope", "job_42", "cpu.stat", 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_found(tmp_path: Path, name: str) -> None:
    scope, job, usage, version = LAYOUTS[name]
    text = "1234567000\n" if version == 1 else CPU_STAT
    put(tmp_path, f"{scope}/{job}/{usage}", text)
    put(tmp_path, f"{scope}/{usage}", text)
    if version == 2:
        base = f"{V2}/unified" if "unified" in scope else V2
        put(tmp_path, f"{base}/cgroup.controllers", "cpu\n")
    root = SysRoot(tmp_path)
    layout = cgroup.find_layout(root, "n1")
    assert layout is not None
    assert (layout.scope, layout.version) == (scope, version)
    (group,) = cgroup.job_directories(root, layout)
    assert group.path == job
    assert group.job_id == (None if "SLUID" in name else 42)
    file = root.open(f"{layout.scope}/{group.path}/{layout.usage}")
    assert cgroup.read_usage(file, layout.version) * layout.unit_ns == 1_234_567_000


def test_a_node_of_its_own_name_wins_over_a_scope_without(tmp_path: Path) -> None:
    for scope in ("slurm", "slurm_n1", "slurm_n2"):
        put(tmp_path, f"sys/fs/cgroup/cpuacct/{scope}/cpuacct.usage")
    layout = cgroup.find_layout(SysRoot(tmp_path), "n1")
    assert layout is not None and layout.scope.endswith("/slurm_n1")
    assert cgroup.find_layout(SysRoot(tmp_path / "empty"), "n1") is None


UNCOUNTED = "sys/fs/cgroup/freezer/slurm_n1"


def test_where_no_group_counts_the_processes_are_added_up(tmp_path: Path) -> None:
    """jobacct_gather/linux: a freezer group and nothing that counts. One that counts goes first, whenever it comes."""
    put(tmp_path, f"{UNCOUNTED}/cgroup.procs", "")
    root = SysRoot(tmp_path)
    layout = cgroup.find_layout(root, "n1")
    assert layout is not None and layout.by_processes and layout.source == "processes of freezer groups"
    put(tmp_path, "sys/fs/cgroup/cpuacct/slurm_n1/cpuacct.usage")
    layout = cgroup.find_layout(root, "n1")
    assert layout is not None and not layout.by_processes and layout.source == "cgroup v1"


@pytest.fixture
def uncounted(tmp_path: Path) -> tuple[SysRoot, Path]:
    """A job's group without a counter, holding real processes of this machine: (root, the step's cgroup.procs)."""
    (tmp_path / "proc").symlink_to("/proc")
    procs = tmp_path / UNCOUNTED / "uid_0/job_7/step_0/cgroup.procs"
    put(tmp_path, str(procs.relative_to(tmp_path)), "")
    return SysRoot(tmp_path), procs


BURN = "import time\nwhile time.process_time() < {}: pass\n"


def test_a_process_that_ended_is_counted_by_the_one_that_waited_for_it(uncounted: tuple[SysRoot, Path]) -> None:
    """A shell in the group runs children that come and go between two looks: none of their time is lost or doubled."""
    root, procs = uncounted
    burn = f"{sys.executable} -c '{BURN.format(0.15)}'"
    with subprocess.Popen(
        ["sh", "-c", f"read go; {burn}; {burn}; echo done; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        procs.write_text(f"{shell.pid}\n")
        time_of = ProcessTime(root, f"{UNCOUNTED}/uid_0/job_7")
        counts = [time_of.count()]
        shell.stdin.write("go\n")
        shell.stdin.flush()
        while not select.select([shell.stdout], [], [], 0.02)[0]:
            children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text()
            procs.write_text("\n".join([str(shell.pid), *children.split()]) + "\n")
            counts.append(time_of.count())
        counts.append(time_of.count())
        used_s = (counts[-1] - counts[0]) / os.sysconf("SC_CLK_TCK")
        waited = parse_stat(Path(f"/proc/{shell.pid}/stat").read_text())[1].waited / os.sysconf("SC_CLK_TCK")
        shell.stdin.close()
    assert counts == sorted(counts)
    assert used_s == pytest.approx(waited, abs=0.03)
    assert used_s >= 0.3 - 0.03
    procs.write_text("")  # all gone: the counter stands
    assert time_of.count() == counts[-1]
    shutil.rmtree(procs.parents[1])
    with pytest.raises(MeterMissing):
        time_of.count()


def test_a_process_name_may_hold_anything(tmp_path: Path) -> None:
    line = "42 (a) R 1 (b) S 1 1 1 0 -1 0 0 0 0 0 30 12 5 3 20 0 1 0 777 0 0\n"
    assert parse_stat(line) == (777, (42, 8))
    for bad in ("", "42 (sh)", "42 (sh) S 1 1"):
        with pytest.raises(ValueError):
            parse_stat(bad)


STOPPED = {
    "R": "4711 (a) R 1 1\n",
    "T": "4711 (a T) T 1 1\n",
    "gone": "",
}
SUSPENDED = {
    1: ("sys/fs/cgroup/freezer/slurm_n1/uid_5/job_7", "freezer.state", "FROZEN", "THAWED"),
    2: (f"{V2}/system.slice/slurmstepd.scope/job_7", "user/cgroup.freeze", "1", "0"),
}


@pytest.mark.parametrize("version", SUSPENDED)
def test_a_job_is_suspended_when_all_of_its_steps_are(tmp_path: Path, version: Literal[1, 2]) -> None:
    directory, file, frozen, thawed = SUSPENDED[version]
    scope = "sys/fs/cgroup/cpuacct/slurm_n1" if version == 1 else f"{V2}/system.slice/slurmstepd.scope"
    layout = cgroup.Layout(version, V2, scope, "", 1)
    group = cgroup.JobGroup("uid_5/job_7" if version == 1 else "job_7", 7, None, 5)
    root = SysRoot(tmp_path)
    assert not cgroup.suspended(root, layout, group)
    for step in ("step_extern", "step_batch"):
        if version == 1:  # where the time is counted is another hierarchy than where it is frozen
            put(tmp_path, f"{scope}/uid_5/job_7/{step}/cgroup.procs", "")
    put(tmp_path, f"{directory}/step_extern/{file}", frozen)
    assert not cgroup.suspended(root, layout, group), "nothing but the extern step: between two steps"
    put(tmp_path, f"{directory}/step_batch/{file}", frozen)
    assert cgroup.suspended(root, layout, group)
    put(tmp_path, f"{directory}/step_extern/{file}", thawed)
    assert cgroup.suspended(root, layout, group), "whether Slurm freezes the extern step too says nothing"
    put(tmp_path, f"{directory}/step_0/{file}", thawed)
    put(tmp_path, f"{scope}/{group.path}/step_0/cgroup.procs", "")
    assert not cgroup.suspended(root, layout, group)


@pytest.mark.parametrize(
    ("states", "expected"),
    [("T", True), ("TT", True), ("TR", False), ("RT", False), ("R", False), (("T", "gone"), True), (("gone",), False)],
)
@pytest.mark.parametrize("version", SUSPENDED)
def test_a_job_is_suspended_when_all_of_its_processes_are_stopped(
    tmp_path: Path, version: Literal[1, 2], states: Sequence[str], expected: bool
) -> None:
    scope = "sys/fs/cgroup/cpuacct/slurm_n1" if version == 1 else f"{V2}/system.slice/slurmstepd.scope"
    layout = cgroup.Layout(version, V2, scope, "", 1)
    group = cgroup.JobGroup("uid_5/job_7" if version == 1 else "job_7", 7, None, 5)
    below = "task_0" if version == 1 else "user/task_0"
    for number, state in enumerate(states):
        put(tmp_path, f"proc/{number}/stat", STOPPED[state])
        put(tmp_path, f"{scope}/{group.path}/step_{number}/{below}/cgroup.procs", f"{number}\n")
    put(tmp_path, "proc/99/stat", STOPPED["R"])
    put(tmp_path, f"{scope}/{group.path}/step_extern/{below}/cgroup.procs", "99\n")
    put(tmp_path, f"{scope}/{group.path}/step_0/slurm/cgroup.procs", "99\n")
    assert cgroup.suspended(SysRoot(tmp_path), layout, group) == expected


def job_by_title(root: Path, title: str) -> int | None:
    """The job of the only SLUID directory, in one of whose steps a process of this title runs."""
    scope = f"{V2}/system.slice/slurmstepd.scope"
    put(root, f"{V2}/cgroup.controllers", "cpu\n")
    put(root, f"{V2}/tasks")  # a file where directories are looked for
    put(root, f"{scope}/cpu.stat", CPU_STAT)
    put(root, f"{scope}/s0123456789ABC/cpu.stat", CPU_STAT)
    put(root, f"{scope}/s0123456789ABC/step_batch/slurm/cgroup.procs", "777\n")
    put(root, "proc/777/cmdline", title)
    here = SysRoot(root)
    layout = cgroup.find_layout(here, "n1")
    assert layout is not None
    (group,) = cgroup.job_directories(here, layout)
    return cgroup.job_of_sluid(here, layout, group)


def test_a_sluid_is_named_by_its_slurmstepd(tmp_path: Path) -> None:
    assert job_by_title(tmp_path, "slurmstepd: [4711.batch]\0") == 4711


def test_a_sluid_that_no_slurmstepd_tells_of_yet_has_no_job(tmp_path: Path) -> None:
    assert job_by_title(tmp_path, "sleep\x001\x00") is None


@pytest.mark.parametrize(
    ("version", "text", "why"),
    [(2, "user_usec 5\n", "expected CPU time"), (2, "usage_usec -5\n", "negative"), (1, "-5\n", "negative")],
)
def test_a_count_that_is_none_is_malformed(tmp_path: Path, version: int, text: str, why: str) -> None:
    put(tmp_path, "usage", text)
    file = SysRoot(tmp_path).open("usage")
    with pytest.raises(MeterMalformed, match=why):
        cgroup.read_usage(file, version)
    file.close()


def test_members_of_a_group_are_its_numbers_and_its_tasks_where_these_are_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "group/cgroup.procs", "5\nx\n")
    put(tmp_path, "group/task_0/cgroup.procs", "6\n")
    root = SysRoot(tmp_path)
    assert list(members(root, "group", levels=1)) == [5]
    assert list(members(root, "group")) == [5, 6]


def test_a_small_file_that_never_ends_is_cut(tmp_path: Path) -> None:
    with (tmp_path / "endless").open("w") as file:
        file.truncate(64 << 20)
    assert len(SysRoot(tmp_path).text("endless")) < 8 << 20


@given(cpus=st.sets(st.integers(0, 300), max_size=40))
def test_cpu_lists_read_back(cpus: set[int]) -> None:
    text = ",".join(str(cpu) for cpu in sorted(cpus))
    assert parse_cpu_list(text) == sorted(cpus)


def test_cpu_list_ranges_and_nonsense() -> None:
    assert parse_cpu_list("0-3,8\n") == [0, 1, 2, 3, 8]
    assert parse_cpu_list("\n") == []
    for bad in ("3-1", "a", "0-99999999", "-1"):
        with pytest.raises(ValueError):
            parse_cpu_list(bad)


@pytest.fixture(params=["cpuacct", "unified"])
def real_group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A real cgroup of this machine, v1 or v2."""
    candidates = {"cpuacct": ["/sys/fs/cgroup/cpuacct"], "unified": ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]}
    for base in candidates[request.param]:
        usage = "cpuacct.usage" if request.param == "cpuacct" else "cpu.stat"
        group = Path(base) / f"hpccarbon_test_{os.getpid()}"
        if os.geteuid() == 0 and (Path(base) / usage).exists():
            group.mkdir()
            yield group
            group.rmdir()
            return
    pytest.skip(f"needs root and a {request.param} cgroup hierarchy")


@pytest.mark.root
def test_a_real_parent_keeps_the_time_of_removed_children(real_group: Path) -> None:
    """What the division of vanished jobs stands on: Slurm removes a job's group before its epilog runs."""
    version = 1 if "cpuacct" in str(real_group) else 2
    usage = "cpuacct.usage" if version == 1 else "cpu.stat"
    child = real_group / "job_1"
    child.mkdir()
    root = SysRoot("/")
    parent = root.open(f"{real_group}/{usage}")
    file = root.open(f"{child}/{usage}")
    subprocess.run(
        ["sh", "-c", f"echo $$ > {child}/cgroup.procs; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], check=True
    )
    used = cgroup.read_usage(file, version)
    assert used > 0
    child.rmdir()
    with pytest.raises(MeterMissing):
        cgroup.read_usage(file, version)
    assert cgroup.read_usage(parent, version) >= used


@pytest.mark.root
def test_a_watch_sees_real_groups_come_and_go(real_group: Path) -> None:
    watch = Watch()
    assert watch.add(real_group)
    assert not watch.changed()
    (real_group / "job_1").mkdir()
    assert watch.changed()
    assert not watch.changed()
    (real_group / "job_1").rmdir()
    assert watch.changed()
    watch.close()


def test_a_directory_that_comes_back_is_watched_anew(tmp_path: Path) -> None:
    watch = Watch()
    folder = tmp_path / "uid_1000"
    for _ in range(2):
        folder.mkdir()
        assert watch.add(folder)
        (folder / "job_1").mkdir()
        assert watch.changed()
        shutil.rmtree(folder)
        assert watch.changed()
    watch.close()


@pytest.mark.root
def test_doctor_says_where_the_kernel_watches_nothing(tmp_path: Path) -> None:
    """In a user namespace of its own, so that nobody else is refused."""
    config = tmp_path / "hpccarbon.toml"
    config.write_text(f'cluster = "c"\n[paths]\nshared_dir = "{tmp_path}"\n[daemon]\nroot = "{tmp_path}"\n')
    doctor = f"{sys.executable} -m hpccarbon doctor --config {config}"
    limit = "/proc/sys/user/max_inotify_instances"
    told = {
        most: subprocess.run(
            ["unshare", "--user", "--map-root-user", "sh", "-c", f"echo {most} > {limit}; {doctor}"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for most in (0, 9)
    }
    assert "looked for at every tick" in told[0]
    assert "max_user_instances" in told[0]
    assert "looked for at every tick" not in told[9]
    assert "cgroup" in told[9]


PROLOG = (
    "SLURM_JOB_ID=42\nSLURM_JOB_UID=1000\nSLURM_JOB_USER=alice\nSLURM_JOB_ACCOUNT=physics\nSLURM_JOB_PARTITION=batch\n"
    "SLURM_JOB_CPUS_PER_NODE=4(x2),8\nSLURM_JOB_NODELIST=n[1-3]\nSLURMD_NODENAME=n3\nSLURM_JOB_GPUS=0,2\nEND\n"
)


def test_a_prolog_file_becomes_facts(tmp_path: Path) -> None:
    (tmp_path / "42.1.prolog").write_text(PROLOG)
    (file,) = JobFiles(tmp_path).new()
    run = facts(file, "n3")
    assert (run.job_id, run.restart, run.uid, run.user) == (42, 1, 1000, "alice")
    assert (run.account, run.partition, run.alloc_cores, run.alloc_gpus) == ("physics", "batch", 8, ("0", "2"))


def test_a_half_written_file_is_looked_at_again(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    path = tmp_path / "42.0.prolog"
    path.write_text(PROLOG[:60])
    assert files.new() == []
    path.write_text(PROLOG)
    assert [file.job_id for file in files.new()] == [42]
    assert files.new() == []


def test_what_is_no_job_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("SLURM_JOB_ID=1\nEND\n")
    (tmp_path / "42.0.prolog").symlink_to(tmp_path / "passwd")
    os.mkfifo(tmp_path / "43.0.prolog")
    (tmp_path / "44.0.prolog").mkdir()
    (tmp_path / "99999999999999999999.0.prolog").write_text(PROLOG)
    assert JobFiles(tmp_path).new() == []


def test_only_root_and_the_daemons_own_user_are_believed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root can give a file to another user")
    (tmp_path / "42.0.prolog").write_text(PROLOG)
    os.chown(tmp_path / "42.0.prolog", 65534, 65534)
    assert JobFiles(tmp_path).new() == []


@given(text=st.text(max_size=400))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    values = parse_variables(text)
    assert values is None or all(key.startswith("SLURM") for key in values)


@given(value=st.text(alphabet="0123456789(x),-", max_size=20))
def test_malformed_facts_are_missing_never_wrong(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    folder = tmp_path_factory.mktemp("jobs")
    text = f"SLURM_JOB_UID={value}\nSLURM_JOB_CPUS_PER_NODE={value}\nSLURM_JOB_NODELIST=n1\nEND\n"
    (folder / "1.0.prolog").write_text(text)
    (file,) = JobFiles(folder).new()
    run = facts(file, "n1")
    assert run.uid is None or str(run.uid) == str(int(value))
    assert run.alloc_cores is None or run.alloc_cores >= 0


def test_the_nodes_cpu_time_is_known_before_slurm_made_a_group(tmp_path: Path) -> None:
    """An idle node is seen to be idle, and its idle power learned, although no job ever ran."""
    stat = "cpu  100 0 50 9000 5 0 10 0 0 0\n"
    for name, relative, text, wanted_ns in (
        ("v1", "sys/fs/cgroup/cpuacct/cpuacct.usage", "1234567\n", 1_234_567),
        ("v2", "sys/fs/cgroup/cpu.stat", CPU_STAT, 1_234_567_000),
        ("neither", "proc/stat", stat, 160 * 10_000_000),
    ):
        put(tmp_path / name, "proc/stat", stat)
        put(tmp_path / name, relative, text)
        assert cgroup.NodeTime(SysRoot(tmp_path / name)).read_ns() == wanted_ns, name
    nothing = cgroup.NodeTime(SysRoot(tmp_path / "nothing"))
    assert nothing.read_ns() is None
    nothing.close()
