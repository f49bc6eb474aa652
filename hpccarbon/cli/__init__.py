"""The door: finds the command that was asked for and loads that one alone. Does no work of its own."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hpccarbon import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))


class Entry(NamedTuple):
    """A command: `module` holds it as `command`; `help` is written here so that `--help` loads no command."""

    name: str
    module: str
    help: str


FOR_EVERYONE: tuple[Entry, ...] = (
    Entry("report", "hpccarbon.cli.report", "Energy and carbon of jobs, users, accounts, nodes or months."),
    Entry("now", "hpccarbon.cli.now", "What my running job has used on this node so far."),
    Entry(
        "sbatch",
        "hpccarbon.cli.sbatch",
        "Submit a job, told what it will cost; begin when power is clean.",
    ),
    Entry("advise", "hpccarbon.cli.advise", "What past jobs would have saved, begun later."),
    Entry("run", "hpccarbon.cli.run", "Run a program and measure what it uses, with or without Slurm."),
    Entry("compare", "hpccarbon.cli.compare", "Models beside each other: energy, CO2e, time, what they achieved."),
    Entry("import", "hpccarbon.cli.import", "Old runs of CodeCarbon, to compare with new ones."),
    Entry("export", "hpccarbon.cli.export", "Every job with its energy and carbon, one row each."),
    Entry("intensity", "hpccarbon.cli.intensity", "Carbon intensity of the grid: which values reports use, and why."),
    Entry("completion", "hpccarbon.cli.completion", "What a shell needs to complete commands and options."),
)
FOR_OPERATORS: tuple[Entry, ...] = (
    Entry(
        "setup", "hpccarbon.cli.setup", "Install on this machine: shown first, done with --apply, checked, taken back."
    ),
    Entry("daemon", "hpccarbon.cli.daemon", "Measure this node and divide its energy among its jobs."),
    Entry("status", "hpccarbon.cli.status", "How this node's daemon is; which nodes are silent."),
    Entry("doctor", "hpccarbon.cli.doctor", "What can be measured here, what cannot, and how to mend it."),
    Entry("aggregate", "hpccarbon.cli.aggregate", "Merge the nodes' shards into the ledger."),
    Entry("summary", "hpccarbon.cli.summary", "A month of the cluster: a page, and the same as data."),
    Entry("publish", "hpccarbon.cli.publish", "A static site of months, accounts and users."),
    Entry("exporter", "hpccarbon.cli.exporter", "Serve the cluster's metrics for Prometheus."),
    Entry("retention", "hpccarbon.cli.retention", "Pack and remove raw shards that the ledger provably holds."),
    Entry("annotate", "hpccarbon.cli.annotate", "Write jobs' summaries into Slurm's AdminComment."),
    Entry("verify", "hpccarbon.cli.verify", "Prove that jobs, system and unallocated add up to the meters."),
    Entry("audit", "hpccarbon.cli.audit", "Cross-check a month with Slurm's accounting, job by job."),
)
COMMANDS: dict[str, Entry] = {entry.name: entry for entry in (*FOR_EVERYONE, *FOR_OPERATORS)}


class LazyGroup(click.Group):
    """A group whose help comes from the table above and whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded now; None if there is none of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = import_module(entry.module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a mistyped name is answered with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, from the table, and the options: no command is loaded for them."""
        from click.shell_completion import CompletionItem

        named = [CompletionItem(entry.name, help=entry.help) for entry in COMMANDS.values()]
        return [item for item in named if item.value.startswith(incomplete)] + click.Command.shell_complete(
            self, ctx, incomplete
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The two lists of commands."""
        for title, entries in (("Commands", FOR_EVERYONE), ("Commands for operators", FOR_OPERATORS)):
            with formatter.section(title):
                formatter.write_dl([(entry.name, entry.help) for entry in entries], col_max=12)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hpccarbon", message="%(prog)s %(version)s")
def group() -> None:
    """Energy and carbon of jobs on Slurm clusters: measured, divided among the jobs, and explained.

    Start with `hpccarbon report --job ID`. Data goes to stdout, speech to stderr. Exit status: 0 done, 1 failed,
    2 wrong usage or configuration.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit. A failure that has a name is one line on stderr, never a traceback."""
    sys.exit(_run(args))


def _run(args: Sequence[str] | None) -> int:
    if sys.stdout is None:  # started with stdout closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    try:
        result: Any = group.main(args, prog_name="hpccarbon", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as err:
        err.show()
        return err.exit_code
    except click.ClickException as err:
        return _misused(err)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        _discard_output()
        return 141
    except OSError as err:
        if err.filename is not None or err.errno not in _NO_ROOM:
            raise
        _discard_output()
        click.echo(f"error: cannot write the output: {err.strerror}", err=True)
        return 1
    except Exception as err:
        return _failed(err)
    return result if isinstance(result, int) else 0


def _misused(err: click.ClickException) -> int:
    """Say what was wrong with the call, and where its help is."""
    from hpccarbon.report.render.inert import inert

    # Click writes choices one under the other; a failure is one line.
    click.echo(f"error: {inert(' '.join(err.format_message().split()))}", err=True)
    if isinstance(err, click.UsageError) and err.ctx is not None:
        click.echo(f"see: {err.ctx.command_path} --help", err=True)
    return err.exit_code


def _failed(err: Exception) -> int:
    """Say what went wrong. Raises what is no failure of ours: a fault of the program keeps its traceback."""
    from hpccarbon import program
    from hpccarbon.errors import ConfigError, HpcCarbonError
    from hpccarbon.report.render.inert import inert

    if isinstance(err, ModuleNotFoundError) and program.archive():
        click.echo(f"error: {err.name} is not in this build for nodes: reports need the Python package", err=True)
        return 1
    if not isinstance(err, HpcCarbonError):
        raise err
    for line in (str(err) or type(err).__name__).splitlines():
        click.echo(f"error: {inert(line)}", err=True)
    return 2 if isinstance(err, ConfigError) else 1


def _discard_output() -> None:
    """The reader has left (`| head`) or the disk is full: nothing more is written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
