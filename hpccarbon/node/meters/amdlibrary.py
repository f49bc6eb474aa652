"""Asks AMD's own library, through the module amdsmi, for the energy of a GPU. Waits for it for a bounded time.

For cards whose `gpu_metrics` file has a layout that `amd.py` does not know: a library as new as the driver does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

from hpccarbon.config import Config
from hpccarbon.errors import MeterError, MeterMissing
from hpccarbon.node.meters.worker import Late, Worker

LIBRARY = Path("libamd_smi.so")
UNIT_UJ = 15.259
"""2^-16 J, what one count is (kernel: kgd_pp_interface.h). The library rounds it to 15.3, which is 0.27 % too much."""
_NEARLY = 0.1


def to_uj(count: int, resolution_uj: float) -> int:
    """µJ of a counter whose unit the library says."""
    return count * 15_625 >> 10 if abs(resolution_uj - UNIT_UJ) < _NEARLY else int(count * resolution_uj)


class AmdLibrary:
    """The cards that amdsmi knows, by PCI address. It is loaded at the first question; where that fails, for good."""

    def __init__(self, config: Config) -> None:
        self._worker = Worker("amdsmi")
        self._timeout_s = config.gpu.timeout_s
        self._start_timeout_s = config.gpu.start_timeout_s
        self._module: Any = None
        self._cards: dict[str, Any] = {}
        self._why = ""

    def read_uj(self, slot: str) -> int:
        """Energy of the card at a PCI address since its driver was loaded. Raises: MeterError."""
        self._load()
        card = self._cards.get(slot)
        if card is None:
            raise MeterMissing(LIBRARY, self._why or f"amdsmi knows no GPU at {slot}")
        try:
            told = self._worker.call(lambda: self._module.amdsmi_get_energy_count(card), self._timeout_s)
            return to_uj(told["energy_accumulator"], told["counter_resolution"])
        except Late:
            raise MeterError(LIBRARY, "amdsmi does not answer") from None
        except Exception as err:  # its exceptions are its own, and differ from release to release
            raise MeterError(LIBRARY, f"amdsmi: {_said(err)}") from err

    def _load(self) -> None:
        if self._module is not None or self._why:
            return
        try:
            self._module, self._cards = self._worker.call(_open, self._start_timeout_s)
        except Late:
            self._why = f"amdsmi did not start within {self._start_timeout_s:g} s"
        except Exception as err:  # no module, no library, another release's library: each says so in its own way
            self._why = f"amdsmi cannot be used ({_said(err)})"

    def close(self) -> None:
        """End the thread that asks."""
        self._worker.close()


def _open() -> tuple[Any, dict[str, Any]]:
    """The module, and its handle of each card. Raises: whatever it raises."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot find
        module = importlib.import_module("amdsmi")
    module.amdsmi_init()
    handles = module.amdsmi_get_processor_handles()
    return module, {module.amdsmi_get_gpu_device_bdf(handle).lower(): handle for handle in handles}


def _said(err: Exception) -> str:
    return " ".join(str(err).split()) or type(err).__name__
