"""docs/install.md to the letter, in a clean Debian folder: every command block of it runs. `make install-check`; root.

    python -m tests.install

Two ways through the page, each on a fresh copy (an overlay) of a minimal Debian 12: `hpccarbon setup`, and the sections
by hand. The folder has no systemd and no Slurm: their lines are printed as not run. The daemon is then started as the
unit would start it, and must leave a shard in the shared directory that belongs to the service user.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.compat import FOLDERS, bootstrap, overlaid, own_mounts, run
from tests.lab.processes import LabError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "install.md"
ELSEWHERE = ("systemctl", "journalctl", "srun", "scontrol", "hpccarbon report --job JOBID")
"""Lines that need systemd or a Slurm that is running: the lab's tests run those."""
WANTED = "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null"
"""What the page says a machine must have first."""
STOP_AFTER_S = 20
PROOF = f"""
timeout {STOP_AFTER_S} hpccarbon daemon --node n1 2>&1 || true
find /shared/hpccarbon/shards -name '*.parquet' -user hpccarbon | grep .
hpccarbon aggregate
hpccarbon report --by holder --since today
hpccarbon verify
"""


def blocks() -> Iterator[tuple[str, list[str]]]:
    """(heading, lines) of each command block, in the page's order."""
    heading, inside = "", False
    lines: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line == "```sh":
            inside, lines = True, []
        elif line == "```" and inside:
            inside = False
            yield heading, lines
        elif inside:
            lines.append(line)


def ways() -> dict[str, list[list[str]]]:
    """The blocks of each way: both begin with the package and end with the check."""
    by_setup: list[list[str]] = []
    by_hand: list[list[str]] = []
    for heading, lines in blocks():
        if heading == "In three commands":
            by_setup.append(lines)
        elif re.match(r"[2-6]", heading):
            by_hand.append(lines)
        else:
            by_setup.append(lines)
            by_hand.append(lines)
    return {"hpccarbon setup": by_setup, "by hand": by_hand}


def script(parts: list[list[str]], *, configured: bool) -> str:
    """One shell script of a way's blocks; what runs elsewhere is said."""
    text = ["set -ex", "mkdir -p /shared /etc/systemd/system", "cd /src"]
    last = len(parts) - 1
    for number, lines in enumerate(parts):
        if number == last:  # the check: there is something to read only after the daemon has run
            if not configured:
                text += CONFIGURE.strip().splitlines()
            text += PROOF.strip().splitlines()
        text += [f": NOT RUN HERE: {line}" if line.startswith(ELSEWHERE) else line for line in lines]
    return "\n".join(text)


CONFIGURE = """
cp /opt/hpccarbon/slurm_scripts/hpccarbon.toml.example /etc/hpccarbon/hpccarbon.toml
sed -i 's/^cluster = .*/cluster = "mycluster"/' /etc/hpccarbon/hpccarbon.toml
"""
"""Section 3 is prose: copy the example and set four values, of which the example's own are right here."""


def main() -> int:
    """Both ways; print what failed."""
    own_mounts("tests.install")
    folder = FOLDERS / "bookworm"
    bootstrap("bookworm", folder)
    failed = 0
    for name, parts in ways().items():
        with overlaid(folder) as root:
            run("chroot", root, "bash", "-c", WANTED)
            text = script(parts, configured=name == "hpccarbon setup")
            done = run("chroot", root, "bash", "-c", text, check=False)
            failed += done.returncode != 0
            skipped = sorted(set(re.findall(r"NOT RUN HERE: (.*)", text)))
            print(
                f"{name}: {'works' if done.returncode == 0 else 'FAILED'}; not run here: {'; '.join(skipped)}",
                flush=True,
            )
            if done.returncode:
                print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("error: make install-check needs root on Debian")
    try:
        sys.exit(main())
    except LabError as err:
        sys.exit(f"error: {err}")
