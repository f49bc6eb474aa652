"""Models beside each other: what each cost, what it achieved, and which of them nothing beats. Measures nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec

from hpccarbon.errors import HpcCarbonError

if TYPE_CHECKING:
    import pandas as pd

J_PER_KWH = 3.6e6


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a comparison: the mean of a name's runs, each run summed over its nodes."""

    name: str
    """`project_name` of its runs."""
    runs: int
    """How many there are."""
    seconds: float
    """The longest of a run's nodes."""
    kwh: float
    """`energy_consumed`: with PUE, as the rows have it."""
    co2e_g: float
    """`emissions`, in grams."""
    energy_j: float | None
    """Metered energy without PUE; None where the rows are CodeCarbon's own (then `kwh` alone is known)."""
    dynamic_j: float | None
    """The part of it that follows the work; None likewise."""
    method: str
    """measured, modelled, mixed or unknown (CodeCarbon's rows do not tell)."""
    metrics: dict[str, float]
    """What all its runs logged, by name."""
    per_point_g: float | None = None
    """CO2e per point of the metric (`Comparison.point`); None without a metric, where less is better, or at 0."""
    pareto: bool = False
    """Whether no other model is better in both, CO2e and metric (without one: time)."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Models beside each other."""

    models: list[Model]
    """Least CO2e first."""
    metric: str | None
    """What the models achieved; None: nothing was logged by all."""
    higher_is_better: bool
    """As it was asked."""
    point: float
    """How much of the metric one point is: 0.01 where all values lie between 0 and 1, else 1."""
    best: str
    """The name of the model that emits least per point; without a metric, least."""

    def to_pandas(self) -> pd.DataFrame:
        """One row per model, the metrics as columns of their own."""
        import pandas as pd

        rows = [msgspec.to_builtins(model) for model in self.models]
        frame: pd.DataFrame = pd.DataFrame([{**row, **row.pop("metrics")} for row in rows])
        return frame

    def save(self, path: str | Path) -> Path:
        """Write the comparison as the file's ending says: .html, .svg, .png, .csv or .json.

        Raises: HpcCarbonError for another ending, or where charts need a library that is not installed.
        """
        from hpccarbon.report.render.comparison import content

        where = Path(path)
        where.write_bytes(content(self, where.suffix.lower()))
        return where

    def __str__(self) -> str:
        from hpccarbon.report.render.comparison import text

        return text(self)

    def _repr_html_(self) -> str:
        from hpccarbon.report.render.comparison import html

        return html(self)


def compare(results: Any, metric: str | None = None, *, higher_is_better: bool = True) -> Comparison:
    """Compare runs by what they cost.

    Args:
        results: CSV files of a tracker (ours or CodeCarbon's), a DataFrame of such rows, or a list of results
            (`tracker.final_emissions_data`), rows or files. Runs of one `project_name` are one model. Columns beside
            the tracker's own that hold numbers are metrics, as `log_metric` makes them.
        metric: which metric; None: the first that every model has.
        higher_is_better: False for losses and errors; then there is no CO2e per point.

    Raises: HpcCarbonError, naming what cannot be read or compared.
    """
    rows = list(_rows(results))
    if not rows:
        raise HpcCarbonError("nothing to compare: no run is in what was given")
    models = [_model(name, runs) for name, runs in _by_name(rows).items()]
    chosen = metric or next((name for name in models[0].metrics if all(name in m.metrics for m in models)), None)
    if metric is not None:
        without = [model.name for model in models if metric not in model.metrics]
        if without:
            raise HpcCarbonError(f"no metric {metric!r} in {', '.join(without)}: log it with tracker.log_metric")
    values = [model.metrics[chosen] for model in models] if chosen else []
    point = 0.01 if values and all(0 <= value <= 1 for value in values) else 1.0
    judged = [_judged(model, models, chosen, higher_is_better, point) for model in models]
    judged.sort(key=lambda model: model.co2e_g)
    best = min(judged, key=lambda m: m.co2e_g if m.per_point_g is None else m.per_point_g)
    return Comparison(models=judged, metric=chosen, higher_is_better=higher_is_better, point=point, best=best.name)


def _judged(model: Model, all_of_them: Sequence[Model], metric: str | None, higher: bool, point: float) -> Model:
    def price(one: Model) -> tuple[float, float]:
        """What shall be small: CO2e, and what stands against it."""
        return one.co2e_g, one.seconds if metric is None else (-1 if higher else 1) * one.metrics[metric]

    mine = price(model)
    beaten = any(_beats(price(other), mine) for other in all_of_them)
    per_point = None
    if metric is not None and higher and model.metrics[metric] > 0:
        per_point = model.co2e_g / (model.metrics[metric] / point)
    return msgspec.structs.replace(model, pareto=not beaten, per_point_g=per_point)


def _beats(one: tuple[float, float], two: tuple[float, float]) -> bool:
    return one != two and all(mine <= theirs for mine, theirs in zip(one, two, strict=True))


def _by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[list[Mapping[str, Any]]]]:
    """Name -> runs -> rows. The rows of a job's step on several nodes are one run."""
    found: dict[str, dict[object, list[Mapping[str, Any]]]] = {}
    for number, row in enumerate(rows):
        spread = row.get("scope") == "job" and row.get("job_id")
        key = tuple(str(row.get(k)) for k in ("job_id", "step_id", "section")) if spread else number
        found.setdefault(str(row.get("project_name") or "unnamed"), {}).setdefault(key, []).append(row)
    return {name: list(runs.values()) for name, runs in found.items()}


def _model(name: str, runs: Sequence[Sequence[Mapping[str, Any]]]) -> Model:
    methods = {str(row.get("method") or "unknown") for run in runs for row in run}
    joules = [[_number(row, "energy_joules") for row in run] for run in runs]
    static = [[_number(row, "static_joules") for row in run] for run in runs]
    known = all(value is not None for run in joules for value in run)
    energy_j = fmean(math.fsum(value or 0 for value in run) for run in joules) if known else None
    metrics: dict[str, list[float]] = {}
    for run in runs:
        for key, value in {key: value for row in run for key, value in _metrics(row).items()}.items():
            metrics.setdefault(key, []).append(value)
    return Model(
        name=name,
        runs=len(runs),
        seconds=fmean(max(_needed(row, "duration") for row in run) for run in runs),
        kwh=fmean(math.fsum(_needed(row, "energy_consumed") for row in run) for run in runs),
        co2e_g=1000 * fmean(math.fsum(_needed(row, "emissions") for row in run) for run in runs),
        energy_j=energy_j,
        dynamic_j=None if energy_j is None else energy_j - fmean(math.fsum(v or 0 for v in run) for run in static),
        method=methods.pop() if len(methods) == 1 else "mixed",
        metrics={key: fmean(values) for key, values in metrics.items() if len(values) == len(runs)},
    )


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """What `log_metric` kept, and columns that no tracker writes."""
    found: dict[str, Any] = {}
    if row.get("metrics"):
        try:
            found.update(json.loads(row["metrics"]))
        except (ValueError, TypeError):
            pass
    found.update({key: value for key, value in row.items() if key not in _TRACKERS})
    numbers = {key: _number(found, key) for key in found}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(row: Mapping[str, Any], name: str) -> float | None:
    try:
        value = float(row[name])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _needed(row: Mapping[str, Any], name: str) -> float:
    value = _number(row, name)
    if value is None:
        raise HpcCarbonError(f"run {row.get('project_name')!r}: column {name} is {row.get(name)!r}, not a number")
    return value


def _rows(results: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(results, (str, Path)):
        yield from read(Path(results))
    elif isinstance(results, Mapping):
        yield results
    elif hasattr(results, "to_dict") and hasattr(results, "columns"):  # a DataFrame, without loading pandas to know it
        yield from results.to_dict("records")
    elif hasattr(results, "energy_consumed"):
        yield results.values
    elif isinstance(results, Iterable):
        for one in results:
            yield from _rows(one)
    else:
        raise HpcCarbonError(f"cannot compare a {type(results).__name__}: give results, rows, a DataFrame or CSV files")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a tracker's CSV file, as text. Raises: HpcCarbonError naming the file and the reason."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise HpcCarbonError(f"cannot read {path}: {reason}") from err
    if not found or not {"project_name", "emissions", "duration"} <= found[0].keys():
        raise HpcCarbonError(
            f"cannot use {path}: it has no rows with the columns project_name, emissions and duration of a tracker"
        )
    return found


_COLUMNS = """
    timestamp project_name run_id experiment_id duration emissions emissions_rate cpu_power gpu_power ram_power
    cpu_energy gpu_energy ram_energy energy_consumed water_consumed country_name country_iso_code region
    cloud_provider cloud_region os python_version codecarbon_version cpu_count cpu_model gpu_count gpu_model
    longitude latitude ram_total_size tracking_mode cpu_utilization_percent gpu_utilization_percent
    ram_utilization_percent ram_used_gb on_cloud pue wue hpccarbon_version state scope method modelled_percent
    coverage_percent node job_id step_id array_task rank section task_name cpu_seconds other_energy static_joules
    intensity_g_per_kwh zone intensity_source metrics energy_joules
"""
_TRACKERS = frozenset(_COLUMNS.split())
"""The trackers' own columns: any other one that holds numbers is a metric (a test keeps it equal to the tracker's)."""
