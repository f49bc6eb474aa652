"""The tracker: reads at start and stop, ticks between, turns joules into a row. Never raises into the user's program.

Readings are cumulative, so a tick that races `stop` bills nothing twice: whoever reads last has the sum.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from hpccarbon.tracker import data
from hpccarbon.tracker.data import EmissionsData
from hpccarbon.tracker.output import BaseOutput, FileOutput, HTTPOutput, LoggerOutput, OutputMethod, moment
from hpccarbon.units import NS_PER_S, NS_PER_US, UJ_PER_J, UJ_PER_KWH

if TYPE_CHECKING:
    from hpccarbon.tracker.places import Place
    from hpccarbon.tracker.source import Source, Used

log = logging.getLogger("hpccarbon")
Result = TypeVar("Result")
_FIRST_TICK_S = 1.0
"""Ticks come after 1, 2, 4 ... s up to measure_power_secs: the row of a run that is killed early is hardly older."""
_ROW_SPACING_S = 5.0
"""How old the row in the file may be that a kill leaves, however fast the ticks: writing costs more than reading."""
_sections = 0


class _Meter:
    """Sums of one run: readings, their energy by UTC hour, and where they came from."""

    def __init__(self, origin: Source) -> None:
        self.origin = origin
        self._last = origin.read()
        self.used = self._last.since(self._last)
        self.by_hour: dict[datetime, int] = {}

    def read(self) -> Used:
        """A fresh reading; the use since the beginning."""
        now = self.origin.read()
        fresh = now.since(self._last)
        self._last = now
        self.used = self.used.plus(fresh)
        hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
        self.by_hour[hour] = self.by_hour.get(hour, 0) + fresh.energy_uj
        return self.used


def _guarded(method: Callable[..., Result]) -> Callable[..., Result | None]:
    """Log what goes wrong instead of raising it, unless `raise_errors`: training is worth more than its account."""

    @functools.wraps(method)
    def call(self: EmissionsTracker, *args: Any, **kwargs: Any) -> Result | None:
        try:
            return method(self, *args, **kwargs)
        except Exception as err:
            if self.settings.raise_errors:
                raise
            log.error("%s: %s: %s", method.__name__, type(err).__name__, err)  # noqa: TRY400 - one line
            return None

    return call


class EmissionsTracker:
    """Energy and emissions of a section of a program: CodeCarbon's interface, this job's joules (docs/tracker.md).

    Args: those of CodeCarbon's tracker, by name (`project_name` also by place). `zone` is a grid zone of ours and goes
        before `country_iso_code`. `raise_errors`: let failures through. `all_ranks`: every rank of a node writes its
        row, though all have the node's share of the whole job.

    Raises: TypeError for an unknown argument, ValueError for a value that cannot be used, FileNotFoundError where
        `output_dir` is missing. Nothing else here ever raises, without `raise_errors`.
    """

    def __init__(self, project_name: str | None = None, **arguments: Any) -> None:
        # Loaded here and not above: a program that only imports the tracker shall not wait for msgspec.
        from hpccarbon.tracker.places import place
        from hpccarbon.tracker.settings import resolve
        from hpccarbon.tracker.source import site_config

        self.settings = resolve({"project_name": project_name, **arguments})
        if self.settings.log_level:
            log.setLevel(str(self.settings.log_level).upper())
        self.run_id = _run_id()
        self.final_emissions: float | None = None
        self.final_emissions_data: EmissionsData | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._metrics: dict[str, float | str] = {}
        self._meter: _Meter | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started = False
        self._only: int | None = None
        self._task: tuple[str, Used, float] | None = None
        self._tasks: list[EmissionsData] = []
        self._reported = EmissionsData()
        self._failed: set[str] = set()
        self._place: Place = place(self.settings, site_config())
        if self._place.note:
            log.warning(self._place.note)
        self._outputs = self._make_outputs()

    def _make_outputs(self) -> list[BaseOutput]:
        settings = self.settings
        methods = {OutputMethod.CSV} if settings.save_to_file else set()
        if settings.save_to_logger:
            methods.add(OutputMethod.LOGGER)
        if settings.output_methods is not None:
            methods = {OutputMethod(name.strip().lower()) for name in settings.output_methods.split(",") if name}
        outputs: list[BaseOutput] = []
        if OutputMethod.CSV in methods:
            directory = Path(settings.output_dir)
            if not directory.is_dir():
                raise FileNotFoundError(f"output_dir {str(directory)!r} is not there: make it, or choose another")
            path = directory / settings.output_file
            outputs.append(FileOutput(path, self.run_id, update=settings.on_csv_write == "update"))
        if OutputMethod.LOGGER in methods:
            given = settings.logging_logger
            outputs.append(given if isinstance(given, BaseOutput) else LoggerOutput(given))
        for method in sorted(methods - {OutputMethod.CSV, OutputMethod.LOGGER}):
            log.warning(
                "output method %s is not here: the row is a file, and emissions_endpoint posts it", method.value
            )
        if settings.emissions_endpoint:
            outputs.append(HTTPOutput(settings.emissions_endpoint))
        return [*outputs, *settings.output_handlers]

    # ---- start, stop --------------------------------------------------------------------------------------------

    @_guarded
    def start(self) -> None:
        """Begin: take a fresh reading, write the run's row, tick in a thread from now on."""
        global _sections  # noqa: PLW0603 - the ordinal of this process's sections; ranks count alike
        with self._lock:
            if self._started:
                log.warning("start: already started; nothing is done")
                return
            if not self.settings.allow_multiple_runs and not self._be_the_only_one():
                return
            _sections += 1
            self._section = _sections
            from hpccarbon.tracker.source import find

            origin, words = find(self.settings)
            log.info("tracker: %s", words)
            if origin.scope == "job" and not self.settings.all_ranks and os.environ.get("SLURM_LOCALID", "0") != "0":
                log.info("tracker: the first rank of each node writes the row of its node; this one writes none")
                self._outputs = [output for output in self._outputs if not isinstance(output, (FileOutput, HTTPOutput))]
            self._meter = _Meter(origin)
            self._began_s = time.monotonic()
            self._row_due_s = 0.0
            self._started = True
            self._report(live=True)
            self._stopping.clear()
            self._thread = threading.Thread(target=self._ticks, name="hpccarbon-tracker", daemon=True)
            self._thread.start()
            atexit.register(self.stop)

    @_guarded
    def stop(self) -> float | None:
        """End: a fresh reading, the row finished. kg CO2e; None only if nothing was ever measured. Again: the same."""
        if not self._mine() or not self._started or self._meter is None:
            return self.final_emissions
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)
        with self._lock:
            if self._task is not None:
                self.stop_task()
            self._read()
            self._started = False
            self._report(live=False)
            self._meter.origin.close()
            self._meter = None
        atexit.unregister(self.stop)
        for output in self._outputs:
            # An endpoint that is slow is waited for at the end of the program, not here.
            if not isinstance(output, HTTPOutput):
                self._safely(output.exit)
        if self._only is not None:
            os.close(self._only)
            self._only = None
        return self.final_emissions

    @_guarded
    def flush(self) -> float | None:
        """Write what is known now, and go on. kg CO2e so far."""
        if not self._mine() or self._meter is None:
            return self.final_emissions
        with self._lock:
            self._read()
            self._report(live=False)
        return self.final_emissions

    @_guarded
    def sum_nodes(self, timeout_s: float = 60.0) -> EmissionsData | None:
        """After `stop`, on any rank: this section on all nodes of the step together, waited for so long.

        The rows of all nodes must go to one file. On one node, and outside of a step: `final_emissions_data`.
        """
        from hpccarbon.tracker.ranks import nodes_of_step, sum_of_nodes

        mine, nodes = self.final_emissions_data, nodes_of_step()
        if mine is None or mine.state != "finished":
            raise ValueError("sum_nodes: stop the tracker first")
        if nodes == 1 or mine.scope != "job":
            return mine
        if not self.settings.save_to_file:
            raise ValueError("sum_nodes: needs save_to_file: the nodes meet in emissions.csv")
        path = Path(self.settings.output_dir) / self.settings.output_file
        return sum_of_nodes(path, mine, nodes, timeout_s)

    def __enter__(self) -> EmissionsTracker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def service_shutdown(self, signum: int, frame: object) -> None:
        """A signal handler for programs that want one: finish the row. None is ever installed by itself."""
        self.stop()

    # ---- tasks and metrics --------------------------------------------------------------------------------------

    @_guarded
    def start_task(self, task_name: str | None = None) -> None:
        """Begin a task, with a fresh reading; starts the tracker where that was not done."""
        with self._lock:
            if not self._started:
                self.start()
            if self._task is not None:
                log.warning("start_task: %r is still running; it is ended first", self._task[0])
                self.stop_task()
            name = task_name or _run_id()
            if any(done.task_name == name for done in self._tasks):
                name = f"{name}_{_run_id()}"
            self._task = (name, self._read(), time.monotonic())

    @_guarded
    def stop_task(self, task_name: str | None = None) -> EmissionsData | None:
        """End the task; what it used."""
        with self._lock:
            if self._task is None:
                log.warning("stop_task: no task is running")
                return None
            name, before, began_s = self._task
            self._task = None
            row = self._row(self._read().since(before), time.monotonic() - began_s, "finished")
            row.task_name = name
            self._tasks.append(row)
            return row

    def log_metric(self, name: str, value: float | str) -> None:
        """Keep a result of the user's own beside the costs, for `compare`: `log_metric("accuracy", 0.93)`."""
        with self._lock:
            self._metrics[name] = value if isinstance(value, str) else float(value)

    def get_detected_hardware(self) -> dict[str, Any]:
        """What this machine is, under CodeCarbon's keys."""
        facts = data.machine()
        return {
            "ram_total_size": data.memory()["ram_total_size"],
            "cpu_count": self._meter.origin.cores if self._meter else os.cpu_count(),
            "cpu_physical_count": None,
            "cpu_model": facts["cpu_model"],
            "gpu_count": 0,
            "gpu_model": "",
            "gpu_ids": self.settings.gpu_ids,
        }

    # ---- inside -------------------------------------------------------------------------------------------------

    def _mine(self) -> bool:
        """Whether this process started it: in a forked child there is no thread, and the row is the parent's."""
        return os.getpid() == self._pid

    def _be_the_only_one(self) -> bool:
        """Hold the machine's lock. The kernel lets go of it when the process ends, however it ends."""
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f".hpccarbon-{os.getuid()}.lock"  # noqa: S108 - O_NOFOLLOW below
        self._only = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._only)
            self._only = None
            log.warning("another tracker holds %s, and allow_multiple_runs is False: nothing is measured", path)
            return False
        return True

    def _ticks(self) -> None:
        pause_s = min(_FIRST_TICK_S, self.settings.measure_power_secs)
        while not self._stopping.wait(pause_s):
            pause_s = min(2 * pause_s, self.settings.measure_power_secs)
            with self._lock:
                if not self._started or self._stopping.is_set():
                    return
                try:
                    if self._row_is_due():
                        self._read()
                        self._report(live=True)
                    elif self._meter is not None:
                        self._meter.origin.watch()
                except Exception as err:
                    self._once(f"tick: {type(err).__name__}: {err}")

    def _row_is_due(self) -> bool:
        """Whether this tick is one for the file; handlers of the user's own hear every tick."""
        others = any(not isinstance(output, FileOutput) for output in self._outputs)
        return others or time.monotonic() - self._began_s >= self._row_due_s

    def _read(self) -> Used:
        """A fresh reading, or the last one where the daemon is away for the moment: it catches up."""
        from hpccarbon.node.control import Unavailable

        assert self._meter is not None
        try:
            return self._meter.read()
        except Unavailable as err:
            self._once(f"{err}; the last reading stands, the next one will cover the time")
            return self._meter.used

    def _once(self, text: str) -> None:
        if text not in self._failed:
            self._failed.add(text)
            log.warning(text)

    def _report(self, *, live: bool) -> None:
        assert self._meter is not None
        state = "running" if self._started else "finished"
        duration_s = time.monotonic() - self._began_s
        self._row_due_s = duration_s + min(_ROW_SPACING_S, max(duration_s, 0.2))
        total = self._row(self._meter.used, duration_s, state)
        delta = _delta(total, self._reported)
        if not live:
            self._reported = total
            self.final_emissions, self.final_emissions_data = total.emissions, total
        for output in self._outputs:
            self._safely(output.live_out if live else output.out, total, delta)
            if not live and self._tasks:
                self._safely(output.task_out, list(self._tasks), self.settings.experiment_name)

    def _safely(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception as err:
            if self.settings.raise_errors:
                raise
            self._once(f"{type(call).__name__ if not hasattr(call, '__qualname__') else call.__qualname__}: {err}")

    def _row(self, used: Used, duration_s: float, state: str) -> EmissionsData:
        import json

        assert self._meter is not None
        settings, factors = self.settings, self._place.factors
        here: dict[str, Any] = {**data.machine(), **data.memory(), **data.slurm()}
        now = datetime.now(timezone.utc)
        whole_uj = self._meter.used.energy_uj
        grams = factors.grams(self._meter.by_hour if self._meter.by_hour else {now: 0}) or 0.0
        if used.energy_uj != whole_uj:  # a task: its part of the run's hours is not kept; the present hour's weight
            factor = factors.at(now)
            grams = used.energy_uj / UJ_PER_KWH * factor.factor if factor is not None else math.nan
        weight = factors.at(now)
        pue = factors.pue_of(now) or 1.0
        wue = settings.wue if settings.wue is not None else factors.carbon.wue_l_per_kwh

        def kwh(energy_uj: int | None) -> float:
            return (energy_uj or 0) * pue / UJ_PER_KWH

        seconds = max(duration_s, 1e-9)
        metered = any(part is not None for part in used[1:5])
        modelled = 100 * used.modelled_uj / used.energy_uj if used.energy_uj else 0.0
        row = EmissionsData(
            timestamp=moment(),
            project_name=settings.project_name,
            run_id=self.run_id,
            experiment_id=settings.experiment_id,
            duration=duration_s,
            emissions=grams / 1000,
            emissions_rate=grams / 1000 / seconds,
            cpu_energy=kwh(used.cpu_uj),
            gpu_energy=kwh(used.gpu_uj),
            ram_energy=kwh(used.dram_uj),
            other_energy=kwh(used.other_uj),
            energy_consumed=kwh(used.energy_uj),
            water_consumed=kwh(used.energy_uj) * wue,
            country_name=self._place.name,
            country_iso_code=self._place.iso3,
            region=settings.region or "",
            cloud_provider=settings.cloud_provider or "",
            cloud_region=settings.cloud_region or "",
            on_cloud="Y" if settings.cloud_provider else "N",
            cpu_count=self._meter.origin.cores,
            tracking_mode=settings.tracking_mode or ("machine" if self._meter.origin.scope == "machine" else "process"),
            cpu_utilization_percent=100 * used.cpu_time_ns / NS_PER_S / seconds / self._meter.origin.cores,
            pue=pue,
            wue=wue,
            state=state,
            scope=self._meter.origin.scope,
            method=_method(metered, modelled),
            modelled_percent=modelled,
            coverage_percent=min(100.0, 100 * used.covered_us * NS_PER_US / NS_PER_S / seconds),
            section=self._section,
            cpu_seconds=used.cpu_time_ns / NS_PER_S,
            static_joules=used.idle_uj / UJ_PER_J,
            intensity_g_per_kwh=weight.g_per_kwh if weight is not None else math.nan,
            zone=self._place.zone,
            intensity_source=f"{weight.source} ({weight.rung})" if weight is not None else "",
            metrics=json.dumps(self._metrics),
            energy_joules=used.energy_uj / UJ_PER_J,
            **here,
        )
        row.cpu_power, row.gpu_power, row.ram_power = (
            energy * 3.6e6 / seconds for energy in (row.cpu_energy, row.gpu_energy, row.ram_energy)
        )
        return row


def _run_id() -> str:
    import uuid  # loaded late: it takes its time, and an import of the tracker shall not

    return str(uuid.uuid4())


def _method(metered: bool, modelled_percent: float) -> str:
    if not metered:
        return "none"
    return {0.0: "measured", 100.0: "modelled"}.get(modelled_percent, "mixed")


def _delta(total: EmissionsData, before: EmissionsData) -> EmissionsData:
    values = total.values
    values.update({name: values[name] - getattr(before, name) for name in ("duration", *data.SUMS)})
    return EmissionsData(**values)


class OfflineEmissionsTracker(EmissionsTracker):
    """The same tracker: neither uses a network. `country_iso_code` names the place, else the site's configuration."""
