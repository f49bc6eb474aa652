"""Puts manual pages and completions into the wheel, where pip installs them (share/...). Called by the build alone."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPLETIONS = {
    "bash": "share/bash-completion/completions/hpccarbon",
    "zsh": "share/zsh/site-functions/_hpccarbon",
    "fish": "share/fish/vendor_completions.d/hpccarbon.fish",
}


class Shared(BuildHookInterface[Any]):
    """Makes them from the commands, as `make man` and `hpccarbon completion` do."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are collected; `version` is what kind of wheel it is to be."""
        if version == "editable":
            return
        root = Path(self.root)
        folder = root / "build" / "man"
        sys.path.insert(0, str(root))
        assert runpy.run_path(str(root / "docs" / "man.py"))["main"]([str(folder)]) == 0
        shared = {str(page): f"share/man/man1/{page.name}" for page in sorted(folder.glob("*.1"))}
        for shell, place in COMPLETIONS.items():
            made = folder / f"completion.{shell}"
            command = [sys.executable, "-m", "hpccarbon", "completion", shell]
            made.write_bytes(subprocess.run(command, cwd=root, check=True, capture_output=True).stdout)
            shared[str(made)] = place
        build_data["shared_data"] = shared
