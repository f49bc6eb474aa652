"""Opens what this process may read of a cluster, or says why that is nothing. Reads no figure."""

from __future__ import annotations

from pathlib import Path

from hpccarbon.config import Config
from hpccarbon.errors import HpcCarbonError
from hpccarbon.site import extracts
from hpccarbon.site.ledger import Ledger


def ledger_of(config: Config, cluster: str | None = None) -> Ledger:
    """The whole ledger where this user may read it, else the user's own extracts.

    Raises: HpcCarbonError, if nothing can be known.
    """
    shared, wanted = Path(config.paths.shared_dir), cluster or config.cluster
    if not extracts.may_read_all(shared):
        return extracts.open_own(config, wanted)
    require_data(config, cluster)
    return Ledger(shared, wanted, config.report.timezone)


def require_data(config: Config, cluster: str | None) -> None:
    """Raises: HpcCarbonError, if nothing at all can be known, rather than report that nothing was used."""
    shared = Path(config.paths.shared_dir)
    if not shared.is_dir():
        raise HpcCarbonError(f"{shared}: no such directory (is it mounted? paths.shared_dir names it)")
    wanted = cluster or config.cluster
    rooms = [shared / room for room in ("shards", "ledger", "jobs")]
    if not any((room / wanted).is_dir() for room in rooms):
        there = sorted({path.name for room in rooms if room.is_dir() for path in room.iterdir() if path.is_dir()})
        hint = f"there are: {', '.join(there)}" if there else "no node has sealed anything yet"
        raise HpcCarbonError(f"{shared} holds nothing of cluster {wanted!r}; {hint}")
