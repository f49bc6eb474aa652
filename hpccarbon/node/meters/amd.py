"""Energy of AMD GPUs from the amdgpu driver's hwmon chips. Loads no vendor library."""

from __future__ import annotations

from hpccarbon.config import Config
from hpccarbon.node.meters.hwmon import AMD_GPUS, HwmonMeter
from hpccarbon.node.sysroot import SysRoot


def discover(root: SysRoot, config: Config) -> HwmonMeter:
    """The AMD GPUs of this node.

    The driver's own files hold the counter that amdsmi shows (`energy1_input`, µJ since the driver was loaded), need no
    library that may hang, and cost a `pread`.
    """
    return HwmonMeter(root, "amd", AMD_GPUS)
