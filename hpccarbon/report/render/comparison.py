"""A comparison of models as text, page, picture or data. Every name in it is somebody else's and is escaped."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec

from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.render import words
from hpccarbon.report.render.charts import VEGA_LITE
from hpccarbon.report.render.inert import cell, columns, inert

if TYPE_CHECKING:
    from hpccarbon.report.compare import Comparison, Model

_PANEL = 300
_COLOUR = {"field": "front", "type": "nominal", "legend": None, "scale": {"range": ["#9aa5b1", "#1b7f5c"],
           "domain": [False, True]}}  # fmt: skip


def text(comparison: Comparison) -> str:
    """A table for a terminal, and the sentence that it leads to."""
    head, rows = _table(comparison, lambda name: inert(name, 32))
    widths = [max(columns(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = [
        "  ".join(
            word + " " * (width - columns(word)) if place == 0 else " " * (width - columns(word)) + word
            for place, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([*lines, "", _verdict(comparison, inert(comparison.best)), ""])


def html(comparison: Comparison) -> str:
    """The table alone, as a notebook shows it."""
    head, rows = _table(comparison, inert)
    titles = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(word)}</td>' for word in row)}</tr>" for row in rows)
    verdict = escape(_verdict(comparison, inert(comparison.best)))
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table><p>{verdict}</p>"


def content(comparison: Comparison, ending: str) -> bytes:
    """The comparison as a file of this kind. Raises: HpcCarbonError for a kind that is not known."""
    kinds: dict[str, Callable[[Comparison], bytes]] = {
        ".html": _page,
        ".svg": lambda one: _draw(one, "svg"),
        ".png": lambda one: _draw(one, "png"),
        ".csv": _csv,
        ".json": lambda one: msgspec.json.format(msgspec.json.encode(one)) + b"\n",
    }
    if ending not in kinds:
        raise HpcCarbonError(
            f"cannot write a comparison as {ending or 'a file without ending'}: use {', '.join(kinds)}"
        )
    return kinds[ending](comparison)


def _table(comparison: Comparison, name: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    metric = comparison.metric
    head = ["model", "energy", "dynamic", "CO2e", "time"]
    if metric is not None:
        head += [inert(metric, 20), f"g CO2e per {comparison.point:g}"]
    head += ["found", "front"]
    rows = []
    for model in comparison.models:
        row = [name(model.name), _energy(model), _joules(model.dynamic_j), words.grams(model.co2e_g), _time(model)]
        if metric is not None:
            per_point = "-" if model.per_point_g is None else f"{model.per_point_g:.3g}"
            row += [f"{model.metrics[metric]:.4g}", per_point]
        rows.append([*row, model.method, "*" if model.pareto else ""])
    return head, rows


def _energy(model: Model) -> str:
    return words.energy(round(model.kwh * 3.6e12)) if model.energy_j is None else _joules(model.energy_j)


def _joules(energy_j: float | None) -> str:
    return "-" if energy_j is None else words.energy(round(energy_j * 1e6))


def _time(model: Model) -> str:
    return f"{model.seconds:.2f} s" if model.seconds < 60 else words.duration(model.seconds)


def _verdict(comparison: Comparison, best: str) -> str:
    front = sum(model.pareto for model in comparison.models)
    if comparison.metric is None:
        why = "emits least"
        against = "time"
    else:
        why = f"emits least per point of {inert(comparison.metric)}"
        against = inert(comparison.metric)
        if not comparison.higher_is_better:
            why = "emits least"
    return (
        f"Most efficient: {best} ({why}). On the Pareto front of CO2e and {against} (*): {words.count(front, 'model')}."
    )


def _csv(comparison: Comparison) -> bytes:
    buffer = io.StringIO()
    names = [field.name for field in msgspec.structs.fields(comparison.models[0]) if field.name != "metrics"]
    metrics = sorted({key for model in comparison.models for key in model.metrics})
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, *map(cell, metrics)])
    for model in comparison.models:
        row = [getattr(model, name) for name in names]
        writer.writerow([cell(v) if isinstance(v, str) else v for v in row] + [model.metrics.get(m) for m in metrics])
    return buffer.getvalue().encode()


def _page(comparison: Comparison) -> bytes:
    svg = _draw(comparison, "svg").decode()
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Models by what they cost</title>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "<style>body{font:15px system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}th,td{padding:.3rem .5rem;text-align:right;"
        "border-bottom:1px solid #ccc}th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}"
        f"</style></head><body><h1>Models by what they cost</h1>{html(comparison)}"
        f"<figure>{svg}<figcaption>Green: on the Pareto front.</figcaption></figure></body></html>\n"
    ).encode()


def _draw(comparison: Comparison, kind: str) -> bytes:
    """The four panels, drawn here by Vega-Lite; no network. Raises: HpcCarbonError without the library."""
    try:
        import vl_convert
    except ImportError as err:
        raise HpcCarbonError(
            "charts need vl-convert-python, which is not installed (install the extra charts: docs/howto/offline.md)"
        ) from err
    spec = specification(comparison)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2, allowed_base_urls=[]))
    return str(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])).encode()


def specification(comparison: Comparison) -> dict[str, Any]:
    """The chart as Vega-Lite: emissions, metric against emissions, time against emissions, CO2e per point."""
    metric = comparison.metric
    values = [
        {
            "model": inert(model.name, 32),
            "co2e": model.co2e_g,
            "seconds": model.seconds,
            "front": model.pareto,
            "metric": model.metrics[metric] if metric else None,
            "per_point": model.per_point_g,
        }
        for model in comparison.models
    ]
    panels = [_bars("Emissions per model", "co2e", "g CO2e")]
    if metric is not None:
        panels.append(_dots(f"{inert(metric, 24)} against emissions", "metric", inert(metric, 24)))
    panels.append(_dots("Time against emissions", "seconds", "s"))
    if metric is not None and comparison.higher_is_better:
        point = f"g CO2e per {comparison.point:g} of {inert(metric, 24)}"
        panels.append(_bars("Emissions per point", "per_point", point))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": values},
        "columns": 2,
        "concat": panels,
        "config": {"font": "system-ui, 'DejaVu Sans', sans-serif", "view": {"stroke": None}},
    }


def _bars(title: str, field: str, unit: str) -> Mapping[str, Any]:
    return {
        "title": title,
        "width": _PANEL,
        "height": {"step": 26},
        "mark": "bar",
        "encoding": {
            "y": {"field": "model", "type": "nominal", "sort": None, "title": None},
            "x": {"field": field, "type": "quantitative", "title": unit},
            "color": _COLOUR,
        },
    }


def _dots(title: str, field: str, unit: str) -> Mapping[str, Any]:
    y = {"field": field, "type": "quantitative", "title": unit, "scale": {"zero": False}}
    x = {"field": "co2e", "type": "quantitative", "title": "g CO2e"}
    return {
        "title": title,
        "width": _PANEL,
        "height": 180,
        "layer": [
            {"mark": {"type": "point", "filled": True, "size": 90}, "encoding": {"x": x, "y": y, "color": _COLOUR}},
            {
                "mark": {"type": "text", "align": "left", "dx": 7, "dy": -6},
                "encoding": {"x": x, "y": y, "text": {"field": "model"}},
            },
        ],
    }
