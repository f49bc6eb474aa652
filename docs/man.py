"""Writes the manual pages from the commands' help: hpccarbon.1 and one for each command.

python docs/man.py [DIR]    into DIR (default: build/man); `make man` and packagers call it
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from hpccarbon import __version__
from hpccarbon.cli import FOR_EVERYONE, FOR_OPERATORS, Entry, group

FILES = (
    ("/etc/hpccarbon/hpccarbon.toml", "The site's configuration; $HPCCARBON_CONFIG names another."),
    ("/etc/hpccarbon/hooks.env", "Settings of the Slurm hooks."),
)
STATUSES = (
    ("0", "Done."),
    ("1", "Failed: one line on stderr names the thing, the reason and the next step."),
    ("2", "Wrong usage or configuration."),
    ("130", "Interrupted."),
)


def roff(text: str) -> str:
    """A text in which nothing is a request, and every hyphen stays one (groff_man(7))."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """Help text as roff: what click must not wrap (after a \\b) stands as it is."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).strip("\n")):
        if paragraph.lstrip().startswith("\b"):
            body = inspect.cleandoc(paragraph.lstrip()[1:].strip("\n"))
            yield f".PP\n.nf\n{roff(body)}\n.fi\n"
        else:
            yield f".PP\n{roff(' '.join(paragraph.split()))}\n"


def listed(pairs: Sequence[tuple[str, str]]) -> str:
    """Tagged paragraphs."""
    return "".join(f".TP\n.B {roff(tag)}\n{roff(text) or 'See the examples.'}\n" for tag, text in pairs)


def head(name: str, summary: str) -> str:
    """Title and NAME section."""
    title = name.upper().replace(" ", "-")
    return (
        f'.TH "{roff(title)}" 1 "" "hpccarbon {roff(__version__)}" "hpccarbon"\n'
        f".SH NAME\n{roff(name.replace(' ', '-'))} \\- {roff(summary)}\n"
    )


def tail(others: Sequence[str]) -> str:
    """The sections that all pages end with."""
    see = "\n".join(f".BR {roff(other)} (1)" for other in others)
    return f".SH EXIT STATUS\n{listed(STATUSES)}.SH FILES\n{listed(FILES)}.SH SEE ALSO\n{see}\n"


def command_page(entry: Entry, command: click.Command, parent: click.Context) -> str:
    """The page of one command with its subcommands."""
    name = f"hpccarbon {entry.name}"
    parts = [head(name, entry.help.rstrip("."))]
    parts += [".SH SYNOPSIS\n", *synopses(command, name, parent), ".SH DESCRIPTION\n"]
    parts += [*paragraphs(command.help or ""), *options(command, name, parent, ".SH OPTIONS\n")]
    if command.epilog:
        parts += [".SH EXAMPLES\n", *paragraphs(command.epilog.replace("Examples:\n", ""))]
    parts.append(tail(["hpccarbon", "sacct"]))
    return "".join(parts)


def synopses(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """A line for the command, or for each of its subcommands."""
    context = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent)
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            below = command.get_command(context, sub)
            if below is not None and not below.hidden:
                yield from synopses(below, f"{name} {sub}", context)
        return
    pieces = " ".join(piece for piece in command.collect_usage_pieces(context) if piece)
    yield f".PP\n.B {roff(name)}\n{roff(pieces)}\n"


def options(command: click.Command, name: str, parent: click.Context, heading: str) -> Iterator[str]:
    """The command's options, then those of its subcommands under headings of their own."""
    context = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent)
    records = [record for param in command.params if (record := param.get_help_record(context))]
    if records:
        yield heading + listed(records)
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            below = command.get_command(context, sub)
            if below is not None and not below.hidden:
                yield f".SH {roff(f'{name} {sub}'.upper())}\n" + "".join(paragraphs(below.help or ""))
                yield from options(below, f"{name} {sub}", context, "")


def main_page() -> str:
    """The page of the program."""
    entries = [(f"hpccarbon-{entry.name}(1)", entry.help) for entry in (*FOR_EVERYONE, *FOR_OPERATORS)]
    everyone, operators = entries[: len(FOR_EVERYONE)], entries[len(FOR_EVERYONE) :]
    return "".join(
        [
            head("hpccarbon", "energy and carbon of jobs on Slurm clusters"),
            ".SH SYNOPSIS\n.B hpccarbon\nCOMMAND [OPTIONS] [ARGS]...\n.SH DESCRIPTION\n",
            *paragraphs(group.help or ""),
            f".SH COMMANDS\n{listed(everyone)}.SH COMMANDS FOR OPERATORS\n{listed(operators)}",
            tail([f"hpccarbon-{entry.name}" for entry in FOR_EVERYONE]),
        ]
    )


def pages() -> dict[str, str]:
    """File name -> page."""
    context = click.Context(group, info_name="hpccarbon")
    made = {"hpccarbon.1": main_page()}
    for entry in (*FOR_EVERYONE, *FOR_OPERATORS):
        command = group.get_command(context, entry.name)
        assert command is not None
        made[f"hpccarbon-{entry.name}.1"] = command_page(entry, command, context)
    return made


def main(argv: Sequence[str]) -> int:
    """Write all pages."""
    folder = Path(argv[0]) if argv else Path(__file__).resolve().parent.parent / "build" / "man"
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages().items():
        (folder / name).write_text(page, encoding="utf-8")
    print(f"{len(pages())} manual pages in {folder} (man -l {folder}/hpccarbon.1)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
