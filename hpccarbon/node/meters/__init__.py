"""The table of meters. Each meter is a file of this folder; nothing here reads a sensor by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Literal, Protocol

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import ConfigError
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Channel, Gap, Reading

State = Literal["ok", "nested", "denied", "missing", "failing", "standby"]


class Finding(msgspec.Struct, frozen=True):
    """What `doctor` says of one sensor: whether it can be read, why not, and what to do about it."""

    meter: str
    zone: str
    state: State
    detail: str
    advice: str = ""


class Meter(Protocol):
    """Something that counts energy: named channels, and one reading or gap for each of them when asked."""

    name: str

    @property
    def channels(self) -> Sequence[Channel]:
        """What is read, in the order of `read`."""
        ...

    @property
    def findings(self) -> Sequence[Finding]:
        """Every sensor that was looked at, read or not."""
        ...

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One entry per channel, same order; never raises for a sensor that fails."""
        ...

    def refresh(self) -> bool:
        """Look again for hardware that came or went; True when `channels` changed."""
        ...

    def close(self) -> None:
        """Give descriptors and helpers back."""
        ...


Discover = Callable[[SysRoot, Config], Meter]

TABLE: dict[str, str] = {
    "rapl": "hpccarbon.node.meters.rapl",
    "model": "hpccarbon.node.meters.model",
}
"""Name in `meters.enabled` -> module with `discover(root, config)`. A new meter is a new file and one line here."""


def discover(root: SysRoot, config: Config) -> list[Meter]:
    """All enabled meters, the model last: it stands in only where nothing measures the CPUs.

    Raises: ConfigError for a name that no meter has.
    """
    unknown = [name for name in config.meters.enabled if name not in TABLE]
    if unknown:
        raise ConfigError(f"meters.enabled: unknown meter {unknown[0]!r}; known: {', '.join(TABLE)}")
    meters: list[Meter] = []
    for name, module in TABLE.items():
        if name in config.meters.enabled:
            meter: Meter = import_module(module).discover(root, config)
            meters.append(meter)
    measured = any(c.component == "cpu" and not c.modelled for m in meters for c in m.channels)
    if measured:
        return [meter for meter in meters if not any(channel.modelled for channel in meter.channels)]
    return meters
