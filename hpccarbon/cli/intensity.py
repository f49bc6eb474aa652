"""`hpccarbon intensity`: which grid zones there are, which values reports use, and where more of them come from."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hpccarbon.cli.common import config_option, listed, parse_time, reader_zone, warn

if TYPE_CHECKING:
    from hpccarbon.carbon.providers.base import Service
    from hpccarbon.carbon.zones import Zone
    from hpccarbon.config import Config

EXAMPLES = """
\b
Examples:
  hpccarbon intensity zones --search tokyo      which zone am I in?
  hpccarbon intensity show FR --since 2026-03-01 --until 2026-03-02
  hpccarbon intensity best --hours 6            when to begin a job of six hours
  hpccarbon intensity fetch --since 7d          what the configured service knows of the last week
  hpccarbon intensity import meter.csv --zone campus --basis direct --source "our own plant"
"""
Cell = str | int | float | None
Format = Literal["text", "csv", "json"]
MAX_HOURS = 24 * 366 * 3
NOT_FORESEEN = (
    "no series tells its next hours apart: fetch yesterday (`fetch --since 2d`) or a forecast (`fetch --forecast`)"
)
PART = timedelta(days=90)
"""What is asked for and stored at once: a long fetch that breaks off keeps what it had."""
format_option = click.option(
    "-f", "--format", "form", type=click.Choice(("text", "csv", "json")), default="text", help="Output format."
)
basis_option = click.option(
    "--basis",
    type=click.Choice(("lifecycle", "direct")),
    help="Life cycle, or combustion alone [default: carbon.basis].",
)


@click.group("intensity", epilog=EXAMPLES)
def command() -> None:
    """Carbon intensity of the grid: which values reports use, and why.

    Reports take the hour's value where a series has it, else the best stand-in, and say which. Series come from a
    service (fetch) or a file (import); every fetch is kept, so an older report can be made again.
    """


@command.command("zones")
@click.option("-s", "--search", "text", metavar="TEXT", help="Only zones whose key or name holds TEXT.")
@format_option
@config_option
def zones_command(text: str | None, form: Format, config_path: Path | None) -> None:
    """List the zones that the package or the site has values for. Put one into `zone` of [carbon]."""
    from hpccarbon import config as configuration
    from hpccarbon.carbon import zones
    from hpccarbon.errors import CarbonError

    own = _own_zones(configuration.load(config_path).shared("intensity"))
    found = zones.search(text) if text is not None else list(zones.known().values())
    rows = [_zone_row(zone, zone.key in own) for zone in found]
    listed_keys = set(zones.known())
    rows += [
        _zone_row(zones.Zone(key, "the site's own", tuple(bases), (), ()), True)
        for key, bases in own.items()
        if key not in listed_keys and (text is None or text.casefold() in key.casefold())
    ]
    if not rows:
        near = ", ".join(zones.nearest(text or ""))
        raise CarbonError(f"no zone holds {text!r}{'; nearest: ' + near if near else ''}")
    _print(rows, form)


def _zone_row(zone: Zone, hourly: bool) -> dict[str, Cell]:
    years = [f"{first}-{last}" if first != last else f"{last}" for first, last in zone.years]
    return {
        "zone": zone.key,
        "name": zone.name,
        "basis": " and ".join(zone.bases),
        "years": ", ".join(dict.fromkeys(years)),
        "hourly": "yes" if hourly else "",
        "licence": ", ".join(zone.licences),
    }


@command.command("show")
@click.argument("zone", required=False)
@click.option("-S", "--since", metavar="TIME", default="24h", show_default=True, help="A date, a time, 30d, 12h.")
@click.option("-E", "--until", metavar="TIME", default="now", show_default=True, help="Not included.")
@click.option("--as-of", metavar="TIME", help="As it was known then: what was fetched later is not seen.")
@basis_option
@format_option
@config_option
def show_command(
    zone: str | None,
    since: str,
    until: str,
    as_of: str | None,
    basis: str | None,
    form: Format,
    config_path: Path | None,
) -> None:
    """The value that a report uses for each hour of ZONE, the rung of the ladder it stands on, and its source."""
    import msgspec

    from hpccarbon import config as configuration
    from hpccarbon.carbon.footprint import Factors, hour_of

    config = configuration.load(config_path)
    local, now = reader_zone(config), datetime.now(timezone.utc)
    begin, end = hour_of(parse_time(since, local, now)), parse_time(until, local, now)
    settings = msgspec.structs.replace(
        config.carbon, zone=zone or _configured(config), basis=basis or config.carbon.basis
    )
    factors = Factors(settings, config.shared("intensity"), parse_time(as_of, local, now) if as_of else None)
    hours = [begin + timedelta(hours=number) for number in range(_hours_between(begin, end))]
    factors.mapping(hours)
    rows: list[dict[str, Cell]] = []
    for hour in hours:
        factor = factors.at(hour)
        rows.append(
            {
                "hour": _iso(hour),
                "g_per_kwh": round(factor.g_per_kwh, 2) if factor else None,
                "spread_percent": round(100 * factor.spread, 1) if factor else None,
                "rung": factor.rung if factor else None,
                "year": factor.year if factor else None,
                "source": factor.source if factor else None,
            }
        )
    _print(rows, form)
    told = factors.describe(hours)
    for note in told.notes:
        if "PUE" not in note:  # a PUE is no part of what is shown here
            warn(note)
    for notice in told.notices:
        click.echo(notice, err=True)


@command.command("fetch")
@click.argument("zone_names", metavar="[ZONE]...", nargs=-1)
@click.option("-S", "--since", metavar="TIME", default="7d", show_default=True, help="A date, a time, 30d, 12h.")
@click.option("-E", "--until", metavar="TIME", default="now", show_default=True, help="Not included.")
@click.option("-p", "--provider", metavar="NAME", help="Which service [default: carbon.provider].")
@click.option("--forecast", is_flag=True, help="What is forecast from now on, instead of what was.")
@basis_option
@config_option
@click.pass_context
def fetch_command(
    ctx: click.Context,
    zone_names: tuple[str, ...],
    since: str,
    until: str,
    provider: str | None,
    forecast: bool,
    basis: str | None,
    config_path: Path | None,
) -> None:
    """Ask a service for hourly values of ZONE (default: all zones of the configuration) and keep what is new.

    Run it from a timer: what is known already makes no new revision. Keys stand in a file or an environment variable,
    never on the command line.
    """
    from hpccarbon import config as configuration
    from hpccarbon.carbon import providers, series
    from hpccarbon.carbon.footprint import hour_of
    from hpccarbon.carbon.providers.base import spans
    from hpccarbon.errors import CarbonError, ConfigError

    config = configuration.load(config_path)
    local, now = reader_zone(config), datetime.now(timezone.utc)
    name = provider or config.carbon.provider
    if not name:
        raise ConfigError(
            f"no service is chosen: set carbon.provider or give --provider NAME ({', '.join(providers.SERVICES)})"
        )
    entry = providers.SERVICES.get(name)
    # A marginal series enters no total, so its basis need not be the site's.
    default = entry.bases[0] if entry is not None and entry.signal == "marginal" else config.carbon.basis
    service = providers.make(name, config.carbon, basis or default, now)  # type: ignore[arg-type]
    # Half an hour is not stored for a whole one that is known: the first hour is asked for whole.
    begin, end = hour_of(parse_time(since, local, now)), parse_time(until, local, now)
    if begin >= end and not forecast:
        raise click.UsageError(f"the period ends ({end:%Y-%m-%d %H:%M}) before it begins ({begin:%Y-%m-%d %H:%M})")
    room = config.shared("intensity")
    failed = False
    for zone in [_fetchable(config, service, given) for given in listed(zone_names) or _zones_of(config)]:
        parts = [(now, now)] if forecast else list(spans(begin, end, PART))
        kept, said, notes = series.Appended(0, 0, 0), "", dict[str, None]()
        for first, last in parts:
            try:
                found = service.forecast(zone, now) if forecast else service.fetch(zone, first, last)
                brought = series.append(room, zone, found.points, found.origin, now)
            except CarbonError as err:
                _failed(f"{zone}: {err}")
                failed = True
                if first > begin:
                    _say(f"{zone}: what is before {_iso(first)} is kept: go on with --since {_iso(first)}")
                break
            kept = series.Appended(*map(sum, zip(kept, brought, strict=True)))
            said = f"{found.origin.source} ({found.origin.signal}, {found.origin.basis})"
            notes.update(dict.fromkeys(found.notes))
        else:
            if not sum(kept):
                _failed(f"{zone}: {name} has nothing for this time (is it past, and the zone one that {name} has?)")
                failed = True
        for note in notes:
            warn(f"{zone}: {note}")
        if sum(kept):
            _say(f"{zone}: {kept.new} new, {kept.changed} changed, {kept.same} known hours from {said}")
    ctx.exit(1 if failed else 0)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--zone", metavar="ZONE", help="The zone, where the file does not name one.")
@click.option("--basis", type=click.Choice(("lifecycle", "direct")), required=True, help="What the values are.")
@click.option("--source", metavar="TEXT", required=True, help="Where they are from: it is printed with every figure.")
@click.option("--licence", metavar="TEXT", default="the site's own", show_default=True, help="Under which terms.")
@click.option("--marginal", is_flag=True, help="They are marginal: shown beside a total, never in it.")
@config_option
def import_command(
    file: Path, zone: str | None, basis: str, source: str, licence: str, marginal: bool, config_path: Path | None
) -> None:
    """Keep the intensities of a CSV or Parquet FILE: columns start, intensity_gco2e_per_kwh and, if wanted, zone, kind.

    `start` is the beginning of an interval with Z or an offset; an empty value is not known, never 0.
    """
    from hpccarbon import config as configuration
    from hpccarbon.carbon import series
    from hpccarbon.carbon.providers import site
    from hpccarbon.errors import CarbonError

    config = configuration.load(config_path)
    rows = site.read_file(file)
    named = site.zones_of(rows)
    if zone is None and not named:
        raise CarbonError(f"{file}: names no zone; give one with --zone")
    signal: Literal["average", "marginal"] = "marginal" if marginal else "average"
    origin = series.Origin("import", source, licence, basis, signal)  # type: ignore[arg-type]
    wanted = [zone] if zone is not None else named
    points = {one: site.points_of(rows, one, {"basis": basis, "method": signal}, str(file)) for one in wanted}
    for one, its in points.items():
        if not its:
            raise CarbonError(f"{file}: no row has a value for zone {one} (it names {', '.join(named) or 'no zone'})")
    now = datetime.now(timezone.utc)
    for one, its in points.items():
        kept = series.append(config.shared("intensity"), one, its, origin, now)
        _say(f"{one}: {kept.new} new, {kept.changed} changed, {kept.same} known hours ({signal}, {basis})")


@command.command("best")
@click.argument("zone_names", metavar="[ZONE]...", nargs=-1)
@click.option("--hours", type=click.IntRange(1, 168), default=4, show_default=True, help="How long the job runs.")
@click.option("--within", type=click.IntRange(1, 168), default=24, show_default=True, help="Begin in so many hours.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="How many starts of each zone.")
@format_option
@config_option
@click.pass_context
def best_command(
    ctx: click.Context,
    zone_names: tuple[str, ...],
    hours: int,
    within: int,
    top: int,
    form: Format,
    config_path: Path | None,
) -> None:
    """When a job of so many hours would have the cleanest mix, in ZONE (default: all zones of the configuration).

    By the forecast where one was fetched (`fetch --forecast`), else by a guess from the last two weeks. The first
    line of a zone is the best start, the last one now.
    """
    import msgspec

    from hpccarbon import config as configuration
    from hpccarbon.carbon import advice

    config = configuration.load(config_path)
    now = datetime.now(timezone.utc)
    rows: list[dict[str, Cell]] = []
    for zone in listed(zone_names) or _zones_of(config):
        settings = msgspec.structs.replace(config.carbon, zone=zone)
        found = advice.starts(settings, config.shared("intensity"), now, length_h=hours, within_h=within)
        if not found:
            warn(f"{zone}: {NOT_FORESEEN}")
            continue
        present = min(found, key=lambda one: one.start)
        shown = found[:top] if present in found[:top] else [*found[:top], present]
        rows += [
            {
                "zone": zone,
                "start": _iso(one.start),
                "g_per_kwh": round(one.g_per_kwh, 1),
                "saved_percent": round(one.saved_percent, 1),
                "marginal_g_per_kwh": None if one.marginal_g_per_kwh is None else round(one.marginal_g_per_kwh, 1),
                "by": ", ".join(one.rungs),
            }
            for one in shown
        ]
    if rows:
        _print(rows, form)
        click.echo(advice.SIGNAL_NOTE, err=True)
    ctx.exit(0 if rows else 1)


@command.command("providers")
@format_option
def providers_command(form: Format) -> None:
    """The services that can be asked, what each has, and on which terms."""
    from hpccarbon.carbon.providers import SERVICES

    _print(
        [
            {
                "provider": name,
                "zones": entry.where,
                "values": f"{entry.signal}, {' or '.join(entry.bases)}",
                "key": "yes" if entry.needs_key else "no",
                "terms": entry.terms,
            }
            for name, entry in SERVICES.items()
        ],
        form,
    )


# ---- what the commands share ---------------------------------------------------------------------------------------


def _configured(config: Config) -> str:
    from hpccarbon.carbon.footprint import NO_ZONE
    from hpccarbon.errors import ConfigError

    if not config.carbon.zone:
        raise ConfigError(f"{NO_ZONE}, or name one here")
    return config.carbon.zone


def _zones_of(config: Config) -> list[str]:
    """Every zone that the configuration names: the cluster's and its places'."""
    places = [place.zone for place in config.carbon.places.values() if place.zone]
    return list(dict.fromkeys([_configured(config) if not places or config.carbon.zone else places[0], *places]))


def _fetchable(config: Config, service: Service, zone: str) -> str:
    """The zone's key; one of the site's own may be new. Raises: CarbonError with the nearest names."""
    from hpccarbon.carbon import zones
    from hpccarbon.errors import CarbonError

    given = config.carbon.providers.get(service.name)
    try:
        return zones.require(zone, config.shared("intensity"))
    except CarbonError:
        if service.name in ("site_http", "neso_regional", "watttime") or (given is not None and zone in given.zones):
            return zones.check_name(zone)
        raise


def _own_zones(series_dir: Path) -> dict[str, list[str]]:
    """Zones that have a series, and its bases."""
    try:
        rooms = sorted(path for path in series_dir.iterdir() if path.is_dir())
    except OSError:
        return {}
    found = {
        path.name: sorted(room.name.partition(".")[2] for room in path.iterdir() if room.name.startswith("average."))
        for path in rooms
    }
    return {name: bases for name, bases in found.items() if bases}


def _hours_between(begin: datetime, end: datetime) -> int:
    hours = -int((begin - end).total_seconds() // 3600)
    if hours <= 0:
        raise click.UsageError(f"the period ends ({end:%Y-%m-%d %H:%M}) before it begins ({begin:%Y-%m-%d %H:%M})")
    if hours > MAX_HOURS:
        raise click.UsageError(f"{hours} hours are more than {MAX_HOURS}: choose --since and --until nearer together")
    return hours


def _print(rows: Sequence[Mapping[str, Cell]], form: Format) -> None:
    """Rows of the same keys as a table, as CSV that no spreadsheet takes for a formula, or as JSON."""
    from hpccarbon.report.render import inert

    def shown(value: Cell) -> str:
        return "" if value is None else str(value)

    if form == "json":
        import json

        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
    elif form == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([inert.cell(shown(value)) for value in row.values()] for row in rows)
    else:
        table = [list(rows[0]), *([inert.inert(shown(value)) for value in row.values()] for row in rows)]
        widths = [max(map(inert.columns, column)) for column in zip(*table, strict=True)]
        for line in table:
            click.echo("  ".join(_padded(line, widths)).rstrip())


def _padded(line: Iterable[str], widths: Iterable[int]) -> list[str]:
    from hpccarbon.report.render.inert import columns

    return [cell + " " * (width - columns(cell)) for cell, width in zip(line, widths, strict=True)]


def _say(text: str) -> None:
    from hpccarbon.report.render.inert import inert

    click.echo(inert(text), err=True)


def _failed(text: str) -> None:
    from hpccarbon.report.render.inert import inert

    click.echo(f"error: {inert(text)}", err=True)


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
