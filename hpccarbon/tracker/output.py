"""Where a tracker's results go: a CSV file, the log, an HTTP endpoint of the site, or the user's own handlers."""

from __future__ import annotations

import atexit
import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from hpccarbon.tracker.data import CODECARBON_COLUMNS, COLUMNS, EmissionsData
from hpccarbon.tracker.rows import RowFile

log = logging.getLogger("hpccarbon")


class OutputMethod(str, Enum):
    """Where to write, as CodeCarbon names it; what is missing here says so in the log."""

    CSV = "csv"
    LOGGER = "logger"
    API = "api"
    PROMETHEUS = "prometheus"
    LOGFIRE = "logfire"
    BOAMPS = "boamps"


class BaseOutput:
    """A handler of the user's own: override what is of interest. An exception in it is logged and goes no further."""

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """At `flush` and `stop`: the whole run, and what came since the last call."""

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """At every tick, and at the start."""

    def task_out(self, data: list[EmissionsData], experiment_name: str) -> None:
        """At `flush` and `stop`, where there were tasks."""

    def exit(self) -> None:
        """Once, at the end."""


class FileOutput(BaseOutput):
    """The run's row in `emissions.csv`, from its start on; tasks in a file of their own.

    Args:
        update: `flush` continues the run's row; else it leaves the row as it is and begins another, as CodeCarbon's
            `append` does.
    """

    def __init__(self, path: Path, run_id: str, *, update: bool) -> None:
        self._rows = RowFile(path, COLUMNS, CODECARBON_COLUMNS)
        self._run_id = run_id
        self._update = update
        self._new = False

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Write the row."""
        self._put(total)
        self._new = not self._update and total.state == "running"

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Bring the row up to date."""
        self._put(total)

    def _put(self, total: EmissionsData) -> None:
        self._rows.put(_cells(total), new=self._new)
        self._new = False

    def task_out(self, data: list[EmissionsData], experiment_name: str) -> None:
        """All tasks so far, one row each, in `emissions_EXPERIMENT_RUN.csv`."""
        path = self._rows.path.with_name(f"emissions_{experiment_name}_{self._run_id}.csv")
        first = [name for name in COLUMNS if name not in ("task_name", "energy_joules")]
        path.unlink(missing_ok=True)
        for task in data:
            RowFile(path, ["task_name", *first, "energy_joules"]).put(_cells(task))


def _cells(data: EmissionsData) -> dict[str, Any]:
    return {**data.values, "energy_joules": f"{data.energy_joules:.6f}"}


class LoggerOutput(BaseOutput):
    """One line of JSON per result, to a logger."""

    def __init__(self, logger: logging.Logger | None = None, severity: int = logging.INFO) -> None:
        self._logger = logger or log
        self._severity = severity

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """The whole run."""
        self._logger.log(self._severity, json.dumps(asdict(total)))

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """The same, while it runs."""
        self.out(total, delta)


class HTTPOutput(BaseOutput):
    """POSTs each result as JSON to an endpoint, in the background; never keeps the run waiting.

    What is not accepted (status 2xx) is sent again after 1, 2, 4 ... s. At the end of the program at most
    `patience_s` are waited; what is not sent by then is told in the log, and stands in the CSV file.
    """

    RETRIES = 5

    def __init__(self, url: str, *, timeout_s: float = 10.0, patience_s: float = 5.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"emissions_endpoint: {url!r} is no http or https URL")
        self._url = url
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Hand the run over to the sending thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="hpccarbon-send", daemon=True)
            self._thread.start()
            atexit.register(self.exit)
        self._waiting.put(json.dumps(asdict(total)).encode())

    def exit(self) -> None:
        """Wait for what is on its way, not longer than promised."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.exit)
        self._waiting.put(None)
        thread.join(self._patience_s)
        self._leaving.set()
        if thread.is_alive():
            thread.join(0.1)
            log.warning("emissions_endpoint: %s did not take the run in time; it stands in the CSV file", self._url)

    def _send_all(self) -> None:
        while (body := self._waiting.get()) is not None:
            self._send(body)

    def _send(self, body: bytes) -> None:
        pause_s = 1.0
        for _ in range(self.RETRIES):
            reason = self._post(body)
            if reason is None:
                return
            if self._leaving.wait(pause_s):
                return
            pause_s *= 2
        log.warning("emissions_endpoint: %s refused the run %d times: %s", self._url, self.RETRIES, reason)

    def _post(self, body: bytes) -> str | None:
        """None when it was taken, else why not."""
        from urllib import error, request

        headers: Mapping[str, str] = {"Content-Type": "application/json"}
        post = request.Request(self._url, data=body, headers=dict(headers), method="POST")  # noqa: S310 - checked above
        try:
            with request.urlopen(post, timeout=self._timeout_s) as response:  # noqa: S310
                response.read(1024)
                return None if 200 <= response.status < 300 else f"status {response.status}"
        except (error.URLError, OSError, ValueError) as err:
            return str(err)


def moment() -> str:
    """Local time, as CodeCarbon writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S")
