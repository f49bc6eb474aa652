"""Which grid zones there are, and the nearest names of one that there is not. Knows no intensity."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import NamedTuple

from hpccarbon.carbon import tables
from hpccarbon.errors import CarbonError

WORLD = "WORLD"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_USUAL = {"UK": "GB", "EL": "GR", "EU": "EU27", "KS": "XK", "USA": "US", "GER": "DE", "ENGLAND": "GB"}
"""What people write, and the key it is listed under."""


class Zone(NamedTuple):
    """A grid zone: its key, what people call it, and which yearly values the package has.

    `bases` are lifecycle and/or direct, `years` the first and last year of each; `licences` those of its rows.
    """

    key: str
    name: str
    bases: tuple[str, ...]
    years: tuple[tuple[int, int], ...]
    licences: tuple[str, ...]


def known() -> dict[str, Zone]:
    """Every zone of the packaged tables by key, in the order of the keys."""
    spans: dict[str, dict[str, list[int]]] = {}
    names: dict[str, str] = {}
    licences: dict[str, dict[str, None]] = {}
    for row in tables.all_yearly():
        spans.setdefault(row.zone, {}).setdefault(row.basis, []).append(row.year)
        names.setdefault(row.zone, row.name)
        licences.setdefault(row.zone, {})[row.licence] = None
    return {
        key: Zone(
            key,
            names[key],
            tuple(spans[key]),
            tuple((min(years), max(years)) for years in spans[key].values()),
            tuple(licences[key]),
        )
        for key in sorted(spans)
    }


def search(text: str) -> list[Zone]:
    """The zones whose key or name holds `text`, whatever its case and accents; keys that begin with it first."""
    word = _plain(text)
    found = [zone for zone in known().values() if word in _plain(zone.key) or word in _plain(zone.name)]
    found.sort(key=lambda zone: (_plain(zone.key) != word, not _plain(zone.key).startswith(word), zone.key))
    return found


def nearest(text: str, count: int = 5) -> list[str]:
    """The keys most like `text`: what it usually stands for, then by its spelling as a key or as a name."""
    import difflib

    zones = known()
    word = text.strip().upper()
    usual = [_USUAL[word]] if word in _USUAL else []
    prefixes = [key for key in zones if len(key) > 1 and word.startswith(key)]
    by_key = difflib.get_close_matches(word, zones, n=count, cutoff=0.6)
    names = {_plain(zone.name).partition(",")[0]: zone.key for zone in reversed(zones.values())}
    by_name = [names[name] for name in difflib.get_close_matches(_plain(text), names, n=count, cutoff=0.75)]
    return list(dict.fromkeys([*usual, *by_name[:2], *prefixes, *by_key]))[:count]


def require(zone: str, series_dir: Path | None = None) -> str:
    """The zone's key, as the tables write it; a zone of the site's own is known by its series.

    Args:
        zone: as configured; upper and lower case do not matter for the packaged zones.
        series_dir: where fetched and imported series lie, one directory per zone.

    Raises: CarbonError naming the nearest zones and the command that searches them.
    """
    for key in (zone, zone.strip().upper()):
        if _NAME.fullmatch(key) and tables.yearly(key):
            return key
    if series_dir is not None and _NAME.fullmatch(zone) and has_directory(series_dir / zone):
        return zone
    near = nearest(zone)
    hint = (
        f"nearest: {', '.join(near)}"
        if near
        else "no name is like it, and a zone of the site's own is known once `hpccarbon intensity import` or `fetch` "
        "brought its series"
    )
    raise CarbonError(f"unknown zone `{zone}`; {hint} (search with `hpccarbon intensity zones --search TEXT`)")


def has_directory(path: Path) -> bool:
    """Whether there is such a directory.

    Raises: CarbonError, if that cannot be known: a reader who may not see the series gets no other values in silence.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        raise CarbonError(f"cannot look for intensities in {path}: {err.strerror or err}") from err


def check_name(zone: str) -> str:
    """A zone's name that can be a directory's. Raises: CarbonError."""
    if not _NAME.fullmatch(zone):
        raise CarbonError(f"zone {zone!r} cannot name a directory; use letters, digits, '.', '_', '-'")
    return zone


def parent(zone: str) -> str | None:
    """The country a zone lies in, `DK` for `DK-DK1`; None where the key does not say."""
    country, dash, _ = zone.partition("-")
    return country if dash and len(country) == 2 and tables.yearly(country) else None


def display_name(zone: str) -> str:
    """What people call the zone; its key, where only the site knows it."""
    rows = tables.yearly(zone)
    return rows[0].name if rows else zone


def _plain(text: str) -> str:
    import unicodedata

    decomposed = unicodedata.normalize("NFKD", text.strip())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()
