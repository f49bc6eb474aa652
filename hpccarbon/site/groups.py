"""Adds one selection up in several ways at the price of one, with grams: what a month's summary needs.

Only adds up, in the engine: a million jobs never become a million Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hpccarbon.site.ledger import WORDS, EnergyRow, Key, Ledger, Selection
from hpccarbon.site.unseen import NOTHING, Unseen, nothing, of_selected
from hpccarbon.site.weigh import ENERGY, GRAMS, Factors, grams, hour_at, moment_at, weigh

if TYPE_CHECKING:
    import duckdb

_COLUMN: Mapping[str, str] = {
    **{word: WORDS[word] for word in ("hour", "holder", "user", "account", "partition", "node")},
    "job": WORDS["job_id"],
    "place": "place",
}


class Grouping(NamedTuple):
    """One way to add up. `by` may name holder, job, user, account, partition, node, place and `hour`.

    `counted`: whether jobs and nodes are counted, which costs as much as the adding up; else both are 0.
    """

    by: tuple[str, ...]
    counted: bool = True


class Group(msgspec.Struct, frozen=True):
    """One group: its energy row; how many jobs are in it; the static energy of cores that jobs held and did not use.

    `idle_cores_uj` leaves out nodes on which the job used a GPU: their static energy is the GPUs' too. `unseen` is what
    accounting knows of its jobs and no row says; a group may be nothing else (`energy.first` is None, `jobs` is 0).
    """

    energy: EnergyRow
    jobs: int
    idle_cores_uj: int
    unseen: Unseen = NOTHING


def groups(
    ledger: Ledger, selection: Selection, groupings: Sequence[Grouping], factors: Factors | None = None
) -> list[list[Group]]:
    """Each grouping's groups, in the order of `groupings`. Sums are exact integers, as `Ledger.energy` makes them.

    Raises: ValueError for a word that is not known; ShardError as `Ledger.energy`.
    """
    if unknown := {word for grouping in groupings for word in grouping.by} - _COLUMN.keys():
        raise ValueError(f"cannot group by {', '.join(sorted(unknown))}; known: {', '.join(_COLUMN)}")

    def question(con: duckdb.DuckDBPyConnection, hours: list[datetime]) -> list[list[Group]]:
        weigh(con, hours, factors)
        found = _ask(con, groupings, factors is not None)
        lacks = of_selected(con, ledger, selection, [grouping.by for grouping in groupings])
        return [_with(its, of_it) for its, of_it in zip(found, lacks, strict=True)]

    return ledger.ask(selection, question, even_empty=True) or [[] for _ in groupings]


def _with(found: list[Group], lacks: Mapping[tuple[Key, ...], Unseen]) -> list[Group]:
    """The groups with what no daemon saw of them, and those of which none saw anything, in their order."""
    if not lacks:
        return found
    whole = [msgspec.structs.replace(one, unseen=lacks.get(one.energy.key, NOTHING)) for one in found]
    rest = lacks.keys() - {one.energy.key for one in found}
    whole += [Group(nothing(key), 0, 0, lacks[key]) for key in rest]
    return sorted(whole, key=lambda one: [(value is None, value) for value in one.energy.key])


_SUMS = ("cpu_uj", "dram_uj", "gpu_uj", "other_uj", "idle_uj", "modelled_uj", "cpu_time_us")
_HELD_US = "(alloc_cores::HUGEINT * present_ms * 1000)"
_IDLE_CORES = f"""
CASE WHEN holder = 'job' AND coalesce(gpu_uj, 0) = 0 AND {_HELD_US} > cpu_time_us
    THEN round(idle_uj * (1 - cpu_time_us / {_HELD_US}))::BIGINT ELSE 0 END
"""
_MEASURES = f"""
{", ".join(f"sum({name})" for name in _SUMS)}, max(alloc_cores), max(alloc_gpus), sum({_HELD_US}),
sum(present_ms), sum(covered_ms), min(first_us), max(last_us), {GRAMS}, sum({_IDLE_CORES})
"""


def _ask(con: duckdb.DuckDBPyConnection, groupings: Sequence[Grouping], with_grams: bool) -> list[list[Group]]:
    """All groupings in one reading, and how many jobs and nodes are in each group in a narrow one of its own.

    Counting what is different while adding up would hold a set for every group of every grouping at once: five times
    the work and three times the memory on a million jobs.
    """
    words = list(dict.fromkeys(word for grouping in groupings for word in grouping.by))
    sets = ", ".join(f"({', '.join(_COLUMN[word] for word in grouping.by)})" for grouping in groupings)
    keys = ", ".join([*(_COLUMN[word] for word in words), f"grouping_id({', '.join(map(_COLUMN.__getitem__, words))})"])
    sql = (
        f"SELECT {keys if words else '0'}, {_MEASURES} FROM weighed GROUP BY GROUPING SETS ({sets}) HAVING count(*) > 0"  # noqa: S608
    )
    counted = [grouping for grouping in groupings if grouping.counted]
    if counted:
        keys_of = {_COLUMN[word] for grouping in counted for word in grouping.by} | {"job_id", "node"}
        names = ", ".join(sorted(keys_of))
        con.execute(f"CREATE OR REPLACE TEMP TABLE present AS SELECT DISTINCT {names} FROM weighed")  # noqa: S608
    found: dict[int, list[tuple[Any, ...]]] = {}
    for row in con.execute(sql).fetchall():
        found.setdefault(row[len(words)], []).append(row)
    return [
        _groups(con, grouping, words, found.get(_grouping_id(grouping, words), []), with_grams)
        for grouping in groupings
    ]


def _grouping_id(grouping: Grouping, words: Sequence[str]) -> int:
    """SQL's number of a grouping set: a bit for every word that is not in it, the first word's the highest."""
    return sum(1 << (len(words) - 1 - place) for place, word in enumerate(words) if word not in grouping.by)


def _groups(
    con: duckdb.DuckDBPyConnection,
    grouping: Grouping,
    words: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    with_grams: bool,
) -> list[Group]:
    places = [words.index(word) for word in grouping.by]
    by_key = {tuple(row[place] for place in places): row[len(words) + 1 :] for row in rows}
    counts = _counts(con, grouping.by) if grouping.counted else {}
    ordered = sorted(by_key, key=lambda key: [(value is None, value) for value in key])
    return [_group(grouping.by, key, by_key[key], counts.get(key, (0, 0)), with_grams) for key in ordered]


def _counts(con: duckdb.DuckDBPyConnection, by: Sequence[str]) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Key -> (jobs, nodes), from the table `present`."""
    keys = ", ".join(_COLUMN[word] for word in by)
    sql = f"SELECT {keys + ', ' if keys else ''}count(DISTINCT job_id), count(DISTINCT node) FROM present"  # noqa: S608
    rows = con.execute(sql + (f" GROUP BY {keys}" if keys else "")).fetchall()
    return {tuple(row[:-2]): (row[-2], row[-1]) for row in rows}


def _group(
    by: Sequence[str], key: Sequence[Any], values: Sequence[Any], counts: tuple[int, int], with_grams: bool
) -> Group:
    *measures, first_us, last_us, weighted, lacking, idle_cores_uj = values
    its_grams = grams(weighted, lacking) if with_grams else None
    read = tuple(hour_at(value) if word == "hour" else value for word, value in zip(by, key, strict=True))
    jobs, nodes = counts
    fields: list[Any] = [read, *measures, nodes, moment_at(first_us), moment_at(last_us), its_grams]
    return Group(EnergyRow(*fields), jobs, idle_cores_uj or 0)


def largest_jobs(ledger: Ledger, selection: Selection, many: int) -> list[int]:
    """The ids of the jobs that used most energy, largest first."""
    sql = f"SELECT job_id FROM (SELECT job_id, {ENERGY} AS uj FROM selected WHERE holder = 'job')"  # noqa: S608
    sql += f" GROUP BY job_id ORDER BY sum(uj) DESC, job_id LIMIT {int(many)}"
    return ledger.ask(selection, lambda con, _: [row[0] for row in con.execute(sql).fetchall()]) or []
