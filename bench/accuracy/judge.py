"""A bill against the truth: errors per job, in percent of the job's own truth, dynamic and static apart."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.accuracy import ours, peers
from bench.accuracy.peers import Bills
from bench.accuracy.scenarios import Scenario
from bench.accuracy.truth import Parts, World

TIE = 0.5
"""Percent of the truth. Ours learns the idle power from the sensor, with the operating system's 0.2 W in it; the peers'
bills are split with the true one. So much less is no better."""


@dataclass(frozen=True)
class Verdict:
    """One formula in one scenario. Percent of the truth: `mean` and `worst` over the jobs.

    `misplaced`: dynamic energy billed too much or too little, over all jobs, of all that they drew: unlike the mean of
    the jobs' errors, it does not reward a formula for losing energy. `together`: all jobs' bills against all jobs'
    truth, with its sign. `billed`: everything that has a name, jobs and otherwise, of what the node drew while there
    were jobs. `whole`: the bill was taken as one of the dynamic part. `lost_uj`: for ours, what the counters counted
    less what the rows hold; None for a formula that keeps no account.
    """

    name: str
    dynamic_mean: float
    dynamic_worst: float
    misplaced: float
    static_mean: float
    total_mean: float
    total_worst: float
    together: float
    billed: float
    whole: bool = False
    peer: bool = True
    lost_uj: int | None = None


@dataclass(frozen=True)
class Result:
    """A scenario, its truth, and everybody's verdict; ours first."""

    scenario: Scenario
    world: World
    truth: dict[int, Parts]
    verdicts: Sequence[Verdict]

    @property
    def ours(self) -> Verdict:
        """Our verdict."""
        return self.verdicts[0]

    @property
    def better(self) -> list[Verdict]:
        """Formulas with a smaller dynamic error per job than ours, in the mean over the jobs or in misplaced energy."""
        ours = self.ours
        return [
            v
            for v in self.verdicts
            if v.peer and (v.dynamic_mean < ours.dynamic_mean - TIE or v.misplaced < ours.misplaced - TIE)
        ]

    def misses(self) -> list[str]:
        """Bars of the scenario that ours does not keep."""
        bar, ours = self.scenario.bar, self.ours
        out = []
        if bool(ours.lost_uj) != bar.gap:
            out.append(f"{ours.lost_uj} µJ lost")
        if bar.job is not None and ours.total_worst > bar.job:
            out.append(f"worst job {ours.total_worst:.2f} % > {bar.job} %")
        if bar.together is not None and abs(ours.together) > bar.together:
            out.append(f"all jobs {ours.together:.2f} % > {bar.together} %")
        return out


def _percent(billed: float, true: float) -> float:
    return abs(billed - true) / true * 100


def judge(world: World, truth: dict[int, Parts], bills: Bills) -> Verdict:
    """Compare. A formula that names no parts is read in the kinder of two ways.

    Either its bill is split as the energy it divided was, or the whole bill is its word on the dynamic energy.
    """
    whole = [_percent(bills.of(job).total, part.dynamic) for job, part in truth.items()]
    split = [_percent(bills.of(job).dynamic, part.dynamic) for job, part in truth.items()]
    take_whole = not bills.parts and sum(whole) < sum(split) * 0.999
    dynamic = whole if take_whole else split
    static = [100.0 if take_whole else _percent(bills.of(job).static, part.static) for job, part in truth.items()]
    total = [_percent(bills.of(job).total, part.total) for job, part in truth.items()]
    charged, true = sum(bills.of(job).total for job in truth), sum(part.total for part in truth.values())
    work = sum(part.dynamic for part in truth.values())
    wrong = sum(
        abs((bills.of(job).total if take_whole else bills.of(job).dynamic) - part.dynamic)
        for job, part in truth.items()
    )
    mine = bills.counted > 0
    node = bills.counted if mine else world.energy_uj(*world.window)
    return Verdict(
        bills.name,
        sum(dynamic) / len(dynamic),
        max(dynamic),
        wrong / work * 100,
        sum(static) / len(static),
        sum(total) / len(total),
        max(total),
        (charged - true) / true * 100,
        (charged + bills.named) / node * 100,
        take_whole,
        not bills.name.startswith("hpccarbon"),
        max(abs(bills.counted - bills.billed), abs(bills.counted - bills.metered)) if mine else None,
    )


def run(scenario: Scenario) -> Result:
    """Fix the truth, then let everybody charge."""
    world = scenario.make()
    truth = world.truth()
    with tempfile.TemporaryDirectory() as directory:
        bills = [ours.bill(world, Path(directory))]
    if world.mig and not world.gpm:
        bills.append(ours.bill_with_activity(world))
    bills += [formula(world) for formula in peers.of(world)]
    return Result(scenario, world, truth, [judge(world, truth, bill) for bill in bills])
