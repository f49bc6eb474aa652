"""`make demo`: a mixed load on a private Slurm cluster, from cgroup to report, checked from the files alone.

Where the lab cannot run (no root, no Slurm) it says what is missing and measures one command without Slurm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import Lab, LabError
from tests.lab.cluster import unavailable

CHECKOUT = Path(__file__).resolve().parents[2]
OUT = CHECKOUT / ".demo"
HPCCARBON = Path(sys.executable).parent / "hpccarbon"
BURN = "timeout {seconds} sh -c 'while :; do :; done' || true"
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def say(text: str) -> None:
    """A heading of the demo's own."""
    print(f"\n\033[1m== {text}\033[0m" if COLOUR else f"\n== {text}", flush=True)


def show(*argv: str, keep: str | None = None, check: bool = True) -> int:
    """Run one of our commands as a user would, its output shown and, with `keep`, also left in .demo/reports/."""
    print(f"$ hpccarbon {' '.join(argv)}", flush=True)
    done = subprocess.run(
        [str(HPCCARBON), *argv],
        env={**os.environ, "HPCCARBON_CONFIG": str(OUT / "hpccarbon.toml")},
        text=True,
        capture_output=True,
    )
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    if keep:
        (OUT / "reports").mkdir(parents=True, exist_ok=True)
        (OUT / "reports" / keep).write_text(done.stdout)
    if check and done.returncode:
        raise SystemExit(f"demo: hpccarbon {' '.join(argv)} ended with {done.returncode}")
    return done.returncode


def load(lab: Lab) -> dict[str, int]:
    """Submit the mixed load; the job ids by what they are."""
    jobs = {
        "two nodes": lab.submit(f'srun sh -c "{BURN.format(seconds=5)}"', "-N2", "-n2", "-Jtwo-nodes", user="hcalice"),
        "array": lab.submit(BURN.format(seconds=1), "--array=1-4", "-Jsweep", user="hcalice"),
        "shared, alice": lab.submit(BURN.format(seconds=6), "-n2", "-wn3", "-Jshared-a", user="hcalice"),
        "shared, bob": lab.submit("sleep 6", "-n4", "-wn3", "-Jshared-b", user="hcbob"),
        "cancelled": lab.submit("sleep 300", "-n1", "-wn2", "-Jcancel-me", user="hcbob"),
        "requeued": lab.submit(BURN.format(seconds=4), "-n1", "-wn2", "-Jrequeue-me", "--requeue", user="hcbob"),
        "failed": lab.submit(BURN.format(seconds=1) + "; exit 3", "-n1", "-Jfails", user="hcbob"),
        "model only": lab.submit(BURN.format(seconds=3), "-n2", "-pmodel", "-Jno-sensor", user="hcalice"),
    }
    time.sleep(2)
    lab.run(["scancel", str(jobs["cancelled"])])
    lab.run(["scontrol", "requeue", str(jobs["requeued"])])
    for number in range(30):
        jobs[f"short {number:02d}"] = lab.submit(BURN.format(seconds=0.2), "-n1", "-wn1", "-Jshort", user="hcbob")
    return jobs


def with_slurm(began: float) -> None:
    """The whole demo."""
    lab = Lab(CHECKOUT / ".lab")
    lab.down()
    try:
        say("A private Slurm cluster: 4 nodes, 2 users, slurmdbd; three nodes with a power meter, one without")
        lab.up()
        for name in lab.nodes:
            lab.start_daemon(name)
        print(f"up after {time.monotonic() - began:.0f} s; daemons on {', '.join(lab.nodes)}")
        write_config(lab)
        time.sleep(6)  # idle power is learned from the first idle seconds
        say("What node n1 and node n4 can measure")
        show("doctor", "--node", "n1")
        show("doctor", "--node", "n4")
        say("A mixed load: 2 nodes, array, 30 jobs of 0.2 s, shared node, cancelled, requeued, failed, no sensor")
        jobs = load(lab)
        say("kill -9 of the daemon on n1 in the middle of it; it comes back two seconds later")
        lab.kill_daemon("n1")
        time.sleep(2)
        lab.start_daemon("n1")
        lab.wait(list(jobs.values()), 120)
        print(f"{len(jobs)} submissions done after {time.monotonic() - began:.0f} s")
        say("A job's report, seconds after its end: read from the shards, nobody has aggregated anything")
        time.sleep(lab_seal_s() + 3)
        collect(lab)
        show("report", "--job", str(jobs["two nodes"]), keep="job.txt")
        for name in lab.nodes:
            lab.stop_daemon(name)
        collect(lab)
        say("Aggregate: shards and Slurm's own records become the ledger")
        slurm = {"SLURM_CONF": lab.env()["SLURM_CONF"]}
        os.environ.update(slurm)
        show("aggregate")
        say("The array, the requeued job, and the job on the node without a sensor")
        show("report", "--job", str(jobs["array"]), keep="array.txt")
        show("report", "--job", str(jobs["requeued"]), keep="requeued.txt")
        show("report", "--job", str(jobs["model only"]), keep="model.txt")
        say("Per user, and the month")
        show("report", "--by", "user", "--since", "1d", keep="users.txt")
        show("report", "--by", "account", "--month", time.strftime("%Y-%m", time.gmtime()), keep="month.txt")
        show("report", "--by", "job", "--since", "1d", "--format", "csv", "-o", str(OUT / "reports" / "jobs.csv"))
        say("Checked from the files alone: jobs + system + unallocated = meters, in microjoules")
        show("verify", keep="verify.txt")
    finally:
        lab.down()
    say(f"Done in {time.monotonic() - began:.0f} s; the lab is gone, the files stay")
    print(
        f"shards, ledger, job records: {OUT.name}/shared/   reports: {OUT.name}/reports/\n"
        f"try: HPCCARBON_CONFIG={OUT.name}/hpccarbon.toml .venv/bin/hpccarbon report --job {jobs['two nodes']}"
    )


def lab_seal_s() -> int:
    """How long after a job's end its shard is written, as the lab is configured."""
    return 5


def write_config(lab: Lab) -> None:
    """Settings for reading what the demo leaves: as the lab's, with the shared directory below .demo/."""
    text = lab.node_config("n1").read_text()
    lines = [f'shared_dir = "{OUT}/shared"' if line.startswith("shared_dir") else line for line in text.splitlines()]
    OUT.mkdir(exist_ok=True)
    (OUT / "hpccarbon.toml").write_text("\n".join(lines) + "\n")


def collect(lab: Lab) -> None:
    """Copy the shards out of the lab, which is removed at the end."""
    shutil.copytree(lab.dir / "shared", OUT / "shared", dirs_exist_ok=True)


def without_slurm(reason: str) -> None:
    """What works anywhere."""
    say("The cluster part is left out")
    print(f"{reason}\nRun `make demo` as root on Debian 12 for the whole of it. Meanwhile, one command, measured:")
    (OUT / "hpccarbon.toml").write_text('cluster = "demo"\n[carbon]\nzone = "DE"\npue = 1.3\n')
    show("run", "--", sys.executable, "-c", "sum(i * i for i in range(10_000_000))", keep="run.txt")


def main() -> None:
    """Run what this machine allows."""
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    reason = unavailable()
    if reason:
        without_slurm(reason)
        return
    try:
        with_slurm(began)
    except LabError as err:
        raise SystemExit(f"demo: {err}") from err


if __name__ == "__main__":
    main()
