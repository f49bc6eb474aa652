"""What a tracker was told: arguments, then environment, then files, each value checked once. Measures nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger("hpccarbon")
OURS, THEIRS = "HPCCARBON_TRACKER_", "CODECARBON_"
"""Prefixes of environment variables; ours go first."""
FILE_NAME = ".codecarbon.config"

WITHOUT_MEANING: Mapping[str, str] = {
    "api_call_interval": "no cloud service is used",
    "api_endpoint": "no cloud service is used; `emissions_endpoint` posts to a service of the site",
    "api_key": "no cloud service is used",
    "co2_signal_api_token": "intensities come from the site (hpccarbon intensity fetch)",
    "electricitymaps_api_token": "intensities come from the site (hpccarbon intensity fetch)",
    "force_cpu_power": "meters go first; a site without sensors sets [model] full_power_w",
    "force_mode_cpu_load": "meters go first",
    "force_ram_power": "meters go first; a site sets [model] memory_w_per_gib",
    "logger_preamble": "log lines bear the logger's name, hpccarbon",
    "metadata": "it describes BoAmps reports, which are not written",
    "organization_id": "no cloud service is used",
    "project_id": "no cloud service is used",
    "prometheus_url": "the site's exporter serves Prometheus (hpccarbon exporter)",
    "rapl_include_dram": "memory is always measured where a sensor is",
    "rapl_prefer_psys": "zones that hold each other are never added",
    "save_to_api": "no cloud service is used",
    "save_to_logfire": "the row is a file",
    "save_to_prometheus": "the site's exporter serves Prometheus (hpccarbon exporter)",
    "country_2letter_iso_code": "give country_iso_code or zone",
}
"""Parameters of CodeCarbon that are accepted and do nothing here, and what to use instead."""


class Settings(msgspec.Struct, frozen=True):
    """Everything a tracker can be told, with its default."""

    project_name: str = "codecarbon"
    measure_power_secs: float = 15.0
    output_dir: str = "."
    output_file: str = "emissions.csv"
    output_methods: str | None = None
    save_to_file: bool = True
    save_to_logger: bool = False
    logging_logger: Any = None
    output_handlers: Any = ()
    gpu_ids: str | None = None
    emissions_endpoint: str | None = None
    experiment_id: str = "5b0fa12a-3dd7-45bb-9766-cc326314d9f1"
    experiment_name: str = "base"
    tracking_mode: str | None = None
    log_level: str | None = None
    on_csv_write: str = "append"
    allow_multiple_runs: bool = True
    force_carbon_intensity_g_co2e_kwh: float | None = None
    pue: float | None = None
    wue: float | None = None
    country_iso_code: str | None = None
    region: str | None = None
    cloud_provider: str | None = None
    cloud_region: str | None = None
    zone: str | None = None
    raise_errors: bool = False
    all_ranks: bool = False


KNOWN = {field.name: field for field in msgspec.structs.fields(Settings)}


def resolve(given: Mapping[str, Any]) -> Settings:
    """The settings of one tracker: arguments before environment before files before defaults.

    Raises: TypeError for a name that neither we nor CodeCarbon know. ValueError for a value that cannot be used.
    """
    unknown = [name for name in given if name not in KNOWN and name not in WITHOUT_MEANING]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], [*KNOWN, *WITHOUT_MEANING], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"unknown argument {unknown[0]!r}{hint}")
    values = dict(outside())
    values.update({name: value for name, value in given.items() if value is not None})
    idle = sorted(name for name in values if name in WITHOUT_MEANING)
    for name in idle:
        _say_once(f"{name} has no meaning here: {WITHOUT_MEANING[name]}")
    if isinstance(values.get("gpu_ids"), (list, tuple)):
        values["gpu_ids"] = ",".join(map(str, values["gpu_ids"]))
    if isinstance(values.get("output_methods"), (list, tuple, set)):
        values["output_methods"] = ",".join(str(getattr(m, "value", m)) for m in values["output_methods"])
    if "output_dir" in values:
        values["output_dir"] = os.fspath(values["output_dir"])
    try:
        settings = msgspec.convert(
            {name: value for name, value in values.items() if name in KNOWN}, Settings, strict=False
        )
    except msgspec.ValidationError as err:
        raise ValueError(f"tracker: {err}") from err
    _check(settings)
    return settings


def outside(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the files in home and working directory and the environment say, the later before the earlier."""
    values: dict[str, str] = {}
    for directory in (Path.home(), Path.cwd()):
        values.update(_file(directory / FILE_NAME))
    environment = os.environ if environment is None else environment
    for prefix in (THEIRS, OURS):
        for name, value in environment.items():
            key = name[len(prefix) :].lower()
            if name.upper().startswith(prefix) and (key in KNOWN or key in WITHOUT_MEANING):
                values[key] = value
    return values


def _file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    import configparser  # 5 ms, and hardly anyone has such a file

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as err:
        log.warning("%s is left out: %s", path, str(err).splitlines()[0])
        return {}
    if not parser.has_section("codecarbon"):
        return {}
    return {key: value for key, value in parser.items("codecarbon") if key in KNOWN or key in WITHOUT_MEANING}


def _check(settings: Settings) -> None:
    rules = (
        (settings.tracking_mode in (None, "machine", "process"), "tracking_mode must be 'machine' or 'process'"),
        (settings.on_csv_write in ("append", "update"), "on_csv_write must be 'append' or 'update'"),
        (0.1 <= settings.measure_power_secs <= 86_400, "measure_power_secs must lie between 0.1 and 86400"),
        (settings.pue is None or settings.pue >= 1, "pue must be 1 or more: it is total / IT energy"),
        (settings.wue is None or settings.wue >= 0, "wue must not be negative"),
        (
            settings.force_carbon_intensity_g_co2e_kwh is None or settings.force_carbon_intensity_g_co2e_kwh > 0,
            "force_carbon_intensity_g_co2e_kwh must be above 0",
        ),
        (Path(settings.output_file).name == settings.output_file, "output_file must be a name without directories"),
    )
    for holds, text in rules:
        if not holds:
            raise ValueError(f"tracker: {text}")


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        log.warning(text)
