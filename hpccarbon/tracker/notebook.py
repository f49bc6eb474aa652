"""In a notebook: `%load_ext hpccarbon.tracker.notebook`, then `%%carbon` measures a cell. Writes no file."""

from __future__ import annotations

from typing import Any

RESULT = "_carbon"
"""The name under which the notebook finds the last cell's figures."""


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext` calls with the running shell."""

    def carbon(line: str, cell: str) -> None:
        """`%%carbon [PROJECT]`: run the cell, show what it used, keep that as `_carbon`. Writes no file."""
        from IPython.display import display

        from hpccarbon.tracker.emissions import EmissionsTracker

        tracker = EmissionsTracker(line.strip() or "cell", save_to_file=False)
        with tracker:
            shell.run_cell(cell)
        shell.user_ns[RESULT] = tracker.final_emissions_data
        # Shown and not returned: the cell that ran inside has taken IPython's place for a result.
        display(tracker.final_emissions_data)  # type: ignore[no-untyped-call]

    shell.register_magic_function(carbon, "cell", "carbon")
