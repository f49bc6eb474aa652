"""The suite without the lab on every Python that is installed, and the oldest of them with the oldest dependencies.

    python -m tests.pythons [3.10 ...]

`make pythons`. Environments lie in build/pythons. The oldest dependencies are the lower bounds in pyproject.toml.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = CHECKOUT / "build" / "pythons"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST = "3.10"
NEEDS_OLD_NUMPY = "numpy<2"
"""What pyarrow 15 and pandas 2.1 were built against."""
_BOUND = re.compile(r'^\s*"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)', re.MULTILINE)


def interpreter(version: str) -> str | None:
    """A Python of this minor version: in PATH, or one that pyenv keeps."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for found in (shutil.which(f"python{version}"), *map(str, kept)):
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def oldest() -> list[str]:
    """The lower bounds of what users install, as exact requirements; what only developers need stays new."""
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    users = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    return [f"{name}=={bound}" for name, bound in _BOUND.findall(users)] + [NEEDS_OLD_NUMPY]


def run(version: str, *, old: bool) -> bool:
    """Make the environment, run the suite, print a line."""
    python = interpreter(version)
    name = f"Python {version}{', oldest dependencies' if old else ''}"
    if python is None:
        print(f"{name}: NOT RUN, not installed", flush=True)
        return True
    where = ENVIRONMENTS / (f"{version}-oldest" if old else version)
    began = time.monotonic()
    subprocess.run([python, "-m", "venv", where], check=True)
    pip = [str(where / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", f"{CHECKOUT}[nvml,dev]", *(oldest() if old else [])], check=True)
    done = subprocess.run(
        [where / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not lab", "tests"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout[-6000:])
    last = (done.stdout.strip().splitlines() or [done.stderr.strip() or "nothing ran"])[-1]
    print(f"{name}: {last} ({time.monotonic() - began:.0f} s in all)", flush=True)
    return done.returncode == 0


def main() -> int:
    """Each version with new dependencies, then the oldest with old ones."""
    wanted = sys.argv[1:] or list(VERSIONS)
    passed = [run(version, old=False) for version in wanted]
    if not sys.argv[1:] or OLDEST in wanted:
        passed.append(run(OLDEST, old=True))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
