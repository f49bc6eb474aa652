"""Every failure that hpccarbon names. A type is split only where a caller acts differently."""

from __future__ import annotations

from pathlib import Path


class HpcCarbonError(Exception):
    """A failure that a person can read: the thing, the reason, the next step. Commands print it and exit 1."""


class ConfigError(HpcCarbonError):
    """The configuration file is missing, malformed or contradicts itself. Commands exit 2."""


class MeterError(HpcCarbonError):
    """A sensor cannot be read. The meter turns it into a `Gap`; `reason` is what the gap carries."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}")
        self.path = str(path)
        self.reason = reason


class MeterMissing(MeterError):
    """The file is not there: no such hardware, or it went away."""


class MeterDenied(MeterError):
    """The file is there and this process may not read it."""


class MeterMalformed(MeterError):
    """The file was read and does not hold what its documentation says."""


class ShardError(HpcCarbonError):
    """A shard or ledger file cannot be read or does not hold what the schema says."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot use {path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str]]:
        """Comes back whole from another process: an hour may be merged anywhere."""
        return type(self), (self.path, self.reason)


class SlurmError(HpcCarbonError):
    """A Slurm command is missing, failed, or printed what no supported release prints."""


class StoreError(HpcCarbonError):
    """The node's store cannot be opened, is held by another daemon, or belongs to another node."""


class CarbonError(HpcCarbonError):
    """A zone, an intensity or a factor that a footprint needs is not known."""
