"""Reads a command line and a script's head as sbatch reads them: options, script, components. Runs nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

WITH_VALUE = frozenset(
    """
    account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container
    container-id container-type core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
    dependency distribution error exclude export export-file extra extra-node-info gid gpu-bind gpu-freq gpus
    gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input job-name licenses mail-type mail-user
    mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile nodelist nodes ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition power prefer priority profile qos
    reservation segment signal sockets-per-node switches thread-spec threads-per-core time time-min tmp tres-bind
    tres-per-task uid wait-all-nodes wckey wrap
    """.split()  # noqa: SIM905 - a table to read
)
"""Options that take the next word, where no `=` is in their own: those of sbatch 22.05 to 26.05 together."""
ALONE = frozenset(
    """
    consolidate-segments contiguous exclusive get-user-env help hold ignore-pbs nice no-kill no-requeue oom-kill-step
    overcommit oversubscribe parsable propagate quiet reboot requeue resv-ports spread-job spread-segments stepmgr
    test-only usage use-min-nodes verbose version wait
    """.split()  # noqa: SIM905 - a table to read
)
"""Options without a value, or with one behind `=` alone."""
SHORT: Mapping[str, str] = {
    "a": "array",
    "b": "begin",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "i": "input",
    "m": "distribution",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
    "A": "account",
    "B": "extra-node-info",
    "C": "constraint",
    "D": "chdir",
    "F": "nodefile",
    "G": "gpus",
    "J": "job-name",
    "L": "licenses",
    "M": "clusters",
    "N": "nodes",
    "S": "core-spec",
    "h": "help",
    "k": "no-kill",
    "s": "oversubscribe",
    "v": "verbose",
    "H": "hold",
    "O": "overcommit",
    "Q": "quiet",
    "V": "version",
    "W": "wait",
}
FROM_ENVIRONMENT: Mapping[str, str] = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_CLUSTERS": "clusters",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_GPUS": "gpus",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-task",
    "SBATCH_GRES": "gres",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_TIMELIMIT": "time",
}
"""The variables that stand for options we look at; a command line goes before them, and they before the script."""
_DIRECTIVE = re.compile(r"#(SBATCH|HPCCARBON)\s+(.*)")
Options = dict[str, str]


class CommandLine(NamedTuple):
    """`options` has one entry per component of a heterogeneous job; an option without a value is "".

    `own` are the words that were not for sbatch, `passed` all others, in their order: the script stands at
    `passed[end]`. `unknown` is the first option that no supported sbatch has: from there on nothing is understood, and
    `script` is not known.
    """

    options: list[Options]
    own: Options
    passed: list[str]
    end: int
    script: str | None
    unknown: str | None


def command_line(argv: Sequence[str], own: Mapping[str, bool] | None = None) -> CommandLine:
    """Read the arguments behind `sbatch`, up to the script; what follows is the script's own.

    As getopt_long does it: `--name=value`, `--name value`, unambiguous beginnings of long names, short options in a
    row, `--`. A lone `:` begins the next component.

    Args:
        own: long options (whole names) that are taken out, and whether they have a value.
    """
    found: list[Options] = [{}]
    ours: Options = {}
    passed: list[str] = []
    at = 0
    while at < len(argv):
        word = argv[at]
        name, equals, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        if own and name in own:
            apart = own[name] and not equals
            ours[name] = (argv[at + 1] if at + 1 < len(argv) else "") if apart else value
            at += 1 + apart
            continue
        if word == ":":
            found.append({})
            after = at + 1
        elif word.startswith("-") and word not in ("-", "--"):
            read = _long(argv, at) if name else _short(argv, at)
            if read is None:
                return CommandLine(found, ours, [*passed, *argv[at:]], len(passed), None, word)
            pairs, after = read
            found[-1].update(pairs)
        elif word == "--":
            passed.append(word)
            at += 1
            break
        else:
            break
        passed += argv[at:after]
        at = after
    script = argv[at] if at < len(argv) else None
    return CommandLine(found, ours, [*passed, *argv[at:]], len(passed), script, None)


def _long(argv: Sequence[str], at: int) -> tuple[Options, int] | None:
    name, equals, value = argv[at][2:].partition("=")
    known = _whole(name)
    if known is None:
        return None
    if equals or known in ALONE:
        return {known: value}, at + 1
    return {known: argv[at + 1] if at + 1 < len(argv) else ""}, at + 2


def _short(argv: Sequence[str], at: int) -> tuple[Options, int] | None:
    found: Options = {}
    letters = argv[at][1:]
    for place, letter in enumerate(letters):
        name = SHORT.get(letter)
        if name is None:
            return None
        if name in WITH_VALUE:
            rest = letters[place + 1 :]
            if rest:
                return {**found, name: rest}, at + 1
            return {**found, name: argv[at + 1] if at + 1 < len(argv) else ""}, at + 2
        found[name] = ""
    return found, at + 1


def _whole(name: str) -> str | None:
    """The option that this is, or is the beginning of, if of one alone."""
    if name in WITH_VALUE or name in ALONE:
        return name
    begun = [one for one in WITH_VALUE | ALONE if one.startswith(name)] if name else []
    return begun[0] if len(begun) == 1 else None


class Head(NamedTuple):
    """What the comments at a script's head ask for: sbatch's options per component, and the words meant for us."""

    options: list[Options]
    own: list[str]


def script_head(text: str) -> Head:
    """`#SBATCH` and `#HPCCARBON` lines up to the first command. A line that cannot be read is left to sbatch."""
    found: list[Options] = [{}]
    own: list[str] = []
    for kind, words in _directives(text):
        if kind == "HPCCARBON":
            own += words
        elif words[:1] in (["hetjob"], ["packjob"]):
            found.append({})
        else:
            found[-1].update(command_line(words).options[0])
    return Head(found, own)


def _directives(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            return
        if matched := _DIRECTIVE.match(line):
            try:
                yield matched[1], shlex.split(matched[2], comments=True)
            except ValueError:
                continue


def merged(line: CommandLine, head: Head, environment: Mapping[str, str]) -> list[Options]:
    """Each component's options as sbatch takes them: the command line before the environment before the script."""
    variables = {option: environment[name] for name, option in FROM_ENVIRONMENT.items() if name in environment}
    many = max(len(line.options), len(head.options))
    return [{**_at(head.options, place), **variables, **_at(line.options, place)} for place in range(many)]


def _at(options: Sequence[Options], place: int) -> Options:
    return options[place] if place < len(options) else {}
