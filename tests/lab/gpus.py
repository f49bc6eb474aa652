"""Four GPUs for the second node of a lab: a stub of NVIDIA's library whose cards draw a constant power."""

from __future__ import annotations

import time

from tests.lab.cluster import Lab
from tests.stubs.nvml import build

ORDER = (2, 0, 3, 1)
"""In which the library lists the cards, by minor number: another than Slurm's."""


def start_daemon(lab: Lab, power_w: tuple[int, ...], name: str = "Stub") -> None:
    """Compile the stub, describe the cards (`power_w` by minor number) and start the node's daemon on it."""
    node = lab.names[1]
    build.build(lab.dir)
    lines = ["driver 550.54\n"]
    for minor in ORDER:
        lines.append(
            f"gpu\nuuid GPU-{minor:08d}-0000-0000-0000-000000000000\npci 00000000:{minor + 1:02X}:00.0\nname {name}\n"
            f"minor {minor}\narch 8\nenergy_mj 1000000\npower_mw {power_w[minor] * 1000}\n"
            f"since_ns {time.clock_gettime_ns(time.CLOCK_BOOTTIME)}\nlimit_mw 400000\nmax_limit_mw 400000\n"
        )
    state = lab.dir / "nvml.state"
    state.write_text("".join(lines))
    mark = lab.nodes[node].root / "dev" / "nvidiactl"
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    lab.start_daemon(node, env={"LD_LIBRARY_PATH": str(lab.dir), "NVML_STUB_STATE": str(state)}, timeout=20)
