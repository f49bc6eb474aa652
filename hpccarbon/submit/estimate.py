"""What a job will probably use, from what jobs like it used before. A guess that says what it stands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median, quantiles
from typing import Annotated, Literal

import msgspec

from hpccarbon.site.habits import Partitions, Past, Typical
from hpccarbon.submit.request import Request

Means = msgspec.Meta
Basis = Literal["same", "name", "partition", "cluster"]
ENOUGH = 3
"""Jobs of the same size before others of the name are left out, and before a range is told."""


class Span(msgspec.Struct, frozen=True):
    """A value and what one in ten stays below and one in ten exceeds; the ends are None where nobody knows."""

    middle: float
    low: float | None = None
    high: float | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the job is expected to use; of an array, all its tasks together.

    Bases: the user's own jobs of that name and size (`same`), of that name scaled by cores or GPUs (`name`), jobs of
    the partition by power per core or GPU (`partition`), or of the whole cluster (`cluster`).
    """

    basis: Annotated[Basis, Means(description="what it stands on")]
    jobs: Annotated[int, Means(description="how many jobs that is")]
    length_s: Annotated[float | None, Means(description="expected run time of one task; null: nobody knows")]
    energy_uj: Annotated[Span | None, Means(description="null where the run time is not known: then only power_w is")]
    power_w: Span


def estimate(wanted: Request, past: Sequence[Past], known: Partitions | None) -> Estimate | None:
    """The best guess that the history allows; None where it says nothing.

    Args:
        past: the user's last jobs, any name. known: what the partitions' jobs draw.
    """
    named = [job for job in past if job.name == wanted.name]
    if wanted.partition:
        named = [job for job in named if job.partition == wanted.partition] or named
    same = [job for job in named if (job.cores, job.gpus) == (wanted.cores, wanted.gpus)]
    if wanted.whole_nodes or len(same) >= ENOUGH:
        # How many cores whole nodes have is not in the request: the name alone must do.
        chosen = same or named
        return _of_jobs(wanted, chosen, "same", lambda job: 1.0) if chosen else _of_partition(wanted, known)
    comparable = [job for job in named if bool(job.gpus) == bool(wanted.gpus)]
    if comparable:
        return _of_jobs(wanted, comparable, "same" if same == comparable else "name", lambda job: _size(wanted, job))
    return _of_partition(wanted, known)


def _size(wanted: Request, job: Past) -> float:
    """How many times as large as that job this one is."""
    return wanted.gpus / job.gpus if wanted.gpus and job.gpus else wanted.cores / job.cores


def _of_jobs(wanted: Request, jobs: Sequence[Past], basis: Basis, size: Callable[[Past], float]) -> Estimate:
    limit_s = wanted.limit.total_seconds() if wanted.limit else None
    lengths = [min(job.elapsed_s, limit_s) if limit_s else float(job.elapsed_s) for job in jobs]
    powers = [job.power_w * size(job) for job in jobs]
    energies = [wanted.tasks * power * length * 1e6 for power, length in zip(powers, lengths, strict=True)]
    return Estimate(
        basis=basis, jobs=len(jobs), length_s=median(lengths), energy_uj=_span(energies), power_w=_span(powers)
    )


def _span(values: Sequence[float]) -> Span:
    if len(values) < ENOUGH:
        return Span(median(values))
    cuts = quantiles(values, n=10, method="inclusive")
    return Span(median(values), cuts[0], cuts[-1])


def _of_partition(wanted: Request, known: Partitions | None) -> Estimate | None:
    if known is None:
        return None
    table, held = (known.per_gpu, wanted.gpus) if wanted.gpus else (known.per_core, wanted.cores)
    found = table.get(wanted.partition) if wanted.partition else None
    basis: Basis = "partition" if found else "cluster"
    typical: Typical | None = found or table.get("")
    if typical is None:
        return None
    power_w = Span(*(held * one for one in (typical.middle_w, typical.low_w, typical.high_w)))
    limit_s = wanted.limit.total_seconds() if wanted.limit else None
    energy_uj = _times(power_w, wanted.tasks * limit_s * 1e6) if limit_s else None
    return Estimate(basis=basis, jobs=typical.jobs, length_s=limit_s, energy_uj=energy_uj, power_w=power_w)


def _times(span: Span, factor: float) -> Span:
    low, high = (None if end is None else end * factor for end in (span.low, span.high))
    return Span(span.middle * factor, low, high)


def expected_length(wanted: Request, found: Estimate | None) -> timedelta | None:
    """How long one task will probably run: by history, else its time limit."""
    if found is not None and found.length_s:
        return timedelta(seconds=found.length_s)
    return wanted.limit
