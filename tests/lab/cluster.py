"""Starts, watches and removes a private Slurm cluster: munge, MariaDB, slurmdbd, slurmctld, four slurmd, one meter.

Everything lies in one folder; everything started sits in one cgroup of a hierarchy that Slurm leaves alone, so
that `down` finds it whatever it forked or how it was renamed. What was learned on the way (Slurm 22.05, cgroup v1):

- slurmd makes CTL/slurm_NODE in cpuacct, memory and freezer at its start (cpuset and devices only with ConstrainCores
  and ConstrainDevices) and leaves them behind. Below: uid_U/job_J/step_{extern,batch,0,1,..}/task_T, removed with the
  last step, uid_U with the user's last job, all before the epilog.
- In cpuacct only the processes of jobs are in there: slurmd, slurmstepd and the hooks stay in the root group, and
  the extern step is one `sleep`. So slurm_NODE grows by what the jobs use, to the nanosecond.
- On a requeue slurmctld counts the restart first: prolog(0), epilog(1), prolog(1), epilog(1). See epilog.sh.
- slurmdbd learns of a job's end up to two seconds late, and of each array task in its own time.
- A frozen step does not die of SIGKILL: the freezer is thawed first.
- libmariadb takes the socket of StorageHost=localhost from MYSQL_UNIX_PORT: no database port is needed.
- A requeued job waits for `cred_expire` (AuthInfo) before it starts again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab import configs, powermeter, trees
from tests.lab.processes import (
    CGROUP,
    LabError,
    Process,
    alive,
    end_all,
    identity,
    members,
    remove_tree,
    send,
    tail,
    tracker_base,
    wait_until,
)

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "HPCCARBON_LAB"
USERS = {"hcalice": "physics", "hcbob": "chemistry"}
_OWNER = "hpccarbon lab user"
"""The comment of the users that a lab made: those, and only those, does a lab remove."""
_PROGRAMS = (
    "munged", "mungekey", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd",
    "sbatch", "srun", "sacct", "sacctmgr", "scontrol", "sinfo", "squeue", "scancel", "setpriv", "useradd", "userdel",
)  # fmt: skip
_GROUP = "hpccarbon_lab"
_FIRST_PORT = 17000
_PATH_LIMIT = 60
"""Longest folder name: slurmstepd's sockets (SPOOL/NODE/NODE_JOB.STEP) must fit into the 108 bytes of sun_path."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""`make coverage` follows into daemons and commands; of other users it could not write down what it saw."""
_GONE = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE")
)


class Node(NamedTuple):
    """A virtual node: its name, CPUs, the root its daemon reads, Slurm's cgroup name for it, its run directory."""

    name: str
    number: int
    cpus: int
    root: Path
    cgroup: str
    run_dir: Path


class Lab:
    """One lab in one folder. Cheap to make: everything that is known of a running lab is read from the folder."""

    def __init__(self, directory: Path | str | None = None) -> None:
        chosen = Path(directory or os.environ.get(ENVIRONMENT) or CHECKOUT / ".lab")
        self.dir = chosen.resolve()
        self._children: list[subprocess.Popen[bytes]] = []
        self._cached: tuple[int, dict[str, Any]] | None = None

    # What is known of it

    def _state(self) -> dict[str, Any]:
        """lab.json: prefix, cluster, ports, gpus, boot id, processes. Empty where there is no lab."""
        path = self.dir / "lab.json"
        try:
            stamp = path.stat().st_mtime_ns
            if self._cached is None or self._cached[0] != stamp:
                self._cached = stamp, json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return self._cached[1]

    def _save(self, **changes: object) -> None:
        state = {**self._state(), **changes}
        part = self.dir / "lab.json.part"
        part.write_text(json.dumps(state, indent=1))
        part.rename(self.dir / "lab.json")
        self._cached = None

    @property
    def cluster(self) -> str:
        """Slurm's ClusterName."""
        return "hclab"

    @property
    def names(self) -> tuple[str, ...]:
        """The four nodes' names."""
        prefix = self._state().get("prefix", "n")
        return tuple(f"{prefix}{number}" for number in range(1, 5))

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes by name, in order."""
        return {
            name: Node(
                name,
                index,
                configs.NODE_CPUS,
                self.dir / "nodes" / name / "root",
                f"slurm_{name}",
                self.dir / "nodes" / name / "run",
            )
            for index, name in enumerate(self.names)
        }

    @property
    def gpus(self) -> bool:
        """Whether the second node has GPUs."""
        return bool(self._state().get("gpus"))

    @property
    def program(self) -> str:
        """The hpccarbon command that belongs to the running Python."""
        return str(Path(sys.executable).parent / "hpccarbon")

    @property
    def group(self) -> Path:
        """The cgroup that holds every process of the lab, and of no other: it carries the folder's fingerprint."""
        fingerprint = hashlib.sha256(os.fsencode(self.dir)).hexdigest()[:8]
        return tracker_base() / f"{_GROUP}.{self._state().get('prefix', 'n')}.{fingerprint}"

    def env(self, user: str | None = None) -> dict[str, str]:
        """The environment of a command in the lab."""
        home = self.dir / "work" / (user or "root")
        return {
            "PATH": f"{Path(sys.executable).parent}:{_PATH}",
            "SLURM_CONF": str(self.dir / "slurm.conf"),
            "HPCCARBON_CONFIG": str(self.dir / "hpccarbon.toml"),
            "HOME": str(home),
            "USER": user or "root",
            "LOGNAME": user or "root",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            **({} if user else _MEASURED),
        }

    def node_config(self, name: str) -> Path:
        """The configuration file of a node's daemon (one file serves all: `%n`)."""
        if name not in self.nodes:
            raise LabError(f"no node {name!r} in the lab; there are {', '.join(self.names)}")
        return self.dir / "hpccarbon.toml"

    def meter_truth(self, name: str) -> powermeter.Truth:
        """What the virtual counters of a node stand for now, unwrapped."""
        return powermeter.truth(self.dir, name, self.nodes[name].number)

    # Up

    def up(
        self, *, gpus: bool | None = None, prefix: str | None = None, slurm: Mapping[str, str] | None = None
    ) -> bool:
        """Bring the lab up; whatever of it runs already stays as it is.

        Args:
            gpus: the second node gets four GPUs. None: as it is, for a new lab none.
            prefix: of the nodes' names. None: as it is, for a new lab `n`.
            slurm: keys of slurm.conf that a new lab has otherwise.

        Returns: True where anything had to be started.
        Raises: LabError with the thing, the reason and the end of its log.
        """
        self._preflight()
        with _exclusive():
            if self.healthy():
                if gpus not in (None, self.gpus) or prefix not in (None, self._state()["prefix"]):
                    raise LabError(f"the lab in {self.dir} is up with other options; take it down first")
                return False
            if slurm is not None:
                self.dir.mkdir(parents=True, exist_ok=True)
                self._save(slurm=dict(slurm))
            self._layout(gpus, prefix)
            self._start_all()
            return True

    def healthy(self) -> bool:
        """Whether every process runs and every node takes jobs."""
        state = self._state()
        if state.get("boot_id") != _boot_id() or not all(self.running(name) for name in self._services()):
            return False
        return self._nodes_ready()

    def running(self, service: str) -> bool:
        """Whether the recorded process of a service is alive."""
        recorded = self._state().get("processes", {}).get(service)
        return alive(Process(*recorded) if recorded else None)

    def process(self, service: str) -> Process | None:
        """The recorded process of a service while it is alive."""
        recorded = self._state().get("processes", {}).get(service)
        return Process(*recorded) if recorded and alive(Process(*recorded)) else None

    def status(self) -> dict[str, str]:
        """Every recorded process and how it is; empty where there is no lab."""
        recorded = self._state().get("processes", {})
        return {name: f"pid {entry[0]}" if self.running(name) else "not running" for name, entry in recorded.items()}

    def _services(self) -> list[str]:
        return ["munged", "mariadb", "meter", "slurmdbd", "slurmctld", *(f"slurmd-{name}" for name in self.names)]

    def _preflight(self) -> None:
        """Everything that makes a start impossible, before anything is touched. Raises: LabError."""
        reason = unavailable()
        if reason:
            raise LabError(reason)
        if len(str(self.dir)) > _PATH_LIMIT or re.search(r"[^\w./-]", str(self.dir)):
            raise LabError(f"{self.dir}: choose a folder of at most {_PATH_LIMIT} letters, digits and /._- (--dir)")
        for parent in self.dir.parents:
            if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
                raise LabError(f"{parent}: not open to other users, so jobs of {', '.join(USERS)} cannot run there")
        if self.dir.exists() and any(self.dir.iterdir()) and not self._is_lab():
            raise LabError(f"{self.dir} is not empty and not a lab; choose another folder (--dir)")

    def _is_lab(self) -> bool:
        return (self.dir / ".hpccarbon-lab").exists()

    def _layout(self, gpus: bool | None, prefix: str | None) -> None:
        """Folders, configuration, trees, users: everything but processes."""
        state = dict(self._state())
        prefix = prefix or state.get("prefix") or "n"
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,15}", prefix):
            raise LabError(f"node prefix {prefix!r}: use small letters, digits and '-'")
        gpus = bool(state.get("gpus")) if gpus is None else gpus
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / ".hpccarbon-lab").touch()
        changed = state.get("prefix", prefix) != prefix or state.get("gpus", gpus) != gpus
        if changed and any(self.running(name) for name in self._services()):
            raise LabError(f"the lab in {self.dir} is half up with other options; take it down first")
        if state.get("boot_id") != _boot_id():
            state["processes"] = {}  # of before a reboot: their pids are other processes now
        self._save(**{**state, "prefix": prefix, "gpus": gpus, "boot_id": _boot_id()})
        self._claim()
        self._adopt()
        for name, mode in {
            "munge": 0o755, "db": 0o700, "log": 0o755, "spool": 0o755, "slurmctld": 0o700, "hooks": 0o755,
            "work": 0o755, "shared": 0o755, "dev": 0o755, "pids": 0o755, "meter": 0o755, "nodes": 0o755,
        }.items():  # fmt: skip
            path = self.dir / name
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        self._ports()
        self._configure(gpus)
        for node in self.nodes.values():
            trees.build(node.root, node.name, node.number, configs.NODE_MB)
            (self.dir / "spool" / node.name).mkdir(exist_ok=True)
            for path in (node.run_dir, node.run_dir / "jobs", self.dir / "nodes" / node.name / "state"):
                path.mkdir(exist_ok=True)
                path.chmod(0o700)
        powermeter.prepare(self.dir, self.names, _boot_id())
        for user in ("root", *USERS):
            if user != "root":
                _make_user(user)
            home = self.dir / "work" / user
            home.mkdir(exist_ok=True)
            shutil.chown(home, user, user)

    def _claim(self) -> None:
        """Take the nodes' names, of which Slurm makes cgroups that two labs cannot share. Raises: LabError."""
        prefix = self._state()["prefix"]
        rivals = [path for path in tracker_base().glob(f"{_GROUP}.{prefix}.*") if path != self.group]
        strangers = members(rivals)
        if strangers:
            raise LabError(
                f"another lab uses the nodes {', '.join(self.names)} (process {min(strangers).pid}); "
                "take it down, or choose other names (--prefix)"
            )
        self.group.mkdir(exist_ok=True)

    def _ports(self) -> None:
        """Ports below the ephemeral range that are free now; kept for the lab's life."""
        wanted = ("slurmctld", "slurmdbd", *self.names)
        ports: dict[str, int] = dict(self._state().get("ports", {}))
        running = {"slurmctld": "slurmctld", "slurmdbd": "slurmdbd", **{name: f"slurmd-{name}" for name in self.names}}
        candidates = iter(range(_FIRST_PORT, 32000))
        chosen = {
            name: ports[name]
            for name in wanted
            if name in ports and (self.running(running[name]) or _free(ports[name]))
        }
        for name in wanted:
            if name not in chosen:
                chosen[name] = next(p for p in candidates if p not in chosen.values() and _free(p))
        if chosen != ports:
            self._save(ports=chosen)

    def _configure(self, gpus: bool) -> None:
        state = self._state()
        gpu_node = self.names[1] if gpus else ""
        if gpus:
            for index in range(configs.GPUS):
                device = self.dir / "dev" / f"nvidia{index}"
                if not device.exists():
                    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(195, index))
        files: dict[str, tuple[str, int]] = {
            "slurm.conf": (
                configs.slurm_conf(
                    self.dir,
                    socket.gethostname(),
                    self.names,
                    state["ports"],
                    cluster=self.cluster,
                    gpu_node=gpu_node,
                    other=state.get("slurm"),
                ),
                0o644,
            ),
            "cgroup.conf": (configs.cgroup_conf(), 0o644),
            "gres.conf": (configs.gres_conf(self.dir, gpu_node), 0o644),
            "slurmdbd.conf": (configs.slurmdbd_conf(self.dir, state["ports"]), 0o600),
        }
        settings = {
            "hpccarbon.toml": (configs.hpccarbon_toml(self.dir, self.cluster, "DE"), 0o644),
            "hooks/hooks.env": (configs.hooks_env(self.dir, self.program), 0o644),
        }
        # A test may have changed these two: they are written once.
        files.update({name: file for name, file in settings.items() if not (self.dir / name).exists()})
        for hook in ("prolog", "epilog", "task_prolog"):
            source = CHECKOUT / "slurm_scripts" / f"{hook}.sh"
            files[f"hooks/{hook}.sh"] = (source.read_text(), 0o755)
            files[f"hooks/{hook}"] = (configs.hook_wrapper(self.dir, f"{hook}.sh"), 0o755)
        for name, (text, mode) in files.items():
            part = self.dir / f"{name}.part"
            part.write_text(text)
            part.chmod(mode)
            part.rename(self.dir / name)
        key = self.dir / "munge" / "key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)

    def _start_all(self) -> None:
        lab, ports = self.dir, self._state()["ports"]
        database = lab / "db" / "socket"
        # The cluster's processes need no more than these; nothing of the caller's environment leaks into jobs.
        env = {**self.env(), "MYSQL_UNIX_PORT": str(database)}
        if not self.running("munged"):
            (lab / "munge" / "socket").unlink(missing_ok=True)
        self._start(
            "munged",
            ["munged", "--foreground", "--force", f"--socket={lab}/munge/socket", f"--key-file={lab}/munge/key",
             f"--pid-file={lab}/munge/pid", f"--seed-file={lab}/munge/seed", f"--log-file={lab}/log/munged-self.log"],
            env,
        )  # fmt: skip
        script = Path(powermeter.__file__)
        self._start("meter", [sys.executable, "-I", "-S", "-B", str(script), str(lab)], env)
        self._start_database(database, env)
        self._ready("munged", lambda: _connects(lab / "munge" / "socket"), 10)
        self._ready("mariadb", lambda: _connects(database), 30)
        self._start("slurmdbd", ["slurmdbd", "-D"], env)
        self._ready("slurmdbd", lambda: _connects(ports["slurmdbd"]), 30)
        self._accounts()
        for name in self.names:
            if not self.running(f"slurmd-{name}"):
                self._sweep_empty(name)
        # -i: from 26.05 on slurmctld refuses to start without the files that only an orderly end writes.
        self._start("slurmctld", ["slurmctld", "-D", "-i"], env)
        for name in self.names:
            self._start(f"slurmd-{name}", ["slurmd", "-D", "-N", name], env)
        self._ready("slurmctld", lambda: self.run(["scontrol", "ping"], check=False, timeout=10).returncode == 0, 20)
        self._ready_nodes()

    def _start_database(self, database: Path, env: Mapping[str, str]) -> None:
        if self.running("mariadb"):
            return
        database.unlink(missing_ok=True)
        data = self.dir / "db" / "data"
        tuning = ["--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        if not (self.dir / "db" / "installed").exists():
            shutil.rmtree(data, ignore_errors=True)
            log = self.dir / "log" / "mariadb-install.log"
            with log.open("wb") as out:
                code = subprocess.run(
                    ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db",
                     "--auth-root-authentication-method=socket", "--skip-name-resolve", *tuning],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), timeout=60,
                ).returncode  # fmt: skip
            if code:
                raise LabError(f"mariadb-install-db failed with status {code}\n{tail(log)}")
            (self.dir / "db" / "installed").touch()
        self._start(
            "mariadb",
            ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={database}",
             f"--pid-file={self.dir}/db/pid", "--skip-networking", "--skip-name-resolve", "--skip-log-bin",
             "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", *tuning],
            env,
        )  # fmt: skip

    def _start(self, service: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a service that does not run, in the lab's cgroup and a session of its own, and record who it is."""
        if self.running(service):
            return
        log = self._log(service)
        log.parent.mkdir(exist_ok=True)
        # The shell notes its pid before it becomes the service: a lab that is killed right now can be taken up again.
        noted = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._note(service)), *argv]
        with log.open("ab") as out:
            child = subprocess.Popen(
                self.command(noted),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), cwd=self.dir, start_new_session=True,
            )  # fmt: skip
        self._children.append(child)
        self._record(service, identity(child.pid) or Process(child.pid, 0))

    def _record(self, service: str, process: Process) -> None:
        self._save(processes={**self._state().get("processes", {}), service: list(process)})

    def _note(self, service: str) -> Path:
        return self.dir / "pids" / service

    def _adopt(self) -> None:
        """Record services that run unrecorded, as their starter was killed in between."""
        for service in self._services():
            if self.running(service):
                continue
            with contextlib.suppress(OSError, ValueError):
                process = identity(int(self._note(service).read_text()))
                if process is not None and process in members([self.group]):
                    self._record(service, process)

    def command(self, argv: Sequence[str], user: str | None = None) -> list[str]:
        """The command that runs `argv` as a member of the lab's cgroup; exec keeps the pid."""
        change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"] if user else []
        # The group may be gone with a reboot or a `down` in between: then the command runs where it is.
        enter = 'p=$1; shift; { echo 0 >"$p"; } 2>/dev/null; exec "$@"'
        return ["/bin/sh", "-c", enter, "sh", str(self.group / "cgroup.procs"), *change, *argv]

    def _log(self, service: str) -> Path:
        if service.startswith("daemon-"):
            return self.dir / "nodes" / service.removeprefix("daemon-") / "daemon.log"
        slurm = ("slurmctld", "slurmdbd", "slurmd-")
        # Slurm's daemons write their own log and repeat it on stderr.
        return self.dir / "log" / (f"{service}.out" if service.startswith(slurm) else f"{service}.log")

    def _ready(self, service: str, check: Callable[[], bool], timeout_s: float) -> None:
        """Wait for a service. Raises: LabError as soon as it died, or when the time is over."""
        died = False

        def ready() -> bool:
            nonlocal died
            if check():
                return True
            died = not self.running(service)
            return died

        if not wait_until(ready, timeout_s) or died:
            reason = "ended at once" if died else f"does not answer after {timeout_s:.0f} s"
            raise LabError(f"{service} {reason}\n{tail(self._log(service))}")

    def _accounts(self) -> None:
        """The cluster, its accounts and users in slurmdbd: all before slurmctld starts, or it refuses to."""
        marker = self.dir / "db" / "accounts"
        if marker.exists():
            return
        steps = [["add", "cluster", self.cluster], ["add", "account", ",".join(sorted(set(USERS.values())))]]
        steps += [["add", "user", user, f"account={account}"] for user, account in USERS.items()]
        for step in steps:
            done = self.run(["sacctmgr", "-i", *step], check=False, timeout=30)
            text = (done.stdout + done.stderr).strip()
            if done.returncode and "already exist" not in text and "Nothing new" not in text:
                raise LabError(f"sacctmgr {' '.join(step)}: {text}\n{tail(self._log('slurmdbd'))}")
        marker.touch()

    def _nodes_ready(self) -> bool:
        try:
            done = self.run(["sinfo", "-h", "-N", "-o", "%N %T"], check=False, timeout=10)
        except LabError:
            return False
        states = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
        good = ("idle", "mixed", "allocated", "completing", "allocated+")
        return done.returncode == 0 and all(states.get(name) in good for name in self.names)

    def _ready_nodes(self) -> None:
        resumed = False

        def ready() -> bool:
            nonlocal resumed
            if self._nodes_ready():
                return True
            dead = [name for name in self.names if not self.running(f"slurmd-{name}")]
            if dead:
                raise LabError(f"slurmd of {dead[0]} ended at once\n{tail(self._log(f'slurmd-{dead[0]}'))}")
            states = self.run(["sinfo", "-h", "-N", "-o", "%N %T"], check=False, timeout=10).stdout
            if not resumed and re.search(r"drain|down\b", states):  # from before a crash
                for name in self.names:
                    self.run(["scontrol", "update", f"nodename={name}", "state=resume"], check=False, timeout=10)
                resumed = True
            return False

        if not wait_until(ready, 30, 0.05):
            states = self.run(["sinfo", "-N", "-o", "%N %T %E"], check=False, timeout=10).stdout
            raise LabError(f"not all nodes take jobs after 30 s:\n{states}{tail(self.dir / 'log' / 'slurmctld.log')}")

    # Down

    def down(self) -> None:
        """End and remove everything of the lab. Harmless where there is none. Raises: LabError for what stays."""
        if os.geteuid() != 0:
            raise LabError("the lab needs root")
        with _exclusive():
            if not self._is_lab():
                return
            groups = self._node_groups()
            recorded = [Process(*entry) for entry in self._state().get("processes", {}).values()]
            same_boot = self._state().get("boot_id") == _boot_id()
            group = self.group
            rivals = [path for path in tracker_base().glob(f"{_GROUP}.*") if path != group and members([path])]
            if any(path.name.split(".")[1] == group.name.split(".")[1] for path in rivals):
                groups = []  # this lab never came up: the nodes are another's
            end_all([group, *groups], recorded if same_boot else [])
            for child in self._children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
            self._children.clear()
            for directory in [*groups, group]:
                remove_tree(directory)
            if not rivals:
                for user in USERS:
                    _remove_user(user)
            shutil.rmtree(self.dir)
            self._cached = None

    def _node_groups(self, names: Iterable[str] | None = None) -> list[Path]:
        """Slurm's directories for these nodes in every hierarchy."""
        wanted = {f"slurm_{name}" for name in names or self.names}
        return [
            path
            for base in sorted(CGROUP.iterdir())
            for path in (base / name for name in sorted(wanted))
            if base.is_dir() and path.is_dir()
        ]

    def _sweep_empty(self, name: str) -> None:
        """Before a slurmd starts: jobs' directories that a crash left empty. Those of living steps stay, being busy."""
        for directory in self._node_groups([name]):
            for path, _, _ in os.walk(directory, topdown=False):
                if path != str(directory):
                    with contextlib.suppress(OSError):
                        Path(path).rmdir()

    # Use

    def run(
        self,
        argv: Sequence[str],
        user: str | None = None,
        check: bool = True,
        timeout: float = 60,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the lab (as `user`), its output captured.

        Raises: LabError where it takes longer than `timeout` seconds, or fails while `check` is set.
        """
        home = self.dir / "work" / (user or "root")
        try:
            done = subprocess.run(
                self.command(argv, user),
                input=stdin or "", capture_output=True, text=True, errors="replace", timeout=timeout,
                env={**self.env(user), **(env or {})}, cwd=home if home.exists() else "/",
            )  # fmt: skip
        except subprocess.TimeoutExpired as err:
            raise LabError(f"{' '.join(argv)}: no answer within {timeout:.0f} s") from err
        if check and done.returncode:
            raise LabError(f"{' '.join(argv)}: status {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done

    def submit(self, script: str, *options: str, user: str | None = None) -> int:
        """sbatch a script (its text; `#!/bin/sh` is added where no #! leads it); the job's id."""
        text = script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
        output = [] if _has(options, "--output") else [f"--output={self.dir}/work/{user or 'root'}/%j.out"]
        argv = ["sbatch", "--parsable", *output, *options]
        return int(self.run(argv, user=user, stdin=text).stdout.strip().split(";")[0])

    def states(self) -> dict[str, str]:
        """Every job that slurmctld still knows (array tasks one by one, as `J_T`) and its state."""
        done = self.run(["squeue", "-h", "-t", "all", "-r", "-o", "%i %T"])
        return {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.strip()}

    def wait(self, job_ids: int | Iterable[int], timeout: float = 60) -> dict[str, str]:
        """Wait until these jobs have ended everywhere, epilogs included; their last states by id (`J` or `J_T`).

        A job that slurmctld has forgotten (MinJobAge 120 s) has ended and is not in the answer.
        Raises: LabError.
        """
        wanted = {str(job) for job in ([job_ids] if isinstance(job_ids, int) else job_ids)}
        found: dict[str, str] = {}

        def ended() -> bool:
            found.clear()
            found.update({job: state for job, state in self.states().items() if job.split("_")[0] in wanted})
            return all(state in _GONE for state in found.values())

        if not wait_until(ended, timeout, 0.05):
            log = tail(self.dir / "log" / "slurmctld.log")
            raise LabError(f"jobs have not ended after {timeout:.0f} s: {found}\n{log}")
        return dict(found)

    def sacct(self, job_id: int, *fields: str, jobs: int = 1, timeout: float = 20) -> list[dict[str, str]]:
        """Rows of sacct (steps and earlier runs included), once it knows that the job has ended.

        `jobs` is how many array tasks or runs there are: slurmctld tells slurmdbd of each in its own time, up to
        two seconds late. Raises: LabError.
        """
        names = [*fields, *(name for name in ("JobID", "State", "End") if name not in fields)]
        rows: list[dict[str, str]] = []

        def known() -> bool:
            argv = ["sacct", "-n", "-P", "--duplicates", "-j", str(job_id), "-o", ",".join(names)]
            text = self.run(argv).stdout
            rows[:] = [dict(zip(names, line.split("|"), strict=False)) for line in text.splitlines()]
            ended = all(row["End"] not in ("Unknown", "") for row in rows)
            return ended and sum("." not in row["JobID"] for row in rows) >= jobs

        if not wait_until(known, timeout, 0.1):
            raise LabError(f"sacct does not know the end of job {job_id} after {timeout:.0f} s: {rows}")
        return rows

    # hpccarbon's daemons

    def start_daemon(self, name: str, timeout: float = 10, env: Mapping[str, str] | None = None) -> Process:
        """Start a node's daemon (with `env` beside the lab's) and wait for its pid file. Raises: LabError."""
        config, service = self.node_config(name), f"daemon-{name}"
        running = self.daemon(name)
        if running:
            return running
        self._start(
            service, [self.program, "daemon", "--config", str(config), "--node", name], {**self.env(), **(env or {})}
        )
        self._ready(service, lambda: self._pid_file(name) is not None, timeout)
        process = self._pid_file(name)
        if process is None:
            raise LabError(f"daemon of {name} ended at once\n{tail(self._log(service))}")
        return process

    def daemon(self, name: str) -> Process | None:
        """The living daemon of a node: the one the lab started, or the one in the pid file (a prolog's)."""
        return self.process(f"daemon-{name}") or self._pid_file(name)

    def _pid_file(self, name: str) -> Process | None:
        with contextlib.suppress(OSError, ValueError, IndexError):  # a file that is being written is empty
            process = identity(int((self.nodes[name].run_dir / "daemon.pid").read_text().split()[0]))
            # A stale file may hold the pid of anyone: only what runs inside the lab counts.
            if process in members([self.group]):
                return process
        return None

    def stop_daemon(self, name: str, timeout: float = 20) -> None:
        """SIGTERM a node's daemon and wait for its end. Raises: LabError."""
        self._end_daemon(name, signal.SIGTERM, timeout)

    def kill_daemon(self, name: str) -> None:
        """SIGKILL a node's daemon, as a crash would."""
        self._end_daemon(name, signal.SIGKILL, 5)

    def _end_daemon(self, name: str, number: signal.Signals, timeout: float) -> None:
        process = self.daemon(name)
        if process is None:
            return
        send(process, number)
        if not wait_until(lambda: not alive(process), timeout):
            raise LabError(f"daemon of {name} does not end within {timeout:.0f} s\n{tail(self._log(f'daemon-{name}'))}")


def _has(options: Sequence[str], name: str) -> bool:
    return any(option == name or option.startswith(f"{name}=") for option in options)


def unavailable() -> str:
    """Why no lab can run here; empty where one can."""
    if os.geteuid() != 0:
        return "the lab needs root"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt install slurm-wlm slurmdbd munge mariadb-server)"
    absent = [name for name in ("cpuacct", "freezer", "memory") if not (CGROUP / name / "cgroup.procs").exists()]
    if absent:
        return f"the lab's Slurm needs cgroup v1; not mounted below {CGROUP}: {', '.join(absent)}"
    return ""


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@contextlib.contextmanager
def _exclusive(timeout_s: float = 90) -> Iterator[None]:
    """One `up` or `down` at a time here: an abstract socket is a lock that leaves no file and dies with us."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:

        def bound() -> bool:
            try:
                lock.bind("\0hpccarbon-lab")
            except OSError:
                return False
            return True

        if not wait_until(bound, timeout_s):
            raise LabError(f"another lab has been starting or stopping for {timeout_s:.0f} s")
        yield


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As Slurm does it; without this a port counts as taken for a minute after a lab went down.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _connects(where: Path | int) -> bool:
    family, address = (socket.AF_INET, ("127.0.0.1", where)) if isinstance(where, int) else (socket.AF_UNIX, str(where))
    with socket.socket(family) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True


def _make_user(name: str) -> None:
    """A user without login. Raises: LabError where someone else made a user of this name."""
    with contextlib.suppress(KeyError):
        if pwd.getpwnam(name).pw_gecos != _OWNER:
            raise LabError(f"user {name} exists and was not made by a lab")
        return
    argv = ["useradd", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin",
            "--comment", _OWNER, "--user-group", name]  # fmt: skip
    _account_command(argv)


def _remove_user(name: str) -> None:
    with contextlib.suppress(KeyError):
        if pwd.getpwnam(name).pw_gecos == _OWNER:
            _account_command(["userdel", name])


def _account_command(argv: Sequence[str], timeout_s: float = 10) -> None:
    """useradd or userdel, again while another one holds the lock on /etc/passwd. Raises: LabError."""
    end = time.monotonic() + timeout_s
    while True:
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
        if done.returncode == 0:
            return
        if "lock" not in done.stderr or time.monotonic() > end:
            raise LabError(f"{argv[0]} {argv[-1]}: {done.stderr.strip()}")
        time.sleep(0.2)
