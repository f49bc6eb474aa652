"""The root that a lab node's daemon reads: kernel files of a two-socket server with 8 CPUs. Runs nothing."""

from __future__ import annotations

from pathlib import Path

from tests.lab.powermeter import CPUS, START_UJ, ZONES, stat_text

CONTROLLERS = ("cpuacct", "cpuset", "memory", "freezer", "devices")
_XEON = ("GenuineIntel", 6, 85, "Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz", 7)
_EPYC = ("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor", 1)
MODEL_ONLY = 3
"""Index of the node without RAPL."""


def build(root: Path, node: str, index: int, real_mb: int) -> None:
    """Make or complete a node's tree. Files that the meter writes keep what they hold."""
    powercap = root / "sys/devices/virtual/powercap/intel-rapl"
    classes = root / "sys/class/powercap"
    if index != MODEL_ONLY:
        _put(powercap / "enabled", "1\n")
        _link(classes / "intel-rapl", "../../devices/virtual/powercap/intel-rapl")
    for zone in ZONES[index]:
        directory = powercap / zone.path
        _put(directory / "name", f"{zone.label}\n")
        _put(directory / "enabled", "1\n")
        _put(directory / "uevent", "")
        _put(directory / "max_energy_range_uj", f"{zone.range_uj}\n")
        _put(directory / "energy_uj", f"{START_UJ % zone.range_uj:015d}\n", keep=True, mode=0o400)
        if zone.limit_uw:
            _put(directory / "constraint_0_name", "long_term\n")
            _put(directory / "constraint_0_power_limit_uw", f"{zone.limit_uw}\n")
            _put(directory / "constraint_0_max_power_uw", f"{zone.limit_uw}\n")
        # The kernel's class directory lists nested zones too, as links beside their parents.
        _link(classes / directory.name, f"../../devices/virtual/powercap/intel-rapl/{zone.path}")
    _build_proc(root, index, real_mb)
    _build_cpus(root)
    for controller in CONTROLLERS:
        # Slurm makes the target when slurmd starts; until then the link dangles, as it would on a real node.
        _link(root / f"sys/fs/cgroup/{controller}/slurm_{node}", f"/sys/fs/cgroup/{controller}/slurm_{node}")
    _put(root / "sys/fs/cgroup/cpuacct/cpuacct.usage", f"{0:015d}\n", keep=True)


def _build_proc(root: Path, index: int, real_mb: int) -> None:
    vendor, family, model, name, stepping = _EPYC if index == MODEL_ONLY else _XEON
    blocks = []
    for cpu in range(CPUS):
        socket = cpu * 2 // CPUS
        blocks.append(
            f"processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
            f"model name\t: {name}\nstepping\t: {stepping}\ncpu MHz\t\t: 3000.000\nphysical id\t: {socket}\n"
            f"siblings\t: {CPUS // 2}\ncore id\t\t: {cpu % (CPUS // 2)}\ncpu cores\t: {CPUS // 2}\n"
            "flags\t\t: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov sse sse2 avx avx2\n"
        )
    _put(root / "proc/cpuinfo", "\n".join(blocks) + "\n")
    _put(
        root / "proc/meminfo",
        f"MemTotal:       {real_mb * 1024:8d} kB\nMemFree:        {real_mb * 700:8d} kB\n"
        f"MemAvailable:   {real_mb * 800:8d} kB\n",
    )
    _put(root / "proc/stat", stat_text(0, 0).decode(), keep=True)
    _link(root / "proc/sys/kernel/random/boot_id", "/proc/sys/kernel/random/boot_id")


def _build_cpus(root: Path) -> None:
    cpus = root / "sys/devices/system/cpu"
    for name in ("online", "possible", "present"):
        _put(cpus / name, f"0-{CPUS - 1}\n")
    for cpu in range(CPUS):
        socket = cpu * 2 // CPUS
        first = socket * CPUS // 2
        _put(cpus / f"cpu{cpu}/topology/physical_package_id", f"{socket}\n")
        _put(cpus / f"cpu{cpu}/topology/core_id", f"{cpu % (CPUS // 2)}\n")
        _put(cpus / f"cpu{cpu}/topology/thread_siblings_list", f"{cpu}\n")
        _put(cpus / f"cpu{cpu}/topology/core_siblings_list", f"{first}-{first + CPUS // 2 - 1}\n")


def _put(path: Path, text: str, *, keep: bool = False, mode: int = 0o444) -> None:
    """A file with this text; `keep` leaves one alone that is there already, for someone holds it open."""
    if path.exists() and (keep or path.read_text() == text):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _link(path: Path, target: str) -> None:
    if not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
