"""Merges hours on other machines: on the Dask workers of a scheduler that exists, or on ones that Slurm starts for us.

Knows nothing about hours. A worker needs this package in the same version, and the shared directory under the same
path; Slurm's workers get both by running as the same user from the same environment. Nothing that was started is left:
jobs are cancelled by a name of their own, and a worker that loses us ends by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hpccarbon.config import Slurm
from hpccarbon.errors import HpcCarbonError, SlurmError
from hpccarbon.site.executor import Crew
from hpccarbon.site.lock import exclusive
from hpccarbon.site.tls import tidy_sockets
from hpccarbon.slurm import command

_CONNECT_S = 10
_DEATH_S = 30
"""A worker that has not heard of its scheduler for so long ends: what remains of us after kill -9."""
_LOOK_S = 2.0
_REMOVALS, _MAKING_S = 40, 60
_PREFIX, _LOCK = ".workers-", "lock"
"""What a run keeps for its workers lies in a folder of its own, and a lock in it says that the run is alive."""
_RETRIES = 3
"""How often an hour is begun again after its worker was lost."""


class Batch(NamedTuple):
    """How Slurm runs the workers, each one job of one core.

    `options` are sbatch's own, as `--partition=short`. Workers end before `walltime_s` and are followed by others.
    """

    settings: Slurm
    workers: int
    options: tuple[str, ...] = ()
    interface: str | None = None
    memory: str = "2GiB"
    walltime_s: int = 1800


@contextlib.contextmanager
def dask_crew(scheduler: str, connect_s: float = _CONNECT_S) -> Iterator[Crew]:
    """The workers of a Dask scheduler, for example `tcp://head:8786`. They belong to somebody else and stay.

    Raises: HpcCarbonError, if it does not answer or has no worker.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(scheduler, timeout=connect_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as err:
        raise HpcCarbonError(f"--scheduler {scheduler}: no answer: {err} (is `dask scheduler` running there?)") from err
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise HpcCarbonError(f"--scheduler {scheduler}: it has no workers (start them: `dask worker {scheduler}`)")
        _same_version(client)
        yield _crew(client, threads)


@contextlib.contextmanager
def slurm_crew(batch: Batch, scratch: Path) -> Iterator[Crew]:
    """Workers that run as Slurm jobs: as many as there is work for, at most `batch.workers`; none are left behind.

    The workers prove who they are by certificates made for this run: a bare Dask scheduler would run anybody's code.

    Args:
        scratch: a directory that all nodes see; a folder in it holds the certificates and logs for as long as we run.

    Raises: SlurmError, if Slurm would not take such a job; HpcCarbonError, if the `dask` extra is not installed.
    """
    distributed, name = _distributed(), f"hpccarbon-{uuid.uuid4().hex[:12]}"
    from dask_jobqueue.slurm import SLURMCluster

    scratch.mkdir(parents=True, exist_ok=True)
    _sweep(scratch)
    with (
        _environment(batch.settings),
        _sigterm_unwinds(),
        _own_folder(scratch) as folder,
        tidy_sockets(),  # else workers are lost where Python and OpenSSL are new
        contextlib.ExitStack() as stack,
    ):
        logging.getLogger("distributed").setLevel(logging.ERROR)  # of its own lost workers it says too much
        cluster: Any = SLURMCluster(
            cores=1,
            processes=1,
            memory=batch.memory,
            walltime=_clock(batch.walltime_s),
            job_name=name,
            job_extra_directives=[*batch.options, f"--output={folder}/%j.log"],
            worker_extra_args=["--lifetime", f"{int(batch.walltime_s * 0.8)}s", "--lifetime-stagger", "60s"],
            death_timeout=_DEATH_S,
            interface=batch.interface,
            local_directory=tempfile.gettempdir(),
            scheduler_options={"dashboard_address": "127.0.0.1:0", "dashboard": False},
            security=_certificates(folder),
            python=sys.executable,
        )
        stack.callback(_cancel, batch.settings, name)
        stack.callback(cluster.close, timeout=_CONNECT_S)
        _would_run(batch.settings, cluster.job_script(), folder)
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        cluster.adapt(minimum=0, maximum=batch.workers, target_duration="1s", wait_count=3)
        over = threading.Event()
        stack.callback(over.set)
        watch = threading.Thread(target=_watch, args=(cluster, client, batch.workers, over), daemon=True)
        watch.start()
        yield _crew(client, batch.workers)


@contextlib.contextmanager
def _own_folder(scratch: Path) -> Iterator[Path]:
    """A folder for this run, locked for as long as it runs, and removed after it."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch))
    try:
        with exclusive(folder / _LOCK):
            yield folder
    finally:
        for _ in range(_REMOVALS):  # workers that were cancelled still write the last lines of their logs
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.25)


def _sweep(scratch: Path) -> None:
    """Remove the folders of aggregators that were killed: nobody holds their locks any more."""
    for folder in scratch.glob(f"{_PREFIX}*"):
        lock = folder / _LOCK
        with contextlib.suppress(HpcCarbonError, OSError):
            if lock.exists():
                with exclusive(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            elif time.time() - folder.stat().st_mtime > _MAKING_S:  # a younger one may just be being made
                shutil.rmtree(folder, ignore_errors=True)


def _certificates(folder: Path) -> Any:
    """New certificates for scheduler, workers and us, as files that only this user can read."""
    from distributed.security import Security

    make: Any = Security
    temporary = make.temporary()
    paths = {}
    roles = [f"{who}_{what}" for who in ("scheduler", "worker", "client") for what in ("cert", "key")]
    for role in ("ca_file", *roles):
        paths[f"tls_{role}"] = path = str(folder / f"{role}.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(getattr(temporary, f"tls_{role}"))
    return make(require_encryption=True, **paths)


def _crew(client: Any, workers: int) -> Crew:
    from concurrent.futures import CancelledError

    from distributed.scheduler import KilledWorker

    executor = client.get_executor(pure=False, retries=_RETRIES)
    return Crew(executor, workers, workers, (KilledWorker, CancelledError))


def _distributed() -> Any:
    interrupted = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue  # noqa: F401 - both or none
        import distributed
    except ImportError as err:
        raise HpcCarbonError(f"{err.name} is not installed (install the extra dask: docs/howto/offline.md)") from err
    finally:
        # dask-jobqueue makes Ctrl-C an exit with status 0 when it is loaded: whoever called us would take it for done.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupted)
    return distributed


def _same_version(client: Any) -> None:
    """Refuse workers that would write other files than we read. Raises: HpcCarbonError naming them."""
    from hpccarbon import __version__

    try:
        said = client.run(_version)
    except Exception as err:  # whatever a stranger's environment raises; ModuleNotFoundError in the common case
        raise HpcCarbonError(f"a worker cannot load hpccarbon: {err} (install the same release there)") from err
    if other := {version for version in said.values() if version != __version__}:
        raise HpcCarbonError(f"workers run hpccarbon {', '.join(sorted(other))}, this is {__version__}")


def _version() -> str:
    from hpccarbon import __version__

    return __version__


def _would_run(settings: Slurm, script: str, folder: Path) -> None:
    """Ask Slurm whether it would take the workers' job: else one that is refused would be submitted for ever."""
    path = folder / "worker.sh"
    path.write_text(script)
    try:
        command.run(settings, ["sbatch", "--test-only", str(path)])
    except SlurmError as err:
        raise SlurmError(f"workers: {err}; see --slurm-option") from err


def _watch(cluster: Any, client: Any, workers: int, over: threading.Event) -> None:
    """Give up when workers die before one of them comes: then the hours that remain are told as failed."""
    limit, before = 2 * workers + 8, 0
    while not over.wait(_LOOK_S):
        started = 1 + max((name for name in cluster.worker_spec if isinstance(name, int)), default=-1)
        if client.nthreads():
            before = started  # a long run starts many, for each ends by its time limit
        elif started - before > limit:
            client.close()
            return


def _cancel(settings: Slurm, name: str) -> None:
    with contextlib.suppress(SlurmError):  # nothing of that name is left, or Slurm is away: then _DEATH_S ends them
        command.run(settings, ["scancel", f"--name={name}"])


@contextlib.contextmanager
def _environment(settings: Slurm) -> Iterator[None]:
    """dask-jobqueue finds Slurm's commands as this process does: the site's PATH and SLURM_CONF, for as long."""
    wanted = command.environment(settings)
    names = ("PATH", "SLURM_CONF")
    before = {name: os.environ.get(name) for name in names}
    try:
        os.environ.update({name: wanted[name] for name in names if name in wanted})
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM leaves through the `with` blocks, where it would otherwise end us on the spot."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
