"""In a notebook: `%load_ext hpccarbon.tracker.notebook`, then `%%carbon` measures a cell. Shows results as a table."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpccarbon.tracker.data import EmissionsData


def as_html(data: EmissionsData) -> str:
    """A result as a small table; every text in it is escaped."""
    rows = (
        ("project", data.project_name),
        ("energy", f"{data.energy_joules:,.4g} J, {data.method} ({data.coverage_percent:.0f} % of the time)"),
        ("of it dynamic", f"{data.dynamic_joules:,.4g} J"),
        ("whose", {"job": "this job's on this node", "process": "this process and its children"}.get(data.scope, "the "
         "whole machine's")),
        ("CO2e", f"{data.emissions * 1000:,.4g} g at {data.intensity_g_per_kwh:.0f} g/kWh in {data.country_name}"),
        ("time", f"{data.duration:,.2f} s, {data.cpu_seconds:,.2f} s of CPU"),
    )  # fmt: skip
    body = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows)
    return f"<table>{body}</table>"


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext` calls with the running shell."""

    def carbon(line: str, cell: str) -> EmissionsData | None:
        """`%%carbon [PROJECT]`: run the cell, show what it used. Writes no file."""
        from hpccarbon.tracker.emissions import EmissionsTracker

        tracker = EmissionsTracker(line.strip() or "cell", save_to_file=False)
        with tracker:
            shell.run_cell(cell)
        return tracker.final_emissions_data

    shell.register_magic_function(carbon, "cell", "carbon")
