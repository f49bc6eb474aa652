"""Captures what this machine's sacct prints of jobs of each kind, in a lab of its own: tests/slurm/captured.

python -m tests.slurm.capture      as root, where Slurm is installed (tests/lab); in another release: tests/compat.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from hpccarbon.slurm.accounting import FIELDS
from tests.lab import Lab

DELIMITER = "@@"


def capture(lab: Lab) -> str:
    """Run one job of each kind and ask for all of them."""
    plain = lab.submit("true", "--job-name=a|b`; rm", user="hcalice")
    array = lab.submit("true", "--array=1-3", user="hcbob")
    odd = lab.submit("true", "--job-name=x\ny\x1fz\tü", user="hcalice")
    failed = lab.submit("exit 3", user="hcbob")
    requeued = lab.submit("sleep 4", "--requeue", user="hcalice")
    lab.wait([plain, array, odd, failed])
    lab.run(["scontrol", "requeue", str(requeued)])
    cancelled = lab.submit("sleep 300", user="hcbob")
    running = lab.submit("sleep 300", user="hcalice")
    time.sleep(3)
    lab.run(["scancel", str(cancelled)])
    waiting = lab.submit("true", "--hold", user="hcalice")
    waiting_array = lab.submit("true", "--hold", "--array=5-9", user="hcbob")
    lab.wait(cancelled)
    time.sleep(5)  # slurmdbd learns of a job's end up to two seconds late
    argv = ["sacct", "--allusers", "--duplicates", "--noheader", "--parsable", f"--delimiter={DELIMITER}"]
    said = lab.run(["env", "TZ=UTC", "SLURM_TIME_FORMAT=%s", *argv, f"--format={','.join(FIELDS)}"]).stdout
    lab.run(["scancel", *map(str, (running, requeued, waiting, waiting_array))])
    return said


def main() -> None:
    """Bring a lab up, capture, take it down."""
    with tempfile.TemporaryDirectory(prefix="hclab-") as folder:
        Path(folder).chmod(0o755)
        lab = Lab(folder)
        try:
            lab.up(prefix="c")
            sys.stdout.write(capture(lab))
        finally:
            lab.down()


if __name__ == "__main__":
    main()
