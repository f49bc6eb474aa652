"""Runs hpccarbon or a few lines of Python as a real user of its own: what that user may open, the kernel decides.

    python -m tests.security.accounts UID GROUPS hpccarbon WORDS...
    python -m tests.security.accounts UID GROUPS python CODE WORDS...

Everything that will be needed is loaded before the process becomes the user, for good: where Python is installed in
root's home, as on some build machines, another user could not load it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ALICE, BOB, NOBODY_SPECIAL = 47_101, 47_102, 47_199
_REPOSITORY = Path(__file__).resolve().parent.parent.parent


@contextlib.contextmanager
def open_place() -> Iterator[Path]:
    """A temporary directory that every user may pass through: pytest closes its own to others."""
    with tempfile.TemporaryDirectory(prefix="hpccarbon-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def hpccarbon(uid: int, *words: str, groups: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command line as this user; its group is of the same number, `groups` come besides."""
    return _run(uid, groups, "hpccarbon", *words)


def python(uid: int, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A few lines of Python as this user, with `words` in sys.argv[1:]."""
    return _run(uid, (), "python", code, *words)


_MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""`make coverage` follows into the programs that the tests run."""


def _run(uid: int, groups: tuple[int, ...], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.security.accounts", str(uid), ",".join(map(str, groups)), *words],
        cwd=_REPOSITORY,
        env={"PATH": os.environ["PATH"], "COLUMNS": "100", "LC_ALL": "C.UTF-8", **_MEASURED},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _become(uid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir("/")


def _load_everything(words: list[str]) -> None:
    """Every module of the package, and what the command loads on its way."""
    import hpccarbon
    from hpccarbon.cli import main

    for module in pkgutil.walk_packages(hpccarbon.__path__, "hpccarbon."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    with (
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        main(words)


if __name__ == "__main__":
    user, others, kind, *rest = sys.argv[1:]
    if kind == "hpccarbon":
        _load_everything(rest)
    _become(int(user), [int(one) for one in others.split(",") if one])
    if kind == "hpccarbon":
        from hpccarbon.cli import main

        main(rest)
    else:
        sys.argv[1:] = rest[1:]
        exec(rest[0])
