"""Opens what is known of a cluster in the shared directory, or says why nothing is. Reads no figure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpccarbon.config import Config
    from hpccarbon.site.ledger import Ledger


@contextlib.contextmanager
def open_ledger(config: Config, cluster: str | None = None) -> Iterator[Ledger]:
    """The ledger of a cluster, or the caller's own part of it. Raises: HpcCarbonError, if nothing can be known."""
    from hpccarbon.site.access import ledger_of

    ledger = ledger_of(config, cluster)
    try:
        yield ledger
    finally:
        ledger.close()
