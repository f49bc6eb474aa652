"""The suite's Slurm tests against other releases of Slurm, each in a Debian folder of its own (`make compat`; as root).

    python -m tests.compat [SUITE ...]

A folder is made once by debootstrap (a minute) and kept in build/compat; `rm -rf` removes it. The lab runs inside it by
chroot, in a mount namespace that ends with this program, so that nothing stays mounted. The folder's Python is the
distribution's own: the Pythons and the newest dependencies are tried on the way.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.processes import LabError

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = CHECKOUT / "build" / "compat"
SUITES = {"trixie": "Slurm 24.11, Python 3.13", "forky": "Slurm 26.05, Python 3.14"}
PACKAGES = "make git gcc libc6-dev python3-venv munge slurm-wlm slurmdbd mariadb-server"
RUNS = ("-m lab tests", "tests/slurm")
"""What pytest is told, one run each: everything that needs a cluster, and how we read what Slurm prints."""
CLIENT = "/opt/older-mariadb-client"
"""libmariadb 11.8.9 refuses every answer to slurmdbd ("allowed number of columns (=0)"): this machine's older one, of
the same soname, goes before it."""
OWN_NAMESPACE = "HPCCARBON_COMPAT_MOUNTS"


def run(*argv: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of preparation. Raises: LabError with what it said."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(map(str, argv))}: status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done


def mirror() -> str:
    """Where this machine gets Debian from: the shortest of apt's addresses is the archive itself."""
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)").stdout.split()
    if not found:
        raise LabError("apt knows no archive: run apt-get update")
    return min(found, key=len)


def bootstrap(suite: str, folder: Path) -> None:
    """A minimal Debian, unless it is there."""
    done = folder / ".whole"
    if done.exists():
        return
    script = Path("/usr/share/debootstrap/scripts")
    known = script / suite if (script / suite).exists() else script / "sid"
    folder.mkdir(parents=True, exist_ok=True)
    run("debootstrap", "--variant=minbase", "--include=ca-certificates", suite, folder, mirror(), known)
    done.touch()


def mount(folder: Path) -> None:
    """The kernel's file systems, and this machine's certificates and addresses."""
    for name in ("proc", "sys", "dev"):
        run("mount", "--rbind", f"/{name}", folder / name)
    run("mount", "--bind", "/etc/ssl/certs", folder / "etc/ssl/certs")
    for name in ("resolv.conf", "hosts", "pip.conf"):
        if Path("/etc", name).exists():
            (folder / "etc" / name).write_bytes(Path("/etc", name).read_bytes())


@contextmanager
def overlaid(folder: Path) -> Iterator[Path]:
    """A copy of a folder that is gone afterwards, with the kernel's file systems and the checkout in src."""
    with tempfile.TemporaryDirectory(dir=FOLDERS) as scratch:
        layers = upper, work, root = [Path(scratch, layer) for layer in ("upper", "work", "root")]
        for layer in layers:
            layer.mkdir()
        run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={folder},upperdir={upper},workdir={work}", root)
        try:
            mount(root)
            copy_checkout(root / "src")
            yield root
        finally:
            run("umount", "-R", "-l", root)


def inside(folder: Path, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A shell command in the folder, with the checkout as its working directory."""
    return run("chroot", folder, "sh", "-ec", f"cd /src; export DEBIAN_FRONTEND=noninteractive; {command}", check=check)


def copy_checkout(target: Path) -> None:
    """The tracked files as they are now."""
    target.mkdir(exist_ok=True)
    files = run("git", "-C", CHECKOUT, "ls-files", "-z", "--deduplicate").stdout
    packed = subprocess.Popen(
        ["tar", "-C", CHECKOUT, "--null", "--files-from=-", "-cf", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    unpack = subprocess.Popen(["tar", "-C", target, "-xf", "-"], stdin=packed.stdout)
    assert packed.stdin is not None
    packed.stdin.write(files.encode())
    packed.stdin.close()
    if packed.wait() or unpack.wait():
        raise LabError(f"the checkout cannot be copied to {target}")


def furnish(folder: Path) -> None:
    """Slurm, the older database client, the checkout as it stands, and its environment."""
    source = folder / "src"
    source.mkdir(exist_ok=True)
    if inside(folder, f"dpkg -s {PACKAGES}", check=False).returncode:
        # A testing suite that its mirror has not renewed for a while is as good as it was.
        inside(folder, "apt-get update -qq -o Acquire::Check-Valid-Until=false")
        inside(folder, f"apt-get install -y -qq --no-install-recommends {PACKAGES}")
        client = folder / CLIENT.lstrip("/")
        client.mkdir(parents=True)
        downloads = folder / "tmp"
        subprocess.run(["apt-get", "download", "-qq", "libmariadb3"], cwd=downloads, check=True, capture_output=True)
        (package,) = downloads.glob("libmariadb3*.deb")
        run("dpkg-deb", "-x", package, client)
        (folder / "etc/ld.so.conf.d/00-mariadb.conf").write_text(
            "".join(f"{CLIENT}/{path.relative_to(client)}\n" for path in client.glob("usr/lib/*-linux-gnu"))
        )
        inside(folder, "ldconfig")
    copy_checkout(source)
    inside(folder, "[ -d .venv ] || python3 -m venv .venv; .venv/bin/pip install -q -e '.[nvml,dev]'")


def own_mounts(module: str) -> None:
    """Begin again in a mount namespace of this program's own, unless it is in one."""
    if OWN_NAMESPACE not in os.environ:
        argv = ["unshare", "--mount", sys.executable, "-m", module, *sys.argv[1:]]
        os.execvpe(argv[0], argv, os.environ | {OWN_NAMESPACE: "1"})


def main() -> int:
    """Prepare and test each suite; print a line for each."""
    wanted = sys.argv[1:] or list(SUITES)
    if os.geteuid() != 0 or not Path("/usr/sbin/debootstrap").exists():
        print("error: make compat needs root on Debian, and debootstrap (apt install debootstrap)", file=sys.stderr)
        return 1
    own_mounts("tests.compat")
    failed = 0
    for suite in wanted:
        folder = FOLDERS / suite
        started = time.monotonic()
        bootstrap(suite, folder)
        mount(folder)
        furnish(folder)
        versions = inside(folder, "dpkg-query -W -f '${Package} ${Version}, ' slurm-wlm; python3 --version").stdout
        said = []
        for options in RUNS:
            done = inside(folder, f".venv/bin/python -m pytest -q -p no:cacheprovider {options}", check=False)
            failed += done.returncode != 0
            if done.returncode:
                print(done.stdout)
            said.append((done.stdout.strip().splitlines() or ["nothing ran"])[-1])
        took = f"{time.monotonic() - started:.0f} s in all"
        print(f"{suite}: {versions.strip()}: {'; '.join(said)} ({took})", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as err:
        sys.exit(f"error: {err}")
