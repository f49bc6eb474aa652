"""A virtual node made of plain files: counters that follow a known power model, jobs that come and go.

The truth (who drew how many µJ) is fixed by `Node.run` before any of our formulas sees the counters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

from hpccarbon.config import Config, parse
from hpccarbon.node import meters
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.units import NS_PER_S

T0_WALL_NS = 1_790_000_000 * NS_PER_S + 17 * NS_PER_S
BOOT = "11111111-2222-3333-4444-555555555555"


class Node:
    """Plain files below `directory`; time moves only by `run`."""

    def __init__(
        self,
        directory: Path,
        *,
        cpus: int = 8,
        range_uj: int = 262_143_328_850,
        idle_w: int = 40,
        dram_idle_w: int = 4,
        w_per_cpu: int = 10,
        dram: bool = True,
        make_run_dir: bool = True,
    ) -> None:
        self.directory = directory
        self.cpus = cpus
        self.range_uj = range_uj
        self.idle_w, self.dram_idle_w, self.w_per_cpu = idle_w, dram_idle_w, w_per_cpu
        self.at_ns = 1_000 * NS_PER_S
        self.wall_offset_ns = T0_WALL_NS - self.at_ns
        self.energy_uj = {"intel-rapl:0": range_uj - 70_000_000, "intel-rapl:1": range_uj - 900_000_000}  # soon to wrap
        if dram:
            self.energy_uj["intel-rapl:0:0"] = 12_345
        self.total_uj = dict.fromkeys(self.energy_uj, 0)
        self.usage_ns: dict[int, int] = {}
        self.owner: dict[int, int] = {}
        self.scope_ns = 5_000
        self.busy_ns = 77_000
        self.dynamic_uj: dict[int, int] = {}
        self.step_ns: dict[tuple[int, str], int] = {}
        self.root = directory / "root"
        self.cpuacct = self.root / "sys/fs/cgroup/cpuacct"
        self.scope = self.cpuacct / "slurm"
        self.jobs_dir = directory / "run" / "jobs"
        if make_run_dir:
            self.jobs_dir.mkdir(parents=True)
        self.scope.mkdir(parents=True)
        for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1"), ("intel-rapl:0:0", "dram")):
            if zone in self.energy_uj:
                self._write(f"sys/class/powercap/{zone}/name", name)
                self._write(f"sys/class/powercap/{zone}/max_energy_range_uj", str(range_uj))
                self._write(f"sys/class/powercap/{zone}/constraint_0_max_power_uw", str(150_000_000))
        self._write("sys/devices/system/cpu/online", f"0-{cpus - 1}")
        self._write("proc/sys/kernel/random/boot_id", BOOT)
        self._write("proc/meminfo", "MemTotal:       16384000 kB\n")
        self._write("proc/stat", "cpu 0 0 0 0 0 0 0 0 0 0\n")
        self.show()

    def _write(self, relative: str, text: str) -> None:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        # In place: the sampler holds descriptors open.
        path.write_text(text + "\n") if not path.exists() else self._overwrite(path, text)

    @staticmethod
    def _overwrite(path: Path, text: str) -> None:
        with path.open("r+") as file:
            file.write(text + "\n")
            file.truncate()

    def show(self) -> None:
        """Write all counters as they stand."""
        for zone, energy in self.energy_uj.items():
            self._write(f"sys/class/powercap/{zone}/energy_uj", str(energy))
        self._write("sys/fs/cgroup/cpuacct/slurm/cpuacct.usage", str(self.scope_ns))
        self._write("sys/fs/cgroup/cpuacct/cpuacct.usage", str(self.busy_ns))
        for job, used in self.usage_ns.items():
            self._write(f"sys/fs/cgroup/cpuacct/slurm/uid_{self.owner[job]}/job_{job}/cpuacct.usage", str(used))
        for (job, step), used in self.step_ns.items():
            self._write(f"{self._of_step(job, step)}/cpuacct.usage", str(used))

    def _of_step(self, job: int, step: str) -> str:
        return f"sys/fs/cgroup/cpuacct/slurm/uid_{self.owner[job]}/job_{job}/step_{step}"

    def start_step(self, job: int, step: str) -> None:
        """A step's group."""
        self.step_ns[job, step] = 0
        self.show()

    def end_step(self, job: int, step: str) -> None:
        """Slurm removes the group of a step that has ended."""
        usage = self.root / self._of_step(job, step) / "cpuacct.usage"
        self._overwrite(usage, "")
        rmtree(usage.parent)
        del self.step_ns[job, step]

    def start(self, job: int, uid: int = 1000, cores: int = 1, restart: int = 0, hooks: bool = True) -> None:
        """A job's prolog and then its group."""
        if hooks:
            self.hook(job, restart, "prolog", uid, cores)
        self.usage_ns[job] = 0
        self.owner[job] = uid
        (self.scope / f"uid_{uid}" / f"job_{job}").mkdir(parents=True)
        self.show()

    def end(self, job: int, cores: int = 1, restart: int = 0, hooks: bool = True) -> None:
        """The group goes first, as Slurm does it, and then the epilog comes."""
        for of_job, step in list(self.step_ns):
            if of_job == job:
                self.end_step(job, step)
        directory = self.scope / f"uid_{self.owner[job]}" / f"job_{job}"
        usage = directory / "cpuacct.usage"
        self._overwrite(usage, "")  # a removed cgroup answers no read; a removed plain file still would
        grave = self.directory / "removed"  # kept, so that its inode is not given out again: cgroupfs never does
        grave.mkdir(exist_ok=True)
        usage.rename(grave / f"{job}.{self.at_ns}")
        rmtree(directory)
        if not any(directory.parent.iterdir()):
            directory.parent.rmdir()
        del self.usage_ns[job]
        if hooks:
            self.hook(job, restart, "epilog", self.owner[job], cores)

    def forget(self) -> None:
        """Let go of what is remembered of jobs that have ended: of a long run that would be most of the memory."""
        for job in self.owner.keys() - self.usage_ns.keys():
            del self.owner[job]
            self.dynamic_uj.pop(job, None)

    def freeze(self, job: int, state: str) -> None:
        """What `scontrol suspend` (FROZEN) and `resume` (THAWED) do to a job's steps."""
        (self.scope / f"uid_{self.owner[job]}" / f"job_{job}" / "step_batch").mkdir(exist_ok=True)
        self._write(f"sys/fs/cgroup/freezer/slurm/uid_{self.owner[job]}/job_{job}/step_batch/freezer.state", state)

    def hook(self, job: int, restart: int, kind: str, uid: int, cores: int) -> None:
        """What slurm_scripts/prolog.sh writes."""
        import os

        made = self.directory / "hook.new"
        made.write_text(
            f"SLURM_JOB_ID={job}\nSLURM_JOB_UID={uid}\nSLURM_JOB_USER=user{uid}\nSLURM_JOB_ACCOUNT=acct\n"
            f"SLURM_JOB_PARTITION=batch\nSLURM_JOB_CPUS_PER_NODE={cores}\nSLURM_JOB_NODELIST=n1\nSLURMD_NODENAME=n1\nEND\n"
        )
        os.utime(made, ns=(self.wall_ns, self.wall_ns))
        # A run is named by its file's time: a real daemon must not find the file before it has this node's.
        made.rename(self.jobs_dir / f"{job}.{restart}.{kind}")

    @property
    def wall_ns(self) -> int:
        return self.at_ns + self.wall_offset_ns

    def run(
        self,
        dt_ns: int,
        load: dict[int, float] | None = None,
        system: float = 0.0,
        factor: dict[int, float] | None = None,
        steps: dict[tuple[int, str], float] | None = None,
    ) -> None:
        """Let time pass: CPUs busy per job (`load`), in its steps, by no job (`system`), and a job's own watts per CPU
        (`factor`)."""
        used = {job: round(cpus * dt_ns) for job, cpus in (load or {}).items()}
        for (job, step), cpus in (steps or {}).items():
            self.step_ns[job, step] += round(cpus * dt_ns)
            used[job] = used.get(job, 0) + round(cpus * dt_ns)
        other = round(system * dt_ns)
        dynamic = {
            job: round(cpu * self.w_per_cpu * (factor or {}).get(job, 1.0)) // 1_000 for job, cpu in used.items()
        }
        moving = sum(dynamic.values()) + other * self.w_per_cpu // 1_000
        idle = self.idle_w * dt_ns // 1_000
        halves = (moving // 2, moving - moving // 2)
        grown = {"intel-rapl:0": idle // 2 + halves[0], "intel-rapl:1": idle - idle // 2 + halves[1]}
        if "intel-rapl:0:0" in self.energy_uj:
            grown["intel-rapl:0:0"] = self.dram_idle_w * dt_ns // 1_000
        for zone, energy in grown.items():
            self.total_uj[zone] += energy
            self.energy_uj[zone] = (self.energy_uj[zone] + energy) % self.range_uj
        for job, cpu in used.items():
            self.usage_ns[job] += cpu
            self.dynamic_uj[job] = self.dynamic_uj.get(job, 0) + dynamic[job]
        self.scope_ns += sum(used.values())
        self.busy_ns += sum(used.values()) + other
        self.at_ns += dt_ns
        self.show()

    def config(self, **daemon: object) -> Config:
        """Settings whose paths lie below this node's directory."""
        keys = "".join(f"{key} = {value}\n" for key, value in daemon.items())
        base = self.directory
        return parse(
            f'cluster = "virtual"\n[paths]\nstate_dir = "{base}/state"\nrun_dir = "{base}/run"\n'
            f'shared_dir = "{base}/shared"\n'
            f'[daemon]\nroot = "{self.root}"\n{keys}'
        )

    def sampler(self, config: Config | None = None, log: Callable[[str], None] = lambda line: None) -> Sampler:
        """A fresh sampler on these files, as a daemon start would make it."""
        root = SysRoot(self.root)
        settings = config or self.config()
        idle = {"cpu": self.idle_w * 1_000_000, "dram": self.dram_idle_w * 1_000_000}
        found = meters.discover(root, settings)
        kept = settings.daemon.steps
        files = JobFiles(self.jobs_dir)
        return Sampler(root, "n1", found, files, configured_idle_uw=idle, keep_steps=kept, log=log)


def tick(sampler: Sampler, node: Node) -> None:
    """What the daemon's loop does at a tick."""
    sampler.notice(node.at_ns, node.wall_ns, True)
    sampler.tick(node.at_ns, node.wall_ns)
