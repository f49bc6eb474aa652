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
    """The ledger of a cluster. Raises: HpcCarbonError, if nothing at all can be known of it."""
    from hpccarbon.site.ledger import Ledger

    require_data(config, cluster)
    ledger = Ledger(Path(config.paths.shared_dir), cluster or config.cluster, config.report.timezone)
    try:
        yield ledger
    finally:
        ledger.close()


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
