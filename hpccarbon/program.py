"""How a process of its own runs one of our modules, from an installed package or the single-file build. Starts none."""

from __future__ import annotations

import sys


def archive() -> str | None:
    """The single-file build that this program runs from (slurm_scripts/deploy/build_node.py); None: a package."""
    found: str | None = getattr(globals().get("__loader__"), "archive", None)
    return found


def argv(module: str) -> list[str]:
    """The command of a child that runs `module`.

    Isolated: neither the working directory nor PYTHONPATH may bring code into a child of root.
    """
    if single := archive():
        return [sys.executable, "-I", "-S", single, "-m", module]
    return [sys.executable, "-I", "-m", module]
