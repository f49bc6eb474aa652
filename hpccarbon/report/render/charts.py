"""Charts as SVG that stands in a page: drawn once, here, by Vega-Lite; in the reader's browser nothing runs for them.

A page with Vega in it would weigh 900 kB more and show nothing where scripts are forbidden. Colours are CSS variables
of the page (light, dark, print); every mark bears a `<title>`, which a browser shows when it is pointed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpccarbon.errors import HpcCarbonError

VEGA_LITE = "5.20"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_FONT = "system-ui, 'DejaVu Sans', sans-serif"
_CONFIG: Mapping[str, Any] = {
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--grid)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "labelFontSize": 12,
        "orient": "top",
        "title": None,
        "symbolType": "square",
        "offset": 6,
    },
}
WIDE, NARROW = 760, 250
"""Widths in px of the room between the axes; no chart is drawn larger than it was made."""
_HEIGHT = 200


def stacked_days(rows: Sequence[Mapping[str, Any]], series: Mapping[str, str], title: str, width: int = WIDE) -> str:
    """Bars by day, stacked. Rows: `day` (text), `series` (its name), `value`, `tip`; `series`: name -> CSS colour."""
    return _svg(
        {
            "data": {"values": list(rows)},
            "mark": {"type": "bar"},
            "encoding": {
                "x": _day_axis(width),
                "y": {"field": "value", "type": "quantitative", "title": title, "axis": {"tickCount": 5}},
                "color": _colours(series),
                "order": {"field": "order"},
                "description": {"field": "tip"},
            },
        },
        width,
    )


def band_days(rows: Sequence[Mapping[str, Any]], title: str, width: int = WIDE) -> str:
    """A line of daily means in the band of each day's hours. Rows: `day`, `value`, `low`, `high`, `tip`."""
    y = {"type": "quantitative", "title": title, "scale": {"zero": True}, "axis": {"tickCount": 5}}
    return _svg(
        {
            "data": {"values": list(rows)},
            "layer": [
                {
                    "mark": {"type": "bar", "color": "var(--intensity)", "opacity": 0.3, "width": {"band": 0.7}},
                    "encoding": {
                        "x": _day_axis(width),
                        "y": {"field": "low", **y},
                        "y2": {"field": "high"},
                        "description": {"field": "tip"},
                    },
                },
                {
                    "mark": {"type": "line", "color": "var(--intensity)", "strokeWidth": 2},
                    "encoding": {"x": _day_axis(width), "y": {"field": "value", **y}},
                },
                {
                    "mark": {"type": "point", "color": "var(--intensity)", "filled": True, "size": 40, "opacity": 1},
                    "encoding": {
                        "x": _day_axis(width),
                        "y": {"field": "value", **y},
                        "description": {"field": "tip"},
                    },
                },
            ],
        },
        width,
    )


def hours_of_day(rows: Sequence[Mapping[str, Any]], title: str, colour: str, width: int = NARROW) -> str:
    """Bars over the hours of the day. Rows: `hour` (0 to 23), `value`, `tip`."""
    return _svg(
        {
            "data": {"values": list(rows)},
            "mark": {"type": "bar", "color": f"var(--{colour})"},
            "encoding": {
                "x": {
                    "field": "hour",
                    "type": "ordinal",
                    "title": "hour of the day",
                    "scale": {"domain": list(range(24))},
                    "axis": {"labelAngle": 0, "labelExpr": "datum.value % 3 ? '' : datum.label", "ticks": False},
                },
                "y": {"field": "value", "type": "quantitative", "title": title, "axis": {"tickCount": 5}},
                "description": {"field": "tip"},
            },
        },
        width,
    )


def months(rows: Sequence[Mapping[str, Any]], title: str, colour: str, width: int = WIDE) -> str:
    """Bars by month. Rows: `month` (2026-03), `value`, `tip`."""
    return _svg(
        {
            "data": {"values": list(rows)},
            "mark": {"type": "bar", "color": f"var(--{colour})", "width": {"band": 0.7}},
            "encoding": {
                "x": {
                    "field": "month",
                    "type": "ordinal",
                    "title": None,
                    "axis": {"labelAngle": 0, "ticks": False, "labelOverlap": True},
                },
                "y": {"field": "value", "type": "quantitative", "title": title, "axis": {"tickCount": 5}},
                "description": {"field": "tip"},
            },
        },
        width,
    )


def _day_axis(width: int) -> dict[str, Any]:
    day = "slice(datum.label, 8)"
    label = day if width >= WIDE else f"toNumber({day}) % 5 ? '' : {day}"
    axis = {"labelAngle": 0, "labelExpr": label, "labelOverlap": False, "ticks": False}
    return {"field": "day", "type": "ordinal", "title": "day of the month", "axis": axis}


def _colours(series: Mapping[str, str]) -> dict[str, Any]:
    scale = {"domain": list(series), "range": [f"var(--{colour})" for colour in series.values()]}
    return {"field": "series", "type": "nominal", "scale": scale}


def _svg(spec: Mapping[str, Any], width: int) -> str:
    """Draw, and keep what a page needs. Raises: HpcCarbonError, if the library is not installed."""
    try:
        import vl_convert
    except ImportError as err:
        raise HpcCarbonError(
            "charts need vl-convert-python, which is not installed (install the extra charts: docs/howto/offline.md)"
        ) from err
    whole = {"$schema": _SCHEMA, "width": width, "height": _HEIGHT, "config": _CONFIG, **spec}
    return _lean(vl_convert.vegalite_to_svg(whole, vl_version=VEGA_LITE, allowed_base_urls=[]))


_LABEL = re.compile(r'<(?P<tag>path|rect)(?P<before>[^<>]*?) aria-label="(?P<label>[^"]*)"(?P<after>[^<>]*?)/>')
_ROLES = re.compile(r' (?:aria-[a-z]+|role|class|xmlns:xlink|pointer-events|font-family|version)="[^"]*"')
_EMPTY = re.compile(r'<path[^<>]* d=""[^<>]*/>|<path[^<>]*M0,0h0v0h0Z"[^<>]*/>')


def _lean(svg: str) -> str:
    """The SVG with its marks' labels as titles, and without the roles: the page's figure says what it is."""
    titled = _LABEL.sub(_titled, svg)
    return _EMPTY.sub("", _ROLES.sub("", titled)).replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _titled(found: re.Match[str]) -> str:
    return f"<{found['tag']}{found['before']}{found['after']}><title>{found['label']}</title></{found['tag']}>"


def rows(*columns: str, values: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows for a chart, from tuples."""
    return [dict(zip(columns, one, strict=True)) for one in values]
