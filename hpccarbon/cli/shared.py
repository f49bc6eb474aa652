"""Opens what is known of a cluster in the shared directory, or says why nothing is. Reads no figure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpccarbon.config import Config
    from hpccarbon.site.ledger import Ledger


@contextlib.contextmanager
def open_ledger(config: Config, cluster: str | None = None) -> Iterator[Ledger]:
    """The ledger of a cluster, or the caller's own part of it. Raises: HpcCarbonError, if nothing can be known."""
    ledger = ledger_of(config, cluster)
    try:
        yield ledger
    finally:
        ledger.close()


def ledger_of(config: Config, cluster: str | None = None) -> Ledger:
    """The whole ledger where this user may read it, else the user's own extracts. Raises as `open_ledger`."""
    from hpccarbon.site import extracts
    from hpccarbon.site.ledger import Ledger

    shared, wanted = Path(config.paths.shared_dir), cluster or config.cluster
    if not extracts.may_read_all(shared):
        return extracts.open_own(config, wanted)
    require_data(config, cluster)
    return Ledger(shared, wanted, config.report.timezone)


def require_data(config: Config, cluster: str | None) -> None:
    """Raises: HpcCarbonError, if nothing at all can be known, rather than report that nothing was used."""
    from hpccarbon.errors import HpcCarbonError

    shared = Path(config.paths.shared_dir)
    if not shared.is_dir():
        raise HpcCarbonError(f"{shared}: no such directory (is it mounted? paths.shared_dir names it)")
    wanted = cluster or config.cluster
    rooms = [shared / room for room in ("shards", "ledger", "jobs")]
    if not any((room / wanted).is_dir() for room in rooms):
        there = sorted({path.name for room in rooms if room.is_dir() for path in room.iterdir() if path.is_dir()})
        hint = f"there are: {', '.join(there)}" if there else "no node has sealed anything yet"
        raise HpcCarbonError(f"{shared} holds nothing of cluster {wanted!r}; {hint}")
