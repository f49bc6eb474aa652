"""What a static site of a cluster holds: its months, and each account and user over all of them. Writes no file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from hpccarbon.report.summary import Line, Summary

Kind = Literal["account", "user"]
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PRIVATE_NOTE = "Users and single jobs are not shown: this site's privacy is `own`."


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One account or user in one month; `share_percent` is of the cluster's energy."""

    month: str
    line: Line


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """All months of one account or user, the youngest first."""

    kind: Kind
    name: str
    entries: list[Entry]


def public(summary: Summary, privacy: Literal["group", "own"]) -> Summary:
    """The summary as a site may show it: where privacy is `own`, without users and single jobs."""
    if privacy == "group":
        return summary
    quality = msgspec.structs.replace(summary.quality, notes=[*summary.quality.notes, PRIVATE_NOTE])
    return msgspec.structs.replace(summary, quality=quality, users=[], wasted=[], jobs=[])


def pages(summaries: Iterable[Summary]) -> list[Page]:
    """A page for every account and user that any month names, in order of kind and name."""
    found: dict[tuple[Kind, str], list[Entry]] = {}
    for summary in sorted(summaries, key=lambda one: one.month, reverse=True):
        tables: Sequence[tuple[Kind, list[Line]]] = (("account", summary.accounts), ("user", summary.users))
        for kind, lines in tables:
            for line in lines:
                if line.name is not None:
                    found.setdefault((kind, line.name), []).append(Entry(month=summary.month, line=line))
    return [Page(kind=kind, name=name, entries=entries) for (kind, name), entries in sorted(found.items())]


def slug(name: str) -> str:
    """A name as a file name: itself where it is plain, else a digest, so that no name can leave its directory."""
    if _PLAIN.fullmatch(name):
        return name
    return "x-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def path_of(kind: str, name: str) -> str:
    """Where the page of an account, a user or a month lies below the site's root."""
    return f"{name}.html" if kind == "month" else f"{kind}s/{slug(name)}.html"


class Made(msgspec.Struct, frozen=True):
    """What the last run published: `program` stands for the release and the configuration; month -> fingerprint."""

    program: str = ""
    months: dict[str, str] = {}


def needs(month: str, fingerprints: Mapping[str, str], *, budgets: bool) -> str:
    """Stands for all months that a month's page is made from: itself, the two it is compared with, its budgets'."""
    year, number = map(int, month.split("-"))
    before = f"{year - (number == 1):04d}-{(number - 2) % 12 + 1:02d}"
    used = [month, before, f"{year - 1:04d}-{number:02d}"]
    if budgets:
        used += [f"{year:04d}-{earlier:02d}" for earlier in range(1, number)]
    text = "\n".join(f"{one} {fingerprints.get(one, '')}" for one in used)
    return hashlib.sha256(text.encode()).hexdigest()
