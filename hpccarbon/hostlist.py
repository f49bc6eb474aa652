"""Slurm's hostlist notation, `n[1-3,7],gpu[01-04]-ib`, to names. Text only: asks no Slurm command."""

from __future__ import annotations

import re
from itertools import product

MAX_NAMES = 100_000
"""No cluster has more nodes; a list that expands beyond is a mistake or an attack."""

_DIGITS = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_PLAIN = re.compile(r"[^\s\[\],]*")
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?", re.ASCII)


def expand(text: str, limit: int = MAX_NAMES) -> list[str]:
    """The names behind a hostlist, in its order; duplicates stay, as in Slurm.

    Args:
        text: e.g. `n[1-3,7],gpu[01-04]-ib` or `r[1-2]n[1-3]`; empty, `(null)` and `None assigned` are no node.
        limit: more names than this are refused before they are made.

    Raises: ValueError naming the part that is malformed, or the limit.
    """
    if text.strip() in ("", "(null)", "None assigned", "None"):
        return []
    names: list[str] = []
    for part in _split(text):
        names += _expand_one(part, limit - len(names), text)
    return names


def _split(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets."""
    parts, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise ValueError(f"hostlist {_shown(text)}: unbalanced brackets")
        if letter == "," and not depth:
            parts.append(text[begin:at])
            begin = at + 1
    if depth:
        raise ValueError(f"hostlist {_shown(text)}: unbalanced brackets")
    return [*parts, text[begin:]]


def _expand_one(part: str, limit: int, text: str) -> list[str]:
    pieces = re.split(r"\[([^\]]*)\]", part)
    if not part or not all(_PLAIN.fullmatch(piece) for piece in pieces[::2]):
        raise ValueError(f"hostlist {_shown(text)}: {_shown(part)} is no node name")
    choices: list[list[str]] = []
    count = 1
    for at, piece in enumerate(pieces):
        values = _range(piece, limit, text) if at % 2 else [piece]
        choices.append(values)
        count *= len(values)
        if count > limit:
            raise ValueError(f"hostlist {_shown(text)}: more than {MAX_NAMES} names")
    return ["".join(chosen) for chosen in product(*choices)]


def _range(piece: str, limit: int, text: str) -> list[str]:
    """The numbers between brackets, as wide as they were written."""
    values: list[str] = []
    for item in piece.split(","):
        found = _DIGITS.fullmatch(item)
        if not found or len(item) > 40:
            raise ValueError(f"hostlist {_shown(text)}: [{_shown(piece)}] holds no range")
        first, last = found.group(1), found.group(2) or found.group(1)
        begin, end = int(first), int(last)
        if end < begin:
            raise ValueError(f"hostlist {_shown(text)}: range {item} runs backwards")
        if end - begin >= limit - len(values):
            raise ValueError(f"hostlist {_shown(text)}: more than {MAX_NAMES} names")
        values += [str(number).zfill(len(first)) for number in range(begin, end + 1)]
    return values


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def cpus_on_node(text: str, nodelist: str, node: str) -> int:
    """A node's part of SLURM_JOB_CPUS_PER_NODE: `8(x2),4` gives 8, 8 and 4 to the nodes in the list's order.

    Raises: ValueError, if one of the texts is malformed, they do not fit, or the node is not in the list.
    """
    names = expand(nodelist)
    if node not in names:
        raise ValueError(f"node {_shown(node)} is not in {_shown(nodelist)}")
    place = names.index(node)
    for item in text.split(","):
        found = _COUNT.fullmatch(item.strip())
        if not found:
            raise ValueError(f"CPUs per node {_shown(text)}: {_shown(item)} is not a count like 8 or 8(x2)")
        place -= int(found.group(2) or 1)
        if place < 0:
            return int(found.group(1))
    raise ValueError(f"CPUs per node {_shown(text)} name fewer nodes than {_shown(nodelist)}")
