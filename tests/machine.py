"""A Debian 13 machine of its own: its kernel, its systemd, Slurm in cgroups of version 2. `make machine`; root.

    python -m tests.machine

QEMU emulates it (slowly). The node's .deb and the Python package are installed as docs/install.md says, Slurm's own
plugin chooses cgroup v2, and jobs that know what CPU time they used are compared with their reports: while the daemon
is killed, over a reboot, and over a power cut. The machine has no energy sensor: its energy is the model's. Its
network has nobody else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, NamedTuple

from tests.booted import BUILD
from tests.compat import CHECKOUT, FOLDERS, bootstrap, furnish, mount, overlaid, own_mounts, run
from tests.lab.processes import LabError

LOG = CHECKOUT / "build" / "machine.log"
"""All that the machine said."""
STAGE_LIMIT_S = 900
DISK = "6G"
OPTIONS = (
    "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 systemd.mask=serial-getty@ttyS0.service"
    " systemd.unit=checks.target"
)
POWER_CUT = "CUT"
CHECKS = """\
exec >/dev/ttyS0 2>&1 </dev/null
exec bash "/srv/checks.$(sed 's/.*stage=//' /proc/cmdline)"
"""
INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends linux-image-cloud-amd64 systemd systemd-sysv udev dbus rpm
"""
FURNISH = """
rm -rf /src/.venv /var/cache/apt
echo n1 >/etc/hostname
printf '127.0.0.1 localhost\\n10.0.2.15 n1\\n' >/etc/hosts
printf '[Match]\\nName=en*\\n[Network]\\nAddress=10.0.2.15/24\\n' >/etc/systemd/network/n1.network
systemctl enable systemd-networkd
systemctl disable slurmdbd slurmctld slurmd  # started once the database is there
useradd -m alice
useradd -m bob
install -d -o slurm -g slurm /var/lib/slurm/slurmctld
cat >/etc/slurm/slurm.conf <<'END'
ClusterName=alpha
SlurmctldHost=n1
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
AccountingStorageHost=n1
NodeName=n1 CPUs=2
PartitionName=batch Nodes=n1 Default=YES
END
install -o slurm -g slurm -m 0600 /dev/stdin /etc/slurm/slurmdbd.conf <<'END'
DbdHost=n1
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageUser=slurm
StoragePass=slurm
LogFile=/var/log/slurm/slurmdbd.log
END
cat >/usr/local/bin/burn <<'END'
#!/usr/bin/python3
import sys, time
while time.process_time() < float(sys.argv[1]): pass
END
chmod 0755 /usr/local/bin/burn
cat >/etc/systemd/system/checks.service <<'END'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /srv/checks
ExecStopPost=/bin/systemctl --no-block reboot
END
cat >/etc/systemd/system/checks.target <<'END'
[Unit]
Requires=multi-user.target
Wants=checks.service
After=multi-user.target
AllowIsolate=yes
END
"""
FUNCTIONS = r"""
cd /
export PATH=/opt/hpccarbon/bin:$PATH
unit=hpccarbon.service
config=/etc/hpccarbon/hpccarbon.toml
pid() { systemctl show -p MainPID --value $unit; }
until_() {
    end=$((SECONDS + $1))
    while ! eval "$2"; do [ $SECONDS -lt $end ] || { echo "not within $1 s: $2"; return 1; }; sleep 0.2; done
}
job() { su - $1 -c "sbatch --parsable -o /dev/null ${*:2}"; }
ended() { until_ 400 "[ -z \"\$(squeue -h 2>/dev/null)\" ]"; sleep 13; }
back() { until_ 100 'sinfo -h -o %T | grep -qE "idle|mixed"'; }
said() { python3 -c "
import json, sys
job = json.loads(sys.argv[1])['jobs'][0]
cpu = lambda run: run['figures']['cpu_hours'] * 3600
covered = lambda run: run['figures']['covered_percent']
print($1)" "$report"; }
is() {
    report=$(hpccarbon report --job $1 --format json)
    said "'job', job['job'], job['state'], *(f'{cpu(run):.2f} s' for run in job['runs']), covered(job), '% covered'"
    [ "$(said "$2")" = True ] || { echo "$report"; return 1; }
}
adds_up() { hpccarbon verify | tee /dev/stderr | grep 'everything adds up'; }
name=nothing; try() { name=$*; }
at_end() {
    if [ $? = 0 ]; then echo stage ended; return; fi
    echo "FAILED: $name"
    journalctl -b -n 40 --no-pager
    tail -n 5 /var/log/slurm/*.log
}
trap at_end EXIT
did() { echo "ok: $name"; }
set -eE
"""
STAGES = (
    r"""
try Slurm keeps its jobs in cgroups of the second version
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]
mariadb -e "create user slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost"
sed '/^# cgroup.conf/,$d' /src/slurm_scripts/slurm.conf.example >>/etc/slurm/slurm.conf
systemctl enable --now slurmdbd
until_ 60 'sacctmgr -n list cluster >/dev/null 2>&1'
sacctmgr -i add cluster alpha >/dev/null
for user in alice bob; do
    sacctmgr -i add account of_$user >/dev/null
    sacctmgr -i add user $user account=of_$user >/dev/null
done
did

try the package, and setup
dpkg -i /srv/*.deb
mkdir /shared
/usr/bin/hpccarbon setup --cluster alpha --shared-dir /shared/hpccarbon --role node --apply
sed -i 's/^#idle_power_w = 120/idle_power_w = 80/; s/^#full_power_w = 640/full_power_w = 200/' $config
/opt/hpccarbon/bin/hpccarbon setup --cluster alpha --shared-dir /shared/hpccarbon --role head --apply
systemctl restart $unit
systemctl enable --now slurmctld slurmd
until_ 60 '[ "$(sinfo -h -o %T)" = idle ]'
did

try two jobs at once, a killed daemon, a restarted slurmd
one=$(job alice -c1 --wrap "'burn 12'")
two=$(job bob -c1 --wrap "'burn 3; srun burn 5'")
until_ 60 "[ -n \"\$(find /sys/fs/cgroup/system.slice -path '*slurmstepd.scope/job_$one/*' -name cpu.stat)\" ]"
sleep 4
was=$(pid); kill -9 $was; until_ 30 '[ "$(systemctl is-active $unit)" = active ] && [ $(pid) != $was ]'
systemctl restart slurmd
ended
is $one "12 <= cpu(job) < 15 and covered(job) > 99 and (job['user'], job['state']) == ('alice', 'COMPLETED')"
is $two "8 <= cpu(job) < 13 and covered(job) > 99 and (job['account'], job['state']) == ('of_bob', 'COMPLETED')"
adds_up
did

try jobs shorter than a tick, and a cancelled one
many=$(job bob -c1 --array=1-6 --wrap true)
long=$(job alice -c1 --wrap "'burn 100'")
until_ 60 "squeue -h -j $long -t RUNNING | grep -q ."
sleep 6; scancel $long
ended
is $long "0 < cpu(job) < 15 and job['state'].startswith('CANCELLED')"
[ "$(hpccarbon report --by job --since 1d --format csv | grep -c "^alpha,${many}_")" = 6 ]
adds_up
did

try doctor and status have nothing against it
hpccarbon doctor; hpccarbon status
did

try a job runs when the machine is rebooted
over=$(job alice -c1 --requeue --wrap "'burn 25'")
echo $over >/srv/over
sleep 12
did
""",
    r"""
try the job that ran at the reboot has two runs
over=$(cat /srv/over)
systemctl is-active $unit
back; scontrol requeue $over  # slurmctld, which was away itself, takes it for running
until_ 100 "squeue -h -j $over -t PENDING | grep -q ."; scontrol update jobid=$over starttime=now
ended
is $over "len(job['runs']) == 2 and cpu(job['runs'][0]) > 3 and 25 <= cpu(job['runs'][1]) < 30"
adds_up
did

try a job runs when the power is cut
cut=$(job bob -c1 --requeue --wrap "'burn 200'")
echo $cut >/srv/cut; sync
sleep 80  # what is measured is on the disk a minute later at most
did
echo CUT
sleep 600
""",
    r"""
try what was measured before the power cut is there
cut=$(cat /srv/cut)
systemctl is-active $unit
back
scancel $cut
ended
until_ 60 "hpccarbon report --job $cut >/dev/null"
is $cut "cpu(job['runs'][0]) > 10"
adds_up
did

try setup takes itself back
/opt/hpccarbon/bin/hpccarbon setup --undo
dpkg -r hpccarbon-node
[ "$(systemctl is-active $unit)" = inactive ]
did
""",
)


class Machine(NamedTuple):
    """What QEMU is given."""

    disk: Path
    kernel: Path
    initrd: Path


def make_machine(folder: Path, where: Path) -> Machine:
    """A copy of the folder with everything the machine needs, as a disk."""
    made = Machine(where / "disk", where / "vmlinuz", where / "initrd.img")
    with overlaid(folder) as root:
        run("chroot", root, "bash", "-ec", INSTALL + BUILD + FURNISH)
        for path in (made.kernel, made.initrd):
            (booted,) = (root / "boot").glob(f"{path.name}-*")
            run("cp", booted, path)
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        for number, stage in enumerate(STAGES, 1):
            (root / f"srv/checks.{number}").write_text(FUNCTIONS + stage)
        (root / "srv/checks").write_text(CHECKS)
        for name in ("proc", "sys", "dev"):
            run("umount", "-R", "-l", root / name)
        run("umount", root / "etc/ssl/certs")
        run("truncate", "-s", DISK, made.disk)
        run("mke2fs", "-q", "-t", "ext4", "-d", root, made.disk)
    return made


def boot(machine: Machine, stage: int, log: IO[str]) -> bool:
    """Run one stage's checks; print what came of them, and all that was said last where one failed."""
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2560", "-nographic"]
    argv += ["-nic", "user,restrict=on,model=virtio-net-pci", "-drive", f"file={machine.disk},if=virtio,format=raw"]
    argv += ["-kernel", str(machine.kernel), "-initrd", str(machine.initrd), "-append", f"{OPTIONS} stage={stage}"]
    said: list[str] = []
    system = subprocess.Popen([*argv, "-no-reboot"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    limit = threading.Timer(STAGE_LIMIT_S, system.kill)
    limit.start()
    try:
        assert system.stdout is not None
        for raw in system.stdout:
            said.append(raw.decode(errors="replace").strip())
            log.write(f"{said[-1]}\n")
            log.flush()
            if said[-1].startswith(("ok: ", "job ", "FAILED: ")):
                print(f"  {said[-1]}", flush=True)
            if said[-1] == POWER_CUT:
                system.kill()  # what the machine's kernel had not written is lost
                break
    finally:
        limit.cancel()
        system.kill()
        system.wait()
    if POWER_CUT in said or "stage ended" in said:
        return True
    print(*said[-100:], sep="\n")
    return False


def main() -> int:
    """Make the machine, boot it for each stage, print a line for each check."""
    own_mounts("tests.machine")
    folder = FOLDERS / "trixie"
    started = time.monotonic()
    bootstrap("trixie", folder)
    mount(folder)
    furnish(folder)
    with tempfile.TemporaryDirectory(dir=FOLDERS) as scratch, LOG.open("w") as log:
        machine = make_machine(folder, Path(scratch))
        for stage in range(1, len(STAGES) + 1):
            print(f"boot {stage}, after {time.monotonic() - started:.0f} s", flush=True)
            if not boot(machine, stage, log):
                return 1
    print(f"done after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("error: make machine needs root on Debian")
    try:
        sys.exit(main())
    except LabError as err:
        sys.exit(f"error: {err}")
