"""A job in one short line for Slurm's AdminComment: `hc1 wh=3420.1 co2e_g=1190 cov=97 meas=100`. Sets no comment.

The format (docs/reports.md): the mark `hc1`, then words KEY=NUMBER with one space between, small letters alone, at most
`LIMIT` bytes. Words may be added, and those that are not known are left out.
"""

from __future__ import annotations

from hpccarbon.report.figures import Figures
from hpccarbon.units import UJ_PER_WH

MARK = "hc1"
LIMIT = 128


def comment_text(figures: Figures) -> str | None:
    """The line of a job; None where nothing was metered."""
    if figures.energy_uj is None:
        return None
    words = {
        "wh": _number(figures.energy_uj / UJ_PER_WH, 4),
        "co2e_g": None if figures.co2e_g is None else _number(figures.co2e_g, 3),
        "cov": _percent(figures.covered_percent),
        "meas": _percent(figures.measured_percent),
    }
    text = " ".join([MARK, *(f"{key}={value}" for key, value in words.items() if value is not None)])
    assert len(text) <= LIMIT
    return text


def parsed(text: str) -> dict[str, float] | None:
    """The numbers of a comment of ours; None where it is somebody else's."""
    mark, _, rest = text.partition(" ")
    if mark.lower() != MARK:
        return None
    pairs = (word.split("=", 1) for word in rest.split() if "=" in word)
    try:
        return {key: float(value) for key, value in pairs}
    except ValueError:
        return None


def is_ours(text: str) -> bool:
    """Whether a comment may be replaced: there is none, or one of ours."""
    return not text.strip() or parsed(text) is not None


def _number(value: float, digits: int) -> str:
    """So many significant digits, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):.6f}".rstrip("0").rstrip(".")


def _percent(value: float | None) -> str | None:
    # Cut, not rounded: 100 means all of it.
    return None if value is None else str(int(value))
