"""The building's PUE by the hour, from a file that the site's own meters fill. Computes none."""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from hpccarbon.errors import CarbonError

LOWEST, HIGHEST = 1.0, 10.0


@lru_cache(maxsize=8)
def hourly(path: str) -> dict[datetime, float]:
    """UTC hour -> PUE. Several rows of one hour are averaged; an empty value is not known.

    Args:
        path: a CSV with the columns `start` (with Z or an offset) and `pue`.

    Raises: CarbonError naming the file, the line and the reason.
    """
    sums: dict[datetime, tuple[float, int]] = {}
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if not {"start", "pue"} <= set(rows.fieldnames or ()):
                raise CarbonError(f"carbon.pue_file {path}: the first line must name the columns start and pue")
            for row in rows:
                if row["pue"]:
                    hour, pue = _row(path, rows.line_num, row)
                    total, count = sums.get(hour, (0.0, 0))
                    sums[hour] = (total + pue, count + 1)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise CarbonError(f"carbon.pue_file {path}: {getattr(err, 'strerror', None) or err}") from err
    return {hour: total / count for hour, (total, count) in sums.items()}


def _row(path: str, line: int, row: dict[str, str]) -> tuple[datetime, float]:
    try:
        start = datetime.fromisoformat(row["start"].strip().replace("Z", "+00:00"))
        pue = float(row["pue"])
    except ValueError:
        raise CarbonError(f"carbon.pue_file {path}, line {line}: expected a time and a number, {row}") from None
    if start.tzinfo is None:
        raise CarbonError(f"carbon.pue_file {path}, line {line}: {row['start']} has neither Z nor an offset")
    if not LOWEST <= pue <= HIGHEST:
        raise CarbonError(f"carbon.pue_file {path}, line {line}: a PUE of {pue:g} is none (1 to 10)")
    return start.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0), pue
