"""The units and packages under a real systemd that boots in a container of its own. `make install-check`; root.

    python -m tests.booted

A fresh copy (an overlay) of a minimal Debian 12 gets systemd, the Python package and the node's .deb and .rpm, and
boots in namespaces of its own, without a network, in a cgroup of the second version. systemd's own programs then say
how units, scriptlets, sandbox and restarts fare. What only a machine of its own has is not tried: sensors, a limit on
memory where the kernel keeps that in cgroups of the first version, a mount by /etc/fstab.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.compat import FOLDERS, bootstrap, overlaid, own_mounts, run
from tests.lab.processes import LabError

BOOT_LIMIT_S = 60
BUILD = """
cd /src
python3 -m venv /opt/hpccarbon
/opt/hpccarbon/bin/pip install -q '.[nvml]'
/opt/hpccarbon/bin/python slurm_scripts/deploy/build_node.py . /srv/hpccarbon-node.pyz
/opt/hpccarbon/bin/python slurm_scripts/deploy/build_packages.py /srv/hpccarbon-node.pyz /srv
"""
"""The Python package, installed, and the node's packages in /srv: of the checkout in /src, by a folder's own Python."""
PREPARE = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends systemd systemd-sysv python3-venv rpm
{BUILD}"""
BOOT = """
set -e
cd "$1"
umount -l proc sys dev
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys  # systemd raises limits of the whole kernel at its start
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do : >dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
hostname n1
rm -f etc/hostname
pivot_root . mnt
umount -l mnt
mount --make-rshared /  # as on a machine: what is mounted later reaches the services
exec env -i container=hpccarbon PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init systemd.show_status=0
"""
FUNCTIONS = """
unit=hpccarbon.service
own=/run/systemd/system/$unit.d/test.conf
pid() { systemctl show -p MainPID --value $unit; }
alive() { systemctl is-active $unit; }
gone() { [ "$(systemctl is-active $unit) $(systemctl is-enabled $unit)" = "inactive disabled" ]; }
add() { mkdir -p ${own%/*}; printf '[Service]\\n%s\\n' "$@" >$own; systemctl daemon-reload; }
drop() { rm -f $own; systemctl daemon-reload; }
shards() { find /shared/hpccarbon/shards -name '*.parquet' -user hpccarbon | grep .; }
new() { was=$(pid); "$@"; alive; [ "$(pid)" != "$was" ]; }
config=/etc/hpccarbon/hpccarbon.toml
setup='setup --cluster alpha --shared-dir /shared/hpccarbon --apply'
"""
CHECKS = {
    "a package without a configuration starts nothing": """
        dpkg -i /srv/*.deb
        [ "$(systemctl is-enabled $unit)" = disabled ]
        id hpccarbon; [ "$(stat -c %a /run/hpccarbon /var/lib/hpccarbon | xargs)" = '711 700' ]""",
    "setup starts the daemon, and systemd has nothing to warn of": """
        mkdir /shared /var/lib/node_exporter; hpccarbon $setup --role node; alive
        [ -z "$(systemd-analyze verify $unit 2>&1)" ]; [ -z "$(journalctl -b -q -p warning -u $unit)" ]""",
    "a restart seals as the service user": "new systemctl reload-or-restart $unit; shards",
    "killed, it comes back": 'new sh -c "kill -9 $(pid); sleep 4"',
    "a loop that hangs is ended by the watchdog": """
        add WatchdogSec=3 TimeoutAbortSec=1; systemctl restart $unit; kill -STOP $(pid)
        sleep 5; drop; sleep 4; alive; journalctl -b -u $unit | grep 'Watchdog timeout'""",
    "an upgrade restarts it": "new dpkg -i /srv/*.deb",
    "a read-only /run": "add ReadOnlyPaths=/run; rm -r /run/hpccarbon-build-0; new systemctl restart $unit; drop",
    "a /run without programs, as Debian mounts it": """
        mount -o remount,noexec /run; rm -r /run/hpccarbon-build-0/*; new systemctl restart $unit
        ls -d /var/cache/hpccarbon-build-0/*-small; mount -o remount,exec /run""",
    "a shared directory that is mounted after the start": """
        systemctl stop $unit; rm -r /shared/hpccarbon; mkdir /shared/hpccarbon; systemctl start $unit
        mount -t tmpfs -o mode=750,uid=hpccarbon,gid=hpccarbon none /shared/hpccarbon
        systemctl stop $unit; shards; systemctl start $unit""",
    "metrics where docs/dashboards.md has them": """
        sed -i 's/^#textfile/textfile/' $config; new systemctl restart $unit; sleep 1
        [ "$(stat -c %a /var/lib/node_exporter/hpccarbon.prom)" = 644 ]""",
    "a configuration that does not load is a failure, seen by all": """
        cp $config /tmp/kept; echo wrong = >>$config; systemctl restart $unit || sleep 3; systemctl is-failed $unit
        cp /tmp/kept $config; systemctl reset-failed $unit; systemctl start $unit; alive""",  # too often in 10 s
    "a removal stops it and leaves its state": """
        dpkg -r hpccarbon-node; gone; ls /var/lib/hpccarbon/store.sqlite""",
    "the .rpm: installed, updated, removed": """
        rpm -i --nodeps /srv/*.rpm; hpccarbon $setup --role node; alive
        new rpm -U --nodeps --replacepkgs /srv/*.rpm
        rpm -e hpccarbon-node; gone; ls /var/lib/hpccarbon/store.sqlite; [ ! -e /usr/lib/hpccarbon ]""",
    "the Python package: daemon and aggregator": """
        /opt/hpccarbon/bin/hpccarbon $setup --role both; alive; sleep 3; systemctl is-active hpccarbon-aggregate
        find /shared/hpccarbon/ledger -name 'hour=*.parquet' -user hpccarbon | grep .
        [ -z "$(systemd-analyze verify hpccarbon-aggregate.service 2>&1)" ]
        [ -z "$(journalctl -b -q -p warning -u hpccarbon-aggregate)" ]""",
    "drop-ins for a BMC, for events and for privacy": """
        cd /opt/hpccarbon/lib/python3*/site-packages/hpccarbon/slurm_scripts/systemd
        for name in bmc weights; do install -D -m 0644 hpccarbon-$name.conf /etc/systemd/system/$unit.d/$name.conf; done
        install -D -m 0644 hpccarbon-aggregate-own.conf /etc/systemd/system/hpccarbon-aggregate.service.d/own.conf
        systemctl daemon-reload; [ -z "$(systemd-analyze verify $unit hpccarbon-aggregate.service 2>&1)" ]
        new systemctl restart $unit hpccarbon-aggregate; systemctl is-active hpccarbon-aggregate""",
}


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup of the second version, which becomes the container's root of them; removed with all below it."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    group = next(Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2") / f"hpccarbon-booted-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        for below, _, _ in os.walk(group, topdown=False):
            Path(below).rmdir()


@contextmanager
def booted(root: Path) -> Iterator[list[str]]:
    """systemd runs in the folder. Yields: what goes before a command that is to run there."""
    spaces = ["--cgroup", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
    with own_cgroup() as group:
        enter = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(group / "cgroup.procs")]
        system = subprocess.Popen([*enter, "unshare", *spaces, "sh", "-c", BOOT, "sh", str(root)])
        try:
            yield _wait(system)
        finally:
            system.kill()  # and with it, by --kill-child, all that runs there
            system.wait()
            for _ in range(50):
                if "populated 0" in (group / "cgroup.events").read_text():
                    break
                time.sleep(0.1)


def _wait(system: subprocess.Popen[bytes]) -> list[str]:
    children = Path(f"/proc/{system.pid}/task/{system.pid}/children")
    end = time.monotonic() + BOOT_LIMIT_S
    said = ""
    while time.monotonic() < end and system.poll() is None:
        for init in children.read_text().split():
            inside = ["nsenter", "-t", init, *(f"-{space}" for space in "muinpCrw")]
            said = run(*inside, "systemctl", "is-system-running", check=False).stdout.strip()
            if said in ("running", "degraded"):
                return inside
        time.sleep(0.5)
    raise LabError(f"systemd did not come up within {BOOT_LIMIT_S} s: {said or 'it ended'}")


def main() -> int:
    """Prepare, boot, check; print a line for each."""
    own_mounts("tests.booted")
    folder = FOLDERS / "bookworm"
    bootstrap("bookworm", folder)
    failed = 0
    with overlaid(folder) as root:
        run("chroot", root, "bash", "-ec", PREPARE)
        with booted(root) as inside:
            print(run(*inside, "systemctl", "--version").stdout.splitlines()[0], flush=True)
            for name, script in CHECKS.items():
                done = run(*inside, "bash", "-exc", FUNCTIONS + script, check=False)
                print(f"{'ok' if done.returncode == 0 else 'FAILED'}: {name}", flush=True)
                if done.returncode:
                    failed += 1
                    journal = run(*inside, "journalctl", "-b", "-n", "30", "--no-pager").stdout
                    print(done.stdout[-2000:], done.stderr[-3000:], journal, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("error: make install-check needs root on Debian")
    try:
        sys.exit(main())
    except LabError as err:
        sys.exit(f"error: {err}")
