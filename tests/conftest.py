"""Makes the test folders' own helpers importable by their file name."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE.parent, HERE / "node"):
    sys.path.insert(0, str(folder))
