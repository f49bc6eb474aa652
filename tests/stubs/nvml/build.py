"""Compiles the stub libnvidia-ml.so.1 against NVIDIA's own header: `python -m tests.stubs.nvml.build DIR`."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")
LIBRARY = "libnvidia-ml.so.1"


def header_directory() -> Path | None:
    """Where nvml.h of the installed package nvidia-nvml-dev-cu12 lies."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        found = next(Path(place).rglob("nvml.h"), None)
        if found:
            return found.parent
    return None


def missing() -> str:
    """What stands in the way of a build, or ""."""
    if not shutil.which("gcc"):
        return "no gcc"
    return "" if header_directory() else "no nvml.h (pip install nvidia-nvml-dev-cu12)"


def build(directory: Path) -> Path:
    """The library, compiled into `directory`."""
    include = header_directory()
    assert include is not None
    library = directory / LIBRARY
    flags = [
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Wextra",
        "-fvisibility=hidden",
        f"-Wl,-soname,{LIBRARY}",
        f"-I{include}",
    ]
    subprocess.run(["gcc", *flags, "-o", str(library), str(SOURCE)], check=True)
    return library


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
