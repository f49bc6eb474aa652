"""Integer microjoules and microseconds, and the one exact way to divide them. Never rounds a share on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

UJ_PER_J = 1_000_000
UJ_PER_WH = 3_600 * UJ_PER_J
UJ_PER_KWH = 1_000 * UJ_PER_WH
NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
BUCKET_S = 60
"""Length of a bucket: one minute of UTC time, the finest resolution that is kept."""
HOUR_S = 3_600

Key = TypeVar("Key")


def apportion(total: int, weights: Mapping[Key, int]) -> dict[Key, int]:
    """Divide an integer among weights by largest remainder, losing nothing.

    Args:
        total: what is divided, an int >= 0 of any unit (µJ, ms).
        weights: key -> int >= 0. Keys of weight 0 receive 0.

    Returns: key -> int, same keys and order, summing to exactly `total`; each share is the
        exact quotient rounded down or up. Equal remainders go to the earlier key, so the
        caller's order decides and the same input gives the same output everywhere.
    Raises: ValueError, if a weight or the total is negative, or all weights are 0 and the total is not.
    Method: Hamilton's method, docs/method.md, "No microjoule is lost".
    """
    if total < 0 or any(weight < 0 for weight in weights.values()):
        raise ValueError(f"cannot divide {total} by negative weights or a negative total")
    whole = sum(weights.values())
    if whole == 0:
        if total:
            raise ValueError(f"cannot divide {total} among weights that are all 0")
        return dict.fromkeys(weights, 0)
    shares = {key: total * weight // whole for key, weight in weights.items()}
    left = total - sum(shares.values())
    if left:
        by_remainder = sorted(weights, key=lambda key: -(total * weights[key] % whole))
        for key in by_remainder[:left]:
            shares[key] += 1
    return shares


def kwh(energy_uj: int) -> float:
    """Kilowatt-hours of an energy in microjoules."""
    return energy_uj / UJ_PER_KWH
