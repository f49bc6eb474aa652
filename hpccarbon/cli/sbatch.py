"""`hpccarbon sbatch`: says what a job will cost, may choose its start, and becomes sbatch. Never stands in its way.

The estimate is made in a child of this process with a limit of time. Whatever happens to it (a dead file system, a
broken configuration, a fault of ours), this process then executes the real sbatch with the user's own arguments: its
output, its exit code and its signals are sbatch's, because it is sbatch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from hpccarbon.cli.common import config_option, duration

if TYPE_CHECKING:
    from hpccarbon.config import Config
    from hpccarbon.slurm.options import CommandLine, Head
    from hpccarbon.submit.plan import Plan

OWN = {
    "green": False,
    "no-green": False,
    "max-delay": True,
    "move": False,
    "dry-run": False,
    "format": True,
    "config": True,
}
"""Our options, and whether they have a value: every other word is sbatch's."""
REAL = "HPCCARBON_SBATCH"
"""Names the real sbatch, where slurm_scripts/sbatch stands before it on PATH. Help and version are then sbatch's."""
FIRST_WORD_S = 2.0
"""How long to wait for the child to have read the configuration, which then says how long to wait for the rest."""
_NO_SCRIPT = ("wrap", "help", "usage", "version")
"""With these sbatch reads no script: who asks for a version does not wait for the end of stdin."""
NOT_FOUND, NOT_RUN = 127, 126
"""A shell's exit codes."""

EPILOG = """
\b
Examples:
  hpccarbon sbatch job.sh
  hpccarbon sbatch --green --max-delay 12h --time=4:00:00 job.sh
  hpccarbon sbatch --green --dry-run job.sh

In the script, a line `#HPCCARBON --green --max-delay 12h` says the same. Every other option is sbatch's (see
`sbatch --help`) and is passed on as it is; so are stdin, output and exit code.
"""


class Asked(NamedTuple):
    """What was asked of us and of sbatch."""

    line: CommandLine
    head: Head


class Submission(click.Command):
    """Takes our own options out of sbatch's, wherever they stand before the script, and out of the script's head."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, of our own words alone."""
        from hpccarbon.slurm.options import command_line, script_head

        if args in (["--help"], ["-h"]) and not os.environ.get(REAL):
            return super().parse_args(ctx, args)
        line = command_line(args, OWN)
        head = script_head(_script(line))
        ctx.obj = Asked(line, head)
        words = [f"--{name}={value}" if OWN[name] else f"--{name}" for name, value in line.own.items()]
        return super().parse_args(ctx, [*head.own, *words])


@click.command("sbatch", cls=Submission, epilog=EPILOG, options_metavar="[OPTIONS] [SBATCH OPTIONS] SCRIPT [ARGS]...")
@click.option("--green/--no-green", help="Begin when the electricity is expected to be cleanest.")
@click.option(
    "--max-delay",
    callback=lambda ctx, param, value: duration(ctx, param, value) if value else None,
    metavar="TIME",
    help="With --green, wait no longer than this: 90min, 12h [default: submit.max_delay_h, 12 h].",
)
@click.option("--move", is_flag=True, help="With --green, delay also a job that has a --begin or a dependency.")
@click.option("--dry-run", is_flag=True, help="Print the estimate and the plan, and submit nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of what --dry-run prints.",
)
@config_option
@click.pass_obj
def command(
    asked: Asked, green: bool, max_delay: float | None, move: bool, dry_run: bool, form: str, config_path: Path | None
) -> None:
    """Submit a job as sbatch does, after saying what it will probably cost.

    The estimate stands on your own last jobs of that name, else on those of the partition, and says which. With --green
    the job begins when its grams are expected to be least; without a forecast it is submitted as it is.
    """
    from hpccarbon.submit.request import request

    line = asked.line
    wanted = request(line, asked.head, os.environ)

    def make(config: Config) -> Plan:
        from datetime import datetime, timedelta

        from hpccarbon.submit.plan import Wish
        from hpccarbon.submit.plan import make as plan

        delay_s = max_delay if max_delay is not None else config.submit.max_delay_h * 3600
        wish = Wish(green, timedelta(seconds=delay_s), move)
        return plan(config, wanted, wish, os.getuid(), datetime.now().astimezone().replace(microsecond=0))

    if dry_run:
        from hpccarbon import config as configuration

        _print(make(configuration.load(config_path)), form)
        return
    arguments = list(line.passed)
    if line.unknown is not None:
        _say(f"no estimate: sbatch's option {line.unknown} is not known to this release")
    elif not wanted.only_asks and (green or not wanted.quiet):
        told = _bounded(make, config_path, quiet=wanted.quiet)
        _tell(told.text)
        if told.begin_s is not None:
            at = line.end - (line.end > 0 and arguments[line.end - 1] == "--")
            arguments.insert(at, f"--begin={_in(told.begin_s)}")
    _become(arguments)


def _script(line: CommandLine) -> str:
    """The script's text, as far as its head can be in it; "" where it cannot be read: sbatch says so itself."""
    if line.unknown is not None or any(name in part for name in _NO_SCRIPT for part in line.options):
        return ""
    try:
        return (_kept_input() if line.script is None else _found(line.script).read_bytes()).decode("utf-8", "replace")
    except OSError:
        return ""


def _found(script: str) -> Path:
    """Where sbatch finds a script: as it is named, else on PATH."""
    import shutil

    path = Path(script)
    if "/" in script or path.exists():
        return path
    return Path(shutil.which(script) or path)


def _kept_input() -> bytes:
    """All of stdin, which is put back so that sbatch reads the same bytes."""
    if sys.stdin is None or sys.stdin.isatty():
        return b""
    import tempfile

    text = sys.stdin.buffer.read()
    kept = tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else open(os.memfd_create("script"), "w+b")  # noqa: SIM115
    with kept:
        kept.write(text)
        kept.flush()
        kept.seek(0)
        os.dup2(kept.fileno(), 0)
    return text


class Told(NamedTuple):
    """What the child found out: lines for the user, and the start, if one was chosen."""

    text: str = ""
    begin_s: float | None = None


def _bounded(make: Callable[[Config], Plan], config_path: Path | None, *, quiet: bool) -> Told:
    """Ask a child, and wait no longer than the configuration allows. Raises nothing."""
    reading, writing = os.pipe()
    screen = None if quiet else _screen()
    child = os.fork()
    if child == 0:
        os.close(reading)
        # A child that hangs must not hold what a shell's $(sbatch ...) reads to its end.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        _answer(writing, make, config_path, screen)
    os.close(writing)
    try:
        said = _read(reading)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # one that hangs in a dead file system dies when that answers
        os.waitpid(child, os.WNOHANG)
    if said is None:
        return Told("hpccarbon: no estimate: nothing was found out in time (submit.timeout_s)\n")
    return Told(said.get("text", ""), said.get("begin_s"))


class Screen(NamedTuple):
    """What the user reads on."""

    terminal: bool
    width: int


def _screen() -> Screen:
    import shutil

    terminal = sys.stderr is not None and sys.stderr.isatty()
    width = os.get_terminal_size(2).columns if terminal else shutil.get_terminal_size().columns
    return Screen(terminal, min(100, width or 80))


def _answer(writing: int, make: Callable[[Config], Plan], config_path: Path | None, screen: Screen | None) -> NoReturn:
    """The child: one line with its limit of time, one with what it found."""
    import json

    answer: dict[str, Any] = {}
    try:
        from hpccarbon import config as configuration

        config = configuration.load(config_path)
        os.write(writing, json.dumps({"timeout_s": config.submit.timeout_s}).encode() + b"\n")
        plan = make(config)
        when = config.submit.estimate
        if screen is not None and (when == "always" or (when == "terminal" and screen.terminal)):
            answer["text"] = _text(plan, screen.width)
        if plan.begin is not None:
            answer["begin_s"] = plan.begin.timestamp()
    except BaseException as err:  # whatever it is, the job is submitted
        from hpccarbon.report.render.inert import inert

        answer["text"] = f"hpccarbon: no estimate: {inert(str(err) or type(err).__name__, 300)}\n"
    try:
        os.write(writing, json.dumps(answer).encode() + b"\n")
    finally:
        os._exit(0)


def _read(reading: int) -> dict[str, Any] | None:
    """The child's last line, or None after its time is over."""
    import json
    import select
    import time

    begun, limit_s = time.monotonic(), FIRST_WORD_S
    text = b""
    while (left_s := begun + limit_s - time.monotonic()) > 0 and select.select([reading], [], [], left_s)[0]:
        more = os.read(reading, 65536)
        if not more:
            break
        text += more
        lines = text.splitlines(keepends=True)
        said = [json.loads(one) for one in lines if one.endswith(b"\n")]
        if said and "timeout_s" not in said[-1]:
            return dict(said[-1])
        if said:
            limit_s = float(said[-1]["timeout_s"])
    return None


def _in(begin_s: float) -> str:
    """A moment as `--begin` takes it. From now on, because the hour in which clocks are put back comes twice."""
    import time

    return f"now+{max(0, round(begin_s - time.time()))}seconds"


def _become(arguments: list[str]) -> NoReturn:
    """Replace this process by the real sbatch."""
    import shutil

    real = os.environ.pop(REAL, "") or shutil.which("sbatch")
    if real is None:
        _say("sbatch is not on PATH: load Slurm's module, or set slurm.bin_dir and PATH")
        sys.exit(NOT_FOUND)
    sys.stderr.flush()
    try:
        os.execv(real, ["sbatch", *arguments])  # noqa: S606 - no shell is wanted
    except OSError as err:
        _say(f"{real}: {err.strerror}")
        sys.exit(NOT_RUN)


def _say(message: str) -> None:
    from hpccarbon.report.render.inert import inert

    _tell(f"hpccarbon: {inert(message)}\n")


def _tell(text: str) -> None:
    """Write to stderr, if anybody reads it: a job is not given up for a line that nobody wanted."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True, nl=False)


def _text(plan: Plan, width: int) -> str:
    from hpccarbon.report.render.submission import text

    return text(plan, width)


def _print(plan: Plan, form: str) -> None:
    if form == "json":
        import msgspec

        document = {"schema_version": 1, "kind": "submission", **msgspec.to_builtins(plan)}
        click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        click.echo(_text(plan, _screen().width), nl=False)
