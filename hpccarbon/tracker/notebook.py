"""In a notebook: `%load_ext hpccarbon.tracker.notebook`, then `%%carbon` measures a cell. Writes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpccarbon.tracker.data import EmissionsData


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
