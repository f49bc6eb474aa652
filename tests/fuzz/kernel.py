"""Targets that stand for hardware: kernel files, NVIDIA's library, and a node whose files go mad while jobs run."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hpccarbon import config as configuration
from hpccarbon.node import meters, seal
from hpccarbon.node.meters import nvml
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.store import Store
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Reading
from hpccarbon.units import NS_PER_S
from tests.fuzz.target import Check, WrongTotal
from tests.meters.ground import TREES
from tests.meters.test_nvml import GPU0, GPU1, gpu
from tests.node.virtual import Node, tick
from tests.stubs.nvml import build

INT64 = 2**63
_TREES = ("xeon-2s", "epyc-2s/t0", "xeon-psys", "cray-ex-gpu", "grace-hopper-hwmon", "mi300x-hwmon", "acpi-power-meter")
_CONFIG = configuration.parse('[meters]\nenabled = ["rapl", "amd", "cray", "hwmon", "model"]\n')


@contextlib.contextmanager
def kernel_files(room: Path) -> Iterator[Check]:
    """Any file of any fixture tree holds anything: the first two bytes choose which."""
    places = [(room / str(at), TREES / name) for at, name in enumerate(_TREES) if (TREES / name).is_dir()]
    for place, source in places:
        shutil.copytree(source, place)
    files = [(place, path) for place, _ in places for path in sorted(place.rglob("*")) if path.is_file()]

    def check(data: bytes) -> None:
        place, path = files[int.from_bytes(data[:2], "big") % len(files)]
        before = path.read_bytes()
        path.write_bytes(data[2:])
        found = meters.discover(SysRoot(place), _CONFIG)
        try:
            for at_ns in (NS_PER_S, 2 * NS_PER_S):
                for reading in itertools.chain.from_iterable(meter.read(at_ns) for meter in found):
                    if isinstance(reading, Reading) and not 0 <= reading.energy_uj < INT64:
                        raise WrongTotal(f"{reading.meter}/{reading.zone} read {reading.energy_uj} µJ")
        finally:
            for meter in found:
                meter.close()
            path.write_bytes(before)

    yield check


def kernel_file_seeds() -> list[bytes]:
    texts = (
        b"123456789\n",
        b"package-0\n",
        b"262143328850\n",
        b"12 J 345 us\n",
        b"0-63\n",
        b"power1\n",
        b"AuthenticAMD\n",
    )
    return [number.to_bytes(2, "big") + text for number in range(0, 400, 7) for text in texts]


@contextlib.contextmanager
def nvidia(room: Path) -> Iterator[Check]:
    """The real pynvml on the stub of NVIDIA's library, which answers whatever the input says."""
    ctypes.CDLL(str(build.build(room)))
    state = room / "nvml.state"
    os.environ["NVML_STUB_STATE"] = str(state)
    (room / "root/proc/driver/nvidia").mkdir(parents=True)
    (room / "root/proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\n")
    config = configuration.parse("[gpu]\ntimeout_s = 1\nstart_timeout_s = 5\n")

    def check(data: bytes) -> None:
        # A driver that hangs has tests of its own, and the stub answers 16 GPUs at most.
        state.write_bytes(data.replace(b"hang_s", b"power_mw"))
        meter = nvml.discover(SysRoot(room / "root"), config)
        try:
            for at_ns in (NS_PER_S, 2 * NS_PER_S):
                for reading in meter.read(at_ns):
                    if isinstance(reading, Reading) and not 0 <= reading.energy_uj < INT64:
                        raise WrongTotal(f"{reading.zone} read {reading.energy_uj} µJ")
            meter.refresh()
        finally:
            meter.close()

    try:
        yield check
    finally:
        del os.environ["NVML_STUB_STATE"]


def nvidia_seeds() -> list[bytes]:
    head = "driver 550.54.15\n"
    slices = "mig 1 0 3 MIG-aaaa\nmig 2 0 4 MIG-bbbb\nprocess 77 40\n"
    return [
        (head + gpu()).encode(),
        (head + gpu(GPU0) + gpu(GPU1, 1, energy_mj=None)).encode(),
        (head + gpu() + slices).encode(),
        (head + "error nvmlDeviceGetTotalEnergyConsumption 3\n" + gpu(util=50, lost=1)).encode(),
    ]


@contextlib.contextmanager
def node(room: Path) -> Iterator[Check]:
    """A virtual node: the bytes are what happens, one after the other; then everything is stored and sealed."""
    numbers = itertools.count()

    def check(data: bytes) -> None:
        place = room / str(next(numbers))
        try:
            _live(Node(place), data)
        finally:
            shutil.rmtree(place)

    yield check


def node_seeds() -> list[bytes]:
    return [
        bytes((2, 0, 0, 1, 3, 0)),
        bytes((2, 2, 0, 4, 0)) + b"junk\n" + bytes((5, 0, 3, 1)),
        bytes((2, 4, 3)) + b"9223372036854775807\n" + bytes((0, 0, 5, 0)),
        bytes((6, 2, 0, 7, 0, 1, 1, 3)),
    ]


def _live(node: Node, data: bytes) -> None:
    config = node.config()
    store = Store(config.state_dir("n1") / seal.STORE_NAME, config.cluster, "n1")
    sampler = node.sampler(config)
    tick(sampler, node)
    begin_ns, ticks, jobs = node.at_ns, 1, itertools.count(1)
    stream = iter(data[:64])
    try:
        for word in stream:
            _happen(node, word, stream, jobs)
            tick(sampler, node)
            ticks += 1
        node.show()
        node.run(NS_PER_S)
        tick(sampler, node)
        _settled(sampler, node.at_ns - begin_ns, ticks + 1)
        mark = sampler.settle()
        if mark is not None:
            store.commit(sampler.pending, mark, sampler.channels, "{}")
        for hour in store.hours():
            seal.shard_table(list(store.shares(hour)), list(store.meters(hour)), {})
    finally:
        sampler.close()
        store.close()


def _happen(node: Node, word: int, stream: Iterator[int], jobs: Iterator[int]) -> None:
    living = sorted(node.usage_ns)
    match word % 8:
        case 0:
            node.run(NS_PER_S, dict.fromkeys(living[:8], 1.0), system=0.25)
        case 1:
            node.run(61 * NS_PER_S, dict.fromkeys(living[:2], 0.5))
        case 2:
            node.start(next(jobs), cores=1 + word % 5, hooks=word < 128)
        case 3 if living:
            node.end(living[word % len(living)], hooks=word < 128)
        case 4:
            files = sorted(path for path in node.root.rglob("*") if path.is_file())
            target = files[next(stream, 0) % len(files)]
            with target.open("r+b") as file:
                file.write(bytes(itertools.islice(stream, 24)))
                file.truncate()
        case 5:
            node.show()
        case 6:
            node.wall_offset_ns += (word - 128) * 600 * NS_PER_S
        case 7:
            for path in sorted(node.jobs_dir.iterdir())[:1]:
                path.write_bytes(bytes(itertools.islice(stream, 32)) + b"\nSLURM_JOB_CPUS_PER_NODE=9\nEND\n")
        case _:
            pass


def _settled(sampler: Sampler, length_ns: int, ticks: int) -> None:
    """Law 1, nothing negative, and no more than the hardware can draw."""
    sampler.settle()
    shares = dict.fromkeys(("cpu", "dram"), 0)
    for share in sampler.pending.shares.values():
        values = (share.cpu_uj or 0, share.dram_uj or 0, share.idle_uj, share.cpu_time_ns, share.present_us)
        if min(*values, share.covered_us, share.modelled_uj) < 0:
            raise WrongTotal(f"a negative share: {share}")
        shares["cpu"] += share.cpu_uj or 0
        shares["dram"] += share.dram_uj or 0
    metered = dict.fromkeys(("cpu", "dram"), 0)
    channels = {channel.key: channel for channel in sampler.channels}
    for (_, key), (energy_uj, _) in sampler.pending.meters.items():
        channel = channels[key]
        metered[channel.component] += energy_uj
        bound_uj = channel.max_power_w * (length_ns + ticks * NS_PER_S) // 1000
        if not 0 <= energy_uj <= bound_uj:
            raise WrongTotal(f"{key} counted {energy_uj} µJ in {length_ns / 1e9:.0f} s")
    if shares != metered:
        raise WrongTotal(f"shares {shares}, meters {metered}")
