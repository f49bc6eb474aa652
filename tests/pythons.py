"""The suite without the lab on each Python that the project promises, and the oldest with the oldest dependencies.

    python -m tests.pythons [3.10 ...]

`make pythons`. Environments lie in build/pythons. The oldest dependencies are the lower bounds in pyproject.toml. What
passed is noted in docs/badges/pythons.json, of which the README's badge is made; what failed is struck out there, and
what is not installed is a failure that leaves the note as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = CHECKOUT / "build" / "pythons"
NOTED = CHECKOUT / "docs" / "badges" / "pythons.json"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST = "3.10"
NEEDS_OLD_NUMPY = "numpy<2"
"""What pyarrow 15 and pandas 2.1 were built against."""
_OLDEST = ", oldest dependencies"
_BOUND = re.compile(r'^\s*"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)', re.MULTILINE)


def interpreter(version: str) -> str | None:
    """A Python of this minor version: in PATH, or one that pyenv keeps."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for found in (shutil.which(f"python{version}"), *map(str, kept)):
        if found and is_version(found, version):
            return found
    return None


def is_version(python: str | Path, version: str) -> bool:
    """Whether it starts, and is what it is called."""
    return full_version(python).startswith(f"{version}.")


def full_version(python: str | Path) -> str:
    """`3.11.7`; empty, if it does not start."""
    code = "import platform; print(platform.python_version())"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def passed(status: int, output: str) -> int:
    """How many tests passed: 0 unless pytest ended well."""
    found = re.search(r"(\d+) passed", (output.strip().splitlines() or [""])[-1])
    return int(found[1]) if found and status == 0 else 0


def note(name: str, python: str, tests: int, path: Path = NOTED) -> None:
    """Keep what was seen: with no test passed, that there is nothing to be kept."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known.pop(name, None)
    if tests:
        git = subprocess.run(
            ["git", "-C", CHECKOUT, "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
        day = datetime.now(timezone.utc).date().isoformat()
        known[name] = {"commit": git.stdout.strip(), "on": day, "passed": tests, "python": python}
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def oldest() -> list[str]:
    """The lower bounds of what users install, as exact requirements; what only developers need stays new."""
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    users = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    return [f"{name}=={bound}" for name, bound in _BOUND.findall(users)] + [NEEDS_OLD_NUMPY]


def run(version: str, *, old: bool) -> bool:
    """Make the environment, run the suite, print a line, note it. Returns: whether the suite ran and passed."""
    python = interpreter(version)
    key = f"{version}{_OLDEST if old else ''}"
    name = f"Python {key}"
    if python is None:
        print(f"{name}: NOT RUN, not installed: nothing is known of it", flush=True)
        return False
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
    used = where / "bin" / "python"
    tests = passed(done.returncode, done.stdout) if is_version(used, version) else 0
    note(key, full_version(used), tests)
    return tests > 0


def main() -> int:
    """Each version with new dependencies, then the oldest with old ones."""
    wanted = sys.argv[1:] or list(VERSIONS)
    good = [run(version, old=False) for version in wanted]
    if OLDEST in wanted:
        good.append(run(OLDEST, old=True))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
