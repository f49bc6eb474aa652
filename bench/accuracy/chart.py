"""Draws docs/accuracy.svg by hand: a row per scenario, a mark per formula, a logarithmic axis. Judges nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.accuracy.judge import Result, Verdict

_LEFT, _RIGHT, _TOP, _ROW, _WIDTH = 236, 30, 96, 34, 940
_LOW, _HIGH = 0.05, 2_000.0
_TICKS = (0.1, 1, 10, 100, 1_000)
_TOOLS: dict[str, tuple[str, str, str]] = {
    "hpccarbon": ("#000000", "diamond", "hpccarbon"),
    "EAR": ("#8a6d00", "square", "EAR"),
    "Scaphandre": ("#009e73", "circle", "Scaphandre, Alumet"),
    "Kepler": ("#0072b2", "triangle", "Kepler"),
    "CEEMS": ("#56b4e9", "square", "CEEMS"),
    "CodeCarbon, process": ("#e69f00", "circle", "CodeCarbon, process model"),
    "CodeCarbon": ("#d55e00", "triangle", "CodeCarbon, RAPL or GPU"),
    "Slurm": ("#cc79a7", "circle", "Slurm"),
}
"""Beginning of a formula's name -> colour (Okabe and Ito), shape, label. The longer beginning comes first."""


def _x(percent: float) -> float:
    inside = min(max(percent, _LOW), _HIGH)
    span = math.log10(_HIGH / _LOW)
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log10(inside / _LOW) / span


def _mark(x: float, y: float, tool: str, title: str) -> str:
    colour, shape, _label = _TOOLS[tool]
    size = 6.5 if shape == "diamond" else 4.2
    points = {
        "diamond": ((0, -1), (1, 0), (0, 1), (-1, 0)),
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.1), (1.05, 0.85), (-1.05, 0.85)),
    }
    told = f"<title>{escape(title)}</title>"
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}">{told}</circle>'
    corners = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in points[shape])
    return f'<polygon points="{corners}" fill="{colour}">{told}</polygon>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _axis(bottom: float) -> list[str]:
    out = []
    for percent in _TICKS:
        x = _x(percent)
        out.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#d0d0d0"/>')
        out.append(_text(x, bottom + 18, f"{percent:,} %", anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(
        _text(middle, bottom + 40, "error per job, % of what its work drew (mean over the jobs)", anchor="middle")
    )
    out.append(
        _text(middle, bottom + 57, "logarithmic; smaller than 0.05 % and larger than 2,000 % stand at the edges",
              anchor="middle", size=11)
    )  # fmt: skip
    return out


def _legend() -> list[str]:
    out, widths = [], (120, 190, 190, 150)
    for place, (tool, (_colour, _shape, label)) in enumerate(_TOOLS.items()):
        x, y = _LEFT + sum(widths[: place % 4]), 50 + 20 * (place // 4)
        out += [_mark(x, y - 4, tool, label), _text(x + 11, y, label)]
    return out


def _tool(verdict: Verdict) -> str:
    return next(tool for tool in _TOOLS if verdict.name.startswith(tool))


def _row(place: int, result: Result) -> list[str]:
    top = _TOP + place * _ROW
    out = [f'<rect x="0" y="{top}" width="{_WIDTH}" height="{_ROW}" fill="{"#f6f6f6" if place % 2 else "#ffffff"}"/>']
    return [*out, _text(_LEFT - 12, top + _ROW / 2 + 4, result.scenario.title, anchor="end")]


def _marks(place: int, result: Result) -> list[str]:
    """Formulas stand a little below one another, in the order of the legend, so that equal errors stay visible."""
    order = list(_TOOLS)
    out = []
    for verdict in reversed(result.verdicts):
        if verdict.name.endswith("*"):
            continue  # sees other counters than the rest
        tool = _tool(verdict)
        y = _TOP + place * _ROW + 7 + (_ROW - 14) * order.index(tool) / (len(order) - 1)
        out.append(_mark(_x(verdict.dynamic_mean), y, tool, f"{verdict.name}: {verdict.dynamic_mean:.2f} %"))
    return out


def chart(results: Sequence[Result]) -> str:
    """The picture as SVG text."""
    bottom = _TOP + _ROW * len(results)
    height = bottom + 72
    body = [f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>']
    body.append(_text(16, 24, "Dynamic energy: how far each bill is from the truth", size=16, weight="bold"))
    body += _legend()
    for place, result in enumerate(results):
        body += _row(place, result)
    body += _axis(bottom)
    for place, result in enumerate(results):
        body += _marks(place, result)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" fill="#202020" role="img" aria-label="Mean error per job of the dynamic energy">\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )
