"""A tick with 128 job cgroups and 4 RAPL zones against a C program that reads the same files; and what it weighs.

Real cgroups (v1 or v2, whichever this machine shows), made here and removed here; powercap files are plain files on
tmpfs. Every job used CPU time between two ticks, so nothing is skipped.

python -m bench.tick [gpus]     with 8 zones and 8 GPUs of the stub NVML, whose own time is measured beside it
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpccarbon.config import Config
from hpccarbon.node import meters
from hpccarbon.node.daemon import AHEAD_NS, clocks
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.jobs import JobFiles

JOBS, TICKS = 128, 1_000
HERE = Path(__file__).parent
SOCKETS, GPU_SOCKETS, GPUS = 2, 4, 8


def build_floor(directory: Path) -> Path:
    """Compile the C floor."""
    program = directory / "floor"
    subprocess.run(["cc", "-O2", "-o", str(program), str(HERE / "floor.c")], check=True)
    return program


class Floor:
    """The C program, one tick per request: so that it and we take turns on the same files in the same state."""

    def __init__(self, program: Path, files: list[Path]) -> None:
        self._process = subprocess.Popen(
            [str(program), *map(str, files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def tick(self) -> float:
        """Microseconds of one tick."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("t\n")
        return int(self._process.stdout.readline()) / 1e3

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Groups:
    """A Slurm-shaped tree of real cgroups, with some CPU time in each, under a node name of its own."""

    def __init__(self, node: str, jobs: int) -> None:
        v1 = Path("/sys/fs/cgroup/cpuacct")
        self.version = 1 if (v1 / "cpuacct.usage").exists() else 2
        if self.version == 1:
            self.scope = v1 / f"slurm_{node}"
            self.paths = [self.scope / "uid_1000" / f"job_{number}" for number in range(1, jobs + 1)]
            self.usage = "cpuacct.usage"
        else:
            self.scope = Path("/sys/fs/cgroup/system.slice") / f"{node}_slurmstepd.scope"
            self.paths = [self.scope / f"job_{number}" for number in range(1, jobs + 1)]
            self.usage = "cpu.stat"
        for path in self.paths:
            path.mkdir(parents=True)
        self.burn(100_000)

    def burn(self, cpu_ns: int) -> None:
        """Let one process use a little CPU time in every group."""
        me = os.fork()
        if me == 0:
            for path in self.paths:
                (path / "cgroup.procs").write_text(str(os.getpid()))
                end = time.process_time_ns() + cpu_ns
                while time.process_time_ns() < end:
                    pass
            os._exit(0)
        os.waitpid(me, 0)

    def files(self) -> list[Path]:
        """The usage files of all jobs."""
        return [path / self.usage for path in self.paths]

    def remove(self) -> None:
        """Remove every group."""
        for path in self.paths:
            path.rmdir()
        if self.version == 1:
            (self.scope / "uid_1000").rmdir()
        self.scope.rmdir()


def powercap(root: Path, sockets: int) -> list[Path]:
    """A package and its memory per socket, as plain files below a root that shows this machine's cgroups and CPUs."""
    files = []
    packages = [(f"intel-rapl:{socket}", f"package-{socket}") for socket in range(sockets)]
    for zone, name in [*packages, *((f"{zone}:0", "dram") for zone, _ in packages)]:
        directory = root / "sys/class/powercap" / zone
        directory.mkdir(parents=True)
        (directory / "name").write_text(name + "\n")
        (directory / "max_energy_range_uj").write_text("262143328850\n")
        (directory / "energy_uj").write_text("000123456789012\n")
        files.append(directory / "energy_uj")
    (root / "sys/fs").mkdir()
    (root / "sys/fs/cgroup").symlink_to("/sys/fs/cgroup")
    (root / "sys/devices").symlink_to("/sys/devices")
    (root / "proc").symlink_to("/proc")
    return files


def gpus(work: Path) -> Callable[[], float]:
    """Load the stub NVML with its GPUs; what takes the µs that reading them takes inside pynvml and the library."""
    from tests.stubs.nvml import build

    state = work / "nvml.state"
    card = "gpu\nuuid GPU-{0}\npci 00000000:0{0}:00.0\nname Stub\nenergy_mj 1000\npower_mw 250000\nlimit_mw 400000\n"
    state.write_text("driver 550\n" + "".join(card.format(number) for number in range(GPUS)))
    os.environ["NVML_STUB_STATE"] = str(state)
    (work / "root/dev").mkdir()
    (work / "root/dev/nvidiactl").touch()  # what says that a driver is loaded
    ctypes.CDLL(str(build.build(work)))  # the loader finds it by its name from now on
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(GPUS)]

    def inside() -> float:
        before = time.perf_counter_ns()
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return (time.perf_counter_ns() - before) / 1e3

    return inside


def grow(files: list[Path], total_uj: int) -> None:
    """Move the zones' counters on."""
    for file in files:
        with file.open("r+") as handle:
            handle.write(f"{total_uj:015d}\n")


def pss_kib() -> int:
    """This process' proportional set size."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def measure(with_gpus: bool = False) -> dict[str, float]:
    """Run the comparison: medians in µs, PSS in MiB and what must not be loaded."""
    work = Path(tempfile.mkdtemp(prefix="hpccarbon-bench-", dir="/dev/shm"))
    node = f"bench{os.getpid()}"
    groups = Groups(node, JOBS)
    try:
        root = work / "root"
        zones = powercap(root, GPU_SOCKETS if with_gpus else SOCKETS)
        inside_nvml = gpus(work) if with_gpus else None
        sysroot = SysRoot(root)
        jobs = work / "jobs"
        jobs.mkdir()
        sampler = Sampler(sysroot, node, meters.discover(sysroot, Config()), JobFiles(jobs))
        sampler.notice(*clocks(), True)
        sampler.tick(*clocks())
        assert len(sampler.present) == JOBS, len(sampler.present)
        assert len(sampler.channels) == len(zones) + (GPUS if with_gpus else 0), sampler.channels
        floor = Floor(build_floor(work), [*groups.files(), *zones])
        took: list[float] = []
        floors: list[float] = []
        inside: list[float] = []
        energy = 123_456_789_012
        for number in range(TICKS):
            groups.burn(20_000)  # otherwise all differences were 0 and the division had nothing to do
            energy += 5_000
            grow(zones, energy)
            before = time.perf_counter_ns()
            sampler.ask()
            asked = time.perf_counter_ns()
            if sampler.slow:  # the daemon sleeps meanwhile, and the drivers answer
                time.sleep(AHEAD_NS / 1e9)
            if number % 2:
                floors.append(floor.tick())
            at_ns, wall_ns = clocks()
            began = time.perf_counter_ns()
            sampler.notice(at_ns, wall_ns, False)
            sampler.tick(at_ns, wall_ns)
            took.append((time.perf_counter_ns() - began + asked - before) / 1e3)
            if number % 2 == 0:
                floors.append(floor.tick())
            if inside_nvml is not None:
                inside.append(inside_nvml())
            if number % 60 == 59:
                sampler.settle()
                sampler.committed()
        floor.close()
        foreign = [name for name in ("pyarrow", "pandas", "numpy", "duckdb") if name in sys.modules]
        return {
            "tick_us": statistics.median(took),
            "tick_p99_us": sorted(took)[TICKS * 99 // 100],
            "floor_us": statistics.median(floors),
            "nvml_us": statistics.median(inside) if inside else 0.0,
            "pss_mib": pss_kib() / 1024,
            "foreign": float(len(foreign)),
            "cgroup": float(groups.version),
        }
    finally:
        groups.remove()
        shutil.rmtree(work)


if __name__ == "__main__":
    import json

    print(json.dumps(measure(with_gpus="gpus" in sys.argv[1:])))
