"""Compiles the stub libamd_smi.so with every symbol that the installed module amdsmi binds when it is imported."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("amdsmi_stub.c")
NOT_SUPPORTED = 2
_BOUND = re.compile(r"_libraries\['libamd_smi\.so'\]\.(\w+)")


def wrapper() -> Path | None:
    """The file of the installed module that names the library's symbols. Importing it would load the library."""
    spec = importlib.util.find_spec("amdsmi")
    return None if spec is None or spec.origin is None else Path(spec.origin).with_name("amdsmi_wrapper.py")


def missing() -> str:
    """What stands in the way of a build, or ""."""
    if not shutil.which("gcc"):
        return "no gcc"
    return "" if wrapper() else "no amdsmi (pip install amdsmi)"


def build(prefix: Path) -> Path:
    """The library below `prefix`, where $ROCM_PATH is to point."""
    names = wrapper()
    assert names is not None
    library = prefix / "lib" / "libamd_smi.so"
    library.parent.mkdir(parents=True)
    own = SOURCE.read_text(encoding="utf-8")
    others = set(_BOUND.findall(names.read_text(encoding="utf-8"))) - set(re.findall(r"^uint32_t (\w+)", own, re.M))
    generated = prefix / "amdsmi_stub.c"
    rest = "".join(f"uint32_t {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in sorted(others))
    generated.write_text(own + rest, encoding="utf-8")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", library, generated], check=True)
    return library
