"""`hpccarbon exporter`: serves a cluster's metrics from the ledger. Reads it at its own rhythm, never at a scrape's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpccarbon.cli.common import config_option, duration, reader_zone

if TYPE_CHECKING:
    from datetime import tzinfo

    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

    from hpccarbon.config import Config
    from hpccarbon.report.metrics import Snapshot


@click.command("exporter")
@click.option("--listen", default="127.0.0.1:9189", show_default=True, metavar="HOST:PORT", help="Where to serve.")
@click.option(
    "--every", callback=duration, default="60s", show_default=True, metavar="DURATION", help="How often to read."
)
@click.option(
    "--max-series",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Accounts, and partitions, with series of their own; the rest is `_other`.",
)
@click.option("--once", is_flag=True, help="Print the metrics as OpenMetrics text and end.")
@click.option("--cluster", metavar="NAME", help="Another cluster of the shared directory.")
@config_option
def command(
    listen: str, every: float, max_series: int, once: bool, cluster: str | None, config_path: Path | None
) -> None:
    """Serve the running month's energy and carbon for Prometheus, for sites that prefer to scrape.

    Series are by holder, account and partition, never by user or job. Energy counters begin anew with each month.
    The nodes' own metrics come from the daemon instead (daemon.textfile); see docs/dashboards.md.
    """
    from hpccarbon import config as configuration

    host, port = _address(listen)
    config = configuration.load(config_path)
    zone = reader_zone(config)
    collector = Collector(config, cluster, zone, max_series)
    collector.refresh()
    registry = collector.registry()
    if once:
        from prometheus_client.openmetrics.exposition import generate_latest

        click.echo(generate_latest(registry).decode(), nl=False)  # type: ignore[no-untyped-call]
        return
    _serve(collector, registry, host, port, every)


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise click.BadParameter(f"{listen!r} is no HOST:PORT; write 127.0.0.1:9189 or [::]:9189")
    return host.strip("[]"), int(port)


class Collector:
    """The last snapshot as metrics, with how old it is. `prometheus_client` asks it at each scrape."""

    def __init__(self, config: Config, cluster: str | None, zone: tzinfo, max_series: int) -> None:
        from hpccarbon.errors import HpcCarbonError

        try:
            import prometheus_client  # noqa: F401 - asked for here, before anything is served

            from hpccarbon.report.metrics import Names
        except ImportError as err:
            raise HpcCarbonError(
                "prometheus-client is not installed (install the extra exporter: docs/howto/offline.md)"
            ) from err
        self._config, self._cluster, self._zone = config, cluster or config.cluster, zone
        self._names = Names(max_series), Names(max_series)
        self._known: Snapshot | None = None
        self._took_s = 0.0
        self._failures = 0

    def registry(self) -> CollectorRegistry:
        """A registry with these metrics alone."""
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def refresh(self) -> None:
        """Read the ledger anew. Raises: HpcCarbonError; the last snapshot then stays."""
        from datetime import datetime, timezone

        from hpccarbon.cli.common import parse_month
        from hpccarbon.cli.shared import open_ledger
        from hpccarbon.report.metrics import snapshot

        begin, now = time.monotonic(), datetime.now(timezone.utc)
        with open_ledger(self._config, self._cluster) as ledger:
            self._known = snapshot(self._config, ledger, parse_month("this", self._zone, now), now)
        self._took_s = time.monotonic() - begin

    def failed(self) -> None:
        """Count a refresh that did not succeed."""
        self._failures += 1

    def collect(self) -> Iterable[Metric]:
        """The metric families of the last snapshot."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        from hpccarbon import __version__
        from hpccarbon.report.metrics import metrics

        if self._known is not None:
            yield from metrics(self._known, *self._names)
            age = GaugeMetricFamily("hpccarbon_exporter_last_refresh_timestamp_seconds", "When the ledger was read.")
            age.add_metric([], self._known.at.timestamp())
            yield age
        took = GaugeMetricFamily("hpccarbon_exporter_refresh_duration_seconds", "How long reading the ledger took.")
        took.add_metric([], self._took_s)
        yield took
        failures = CounterMetricFamily("hpccarbon_exporter_refresh_failures", "Refreshes that did not succeed.")
        failures.add_metric([], self._failures)
        yield failures
        build = GaugeMetricFamily("hpccarbon_exporter_build_info", "The exporter's version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


def _serve(collector: Collector, registry: CollectorRegistry, host: str, port: int, every: float) -> None:
    """Serve until SIGTERM or SIGINT, reading the ledger between scrapes and never because of one."""
    import signal
    import threading

    from prometheus_client import start_http_server

    from hpccarbon.errors import HpcCarbonError

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as err:
        raise HpcCarbonError(f"cannot listen on {host}:{port}: {err.strerror} (choose another --listen)") from err
    click.echo(f"serving on http://{host}:{server.server_port}/metrics, reading every {every:g} s", err=True)
    said = ""
    while not stop.wait(every):
        try:
            collector.refresh()
            said = ""
        except HpcCarbonError as err:
            collector.failed()
            if str(err) != said:  # a file system that is away for a night is one line, not a thousand
                said = str(err)
                from hpccarbon.cli.common import warn

                warn(f"{said}; serving the last figures")
    server.shutdown()
    thread.join()
