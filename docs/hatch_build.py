"""Puts the manual pages into the wheel, where pip installs them (share/man/man1). Called by the build, not by hand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPages(BuildHookInterface[Any]):
    """Makes them from the commands' help (docs/man.py), as `make man` does."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are collected; `version` is what kind of wheel it is to be."""
        if version == "editable":
            return
        root = Path(self.root)
        folder = root / "build" / "man"
        sys.path.insert(0, str(root))
        assert runpy.run_path(str(root / "docs" / "man.py"))["main"]([str(folder)]) == 0
        build_data["shared_data"] = {str(page): f"share/man/man1/{page.name}" for page in sorted(folder.glob("*.1"))}
