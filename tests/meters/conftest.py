"""The stub NVML library, built once per test run and loaded in place of the driver's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stubs.amdsmi import build as amdsmi_build
from tests.stubs.nvml import build


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stub."""
    if build.missing():
        if os.environ.get("CI"):
            pytest.fail(build.missing())
        pytest.skip(build.missing())
    return build.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml_state(stub_library: Path, tmp_path: Path) -> Iterator[Path]:
    """The file that scripts the stub. The loader finds the stub by its name, as it is loaded already."""
    ctypes.CDLL(str(stub_library))
    state = tmp_path / "nvml.state"
    os.environ["NVML_STUB_STATE"] = str(state)
    yield state
    del os.environ["NVML_STUB_STATE"]


@pytest.fixture(scope="session")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ROCM_PATH with the compiled stub of AMD's library, where the real amdsmi looks for it."""
    if amdsmi_build.missing():
        if os.environ.get("CI"):
            pytest.fail(amdsmi_build.missing())
        pytest.skip(amdsmi_build.missing())
    prefix = tmp_path_factory.mktemp("rocm")
    amdsmi_build.build(prefix)
    return prefix
