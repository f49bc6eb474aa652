"""Runs one Slurm command, bounded in time, with the site's configuration. Understands no output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from hpccarbon.config import Slurm
from hpccarbon.errors import SlurmError


def environment(settings: Slurm) -> dict[str, str]:
    """This process's environment with the site's SLURM_CONF and PATH; times are UTC, in seconds since the epoch.

    What a user's shell sets to change a command's defaults (SACCT_FEDERATION, SLURM_CLUSTERS, ...) is left out: answers
    must not depend on who asks.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SACCT_", "SLURM_", "SBATCH_"))}
    conf = settings.conf or os.environ.get("SLURM_CONF", "")
    if conf:
        kept["SLURM_CONF"] = conf
    path = os.environ.get("PATH", os.defpath)
    kept["PATH"] = f"{settings.bin_dir}{os.pathsep}{path}" if settings.bin_dir else path
    return kept | {"TZ": "UTC", "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}


def run(settings: Slurm, argv: Sequence[str]) -> str:
    """The standard output of a Slurm command.

    Raises: SlurmError naming the command, the reason and the next step: not found, timed out, or failed.
    """
    name = argv[0]
    where, conf = ("slurm.conf", settings.conf) if settings.conf else ("SLURM_CONF", os.environ.get("SLURM_CONF", ""))
    if conf and not os.path.exists(conf):  # noqa: PTH110 - a str all the way
        # Slurm's commands wait a minute for it to appear.
        raise SlurmError(f"{name}: {where} = {conf!r}: no such file (correct it, or leave it empty)")
    try:
        done = subprocess.run(
            list(argv),
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=settings.timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise SlurmError(f'{name}: not found in PATH (set slurm.bin_dir, or slurm.accounting = "none")') from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"{name}: no answer within {settings.timeout_s:g} s (is slurmdbd up? slurm.timeout_s sets the limit)"
        ) from None
    except OSError as err:
        raise SlurmError(f"{name}: cannot be run: {err.strerror} (check slurm.bin_dir)") from err
    if done.returncode:
        said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = said[-1].strip() if said else f"exit status {done.returncode}"
        raise SlurmError(f"{reason if reason.startswith(name) else f'{name}: {reason}'} ({_next_step(reason)})")
    return done.stdout.decode("utf-8", "replace")


def _next_step(reason: str) -> str:
    lowered = reason.lower()
    if "disabled" in lowered:
        return 'this cluster keeps no accounting: set slurm.accounting = "none"'
    if "configuration source" in lowered or "slurm.conf" in lowered:
        return "set slurm.conf in the configuration, or SLURM_CONF"
    return "is slurmdbd up? the same command in a shell says more"
