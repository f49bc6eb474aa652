"""`hpccarbon setup`: shows what an installation would change on this machine, does it, checks it, or takes it back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from importlib.abc import Traversable

    from hpccarbon.config import Config
    from hpccarbon.setup.carry import Machine, State
    from hpccarbon.setup.check import Finding
    from hpccarbon.setup.plan import Site, Step
    from hpccarbon.setup.slurmconf import Line

_SIGNS = {"new": "+", "changed": "~", "same": "=", "kept": "!", "later": "?"}
_VERDICTS = {"ok": ("ok", "green"), "note": ("--", "yellow"), "problem": ("!!", "red"), "unchecked": ("??", "yellow")}
PLACES = ("/opt/hpccarbon/bin/hpccarbon", "/usr/bin/hpccarbon", "/usr/local/bin/hpccarbon")
"""Where the program may lie in a node image; the first is what docs/install.md makes."""
_LATER = "not possible here: at the first boot, or by hand"


@click.command(
    "setup",
    epilog="Exit code: 0 done or shown, 1 failed or something is wrong, 2 wrong usage. slurm.conf itself stays yours.",
)
@click.option(
    "--role",
    type=click.Choice(["node", "head", "both"]),
    help="What this machine does [default: both; with --check, what lies here].",
)
@click.option("--cluster", metavar="NAME", help="ClusterName of slurm.conf [default: asked of slurmctld].")
@click.option("--shared-dir", metavar="DIR", help="The directory all machines see [default: of the configuration].")
@click.option("--zone", default="", help="Where the electricity comes from; see `hpccarbon intensity zones`.")
@click.option("--pue", type=click.FloatRange(1, 10), help="Total / IT energy of the building, where it is known.")
@click.option("--user", help="The account that writes to --shared-dir [default: of the configuration, else hpccarbon].")
@click.option("--no-systemd", is_flag=True, help="No services: the prolog of a job starts a missing daemon.")
@click.option("--prefix", type=click.Path(path_type=Path), default=Path("/"), help="Root of a node image.")
@click.option("--apply", "do_apply", is_flag=True, help="Do it. Without this nothing is changed.")
@click.option("--check", "do_check", is_flag=True, help="Look whether what was set up holds; changes nothing.")
@click.option("--undo", is_flag=True, help="Take back what --apply did; what was edited since stays.")
@click.option("--diff", is_flag=True, help="Show the files' contents.")
def command(
    role: Literal["node", "head", "both"] | None,
    cluster: str | None,
    shared_dir: str | None,
    zone: str,
    pue: float | None,
    user: str | None,
    no_systemd: bool,
    prefix: Path,
    do_apply: bool,
    do_check: bool,
    undo: bool,
    diff: bool,
) -> None:
    """Install on this machine: configuration, directories, hooks, services, and the lines slurm.conf lacks.

    Shows what it would do; --apply does it and checks it, --check checks it again, --undo takes it back. Run again at
    any time: what is done stays as it is, and a configuration of yours is never overwritten.
    """
    from hpccarbon.setup.carry import Machine

    if do_apply + do_check + undo > 1:
        raise click.UsageError("--apply, --check and --undo exclude each other")
    machine = Machine(prefix.resolve())
    if undo:
        _undo(machine)
        return
    from hpccarbon import config as configuration
    from hpccarbon.errors import HpcCarbonError
    from hpccarbon.setup.plan import CONFIG_DIR, Site, steps

    path = machine.path(f"{CONFIG_DIR}/hpccarbon.toml")
    existing = configuration.load(path) if path.exists() else None
    if do_check:
        from hpccarbon.setup import check

        if existing is None:
            raise HpcCarbonError(f"{path}: nothing is set up here (hpccarbon setup --apply does it)")
        there, units = check.what_is_here(machine)
        role, no_systemd = role or there, no_systemd or not units
    present = _slurm_settings(existing)
    if zone:
        from hpccarbon.carbon.zones import require

        require(zone)
    site = Site(
        role=role or "both",
        cluster=cluster or (existing.cluster if existing else "") or _cluster(present),
        shared_dir=_shared_dir(shared_dir, existing),
        zone=zone,
        pue=pue or 0.0,
        user=user or (existing.daemon.seal_user if existing else "") or "hpccarbon",
        executable=_program(machine, installed=do_check),
        systemd=not no_systemd,
    )
    from hpccarbon.setup.slurmconf import lacking

    lines = lacking(present)
    todo = steps(site, _scripts(), lines)
    if do_check:
        sys.exit(_check(machine, site, todo, present))
    found = machine.apply(todo) if do_apply else machine.look(todo)
    _show(machine, found, do_apply, diff)
    if not do_apply:
        click.echo("\nNothing was changed. The same with --apply does it; --diff shows the files.")
        return
    click.echo()
    wrong = _check(machine, site, todo, present)
    _say_next(site, lines, known=bool(present))
    sys.exit(wrong)


def _slurm_settings(existing: Config | None) -> dict[str, list[str]]:
    from hpccarbon.config import Slurm
    from hpccarbon.errors import SlurmError
    from hpccarbon.setup.slurmconf import settings

    try:
        return settings(existing.slurm if existing else Slurm())
    except SlurmError as err:
        from hpccarbon.cli.common import warn

        warn(f"{err}; so all lines that slurm.conf needs are listed, whether it has them or not")
        return {}


def _cluster(present: dict[str, list[str]]) -> str:
    if "ClusterName" not in present:
        raise click.UsageError("slurmctld could not be asked for the cluster's name: give --cluster")
    return present["ClusterName"][0]


def _shared_dir(given: str | None, existing: Config | None) -> str:
    if given:
        if not Path(given).is_absolute():
            raise click.BadParameter(f"{given!r}: must be an absolute path", param_hint="--shared-dir")
        return given
    if existing is None:
        raise click.UsageError("give --shared-dir: the directory that nodes, head and login machines all see")
    return existing.paths.shared_dir


def _program(machine: Machine, *, installed: bool) -> str:
    """What services and hooks start, or are to start."""
    if installed:
        from hpccarbon.setup.check import program_of

        if there := program_of(machine):
            return there
    return _in_image(machine) if machine.is_image else _executable()


def _executable() -> str:
    """What the services and the prolog start: the program that is running now."""
    called = Path(sys.argv[0])
    if called.name in ("hpccarbon", "hpccarbon-node.pyz") and called.exists():
        return str(called.absolute())
    return shutil.which("hpccarbon") or str(Path(sys.executable).with_name("hpccarbon"))


def _in_image(machine: Machine) -> str:
    """What they start in a node image: the program that lies there, never that of the machine that makes the image."""
    for place in PLACES:
        if machine.path(place).exists():
            return place
    click.echo(f"warning: the image has no {PLACES[0]} yet: services and prolog will look for it there", err=True)
    return PLACES[0]


def _scripts() -> Traversable:
    """`slurm_scripts`: in the package when installed (or inside the single-file build), beside it in a checkout."""
    from importlib.resources import files

    installed = files("hpccarbon") / "slurm_scripts"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "slurm_scripts"


def _show(machine: Machine, found: Sequence[tuple[Step, State]], done: bool, diff: bool) -> None:
    from hpccarbon.setup.plan import Directory, File, Unit, User

    words = {
        "new": "made" if done else "to be made",
        "changed": "replaced" if done else "to be replaced",
        "same": "as it should be",
        "kept": "yours, and stays as it is",
        "later": _LATER,
    }
    for step, state in found:
        what = {User: "account", Unit: "service", File: "file"}.get(type(step), "directory")
        name = step.name if isinstance(step, (User, Unit)) else step.path
        word = words[state]
        if isinstance(step, Unit) and state == "changed":
            word = f"{'restarted' if done else 'to be restarted'} by its new file"
        if isinstance(step, Directory) and state == "changed":
            word = f"{'made' if done else 'to be made'} root's, mode {step.mode:04o}"
        click.echo(f"{_SIGNS[state]} {what:<9} {name}: {word} ({step.why})")
        if diff and isinstance(step, File) and state in ("new", "changed", "kept") and not done:
            click.echo("".join(f"      {line}\n" for line in machine.difference(step).splitlines()), nl=False)


def _check(machine: Machine, site: Site, todo: Sequence[Step], present: dict[str, list[str]]) -> int:
    """Say of each thing how it stands. Returns: the exit status, 1 where something is wrong."""
    from hpccarbon.setup.check import check

    findings = check(machine, todo, present)
    if site.is_node and not machine.is_image:
        findings += _doctor()
    for finding in findings:
        sign, colour = _VERDICTS[finding.verdict]
        click.echo(f"{click.style(sign, fg=colour)} {finding.what}: {finding.found}")
        if finding.advice:
            click.echo(f"     -> {finding.advice}")
    verdicts = [finding.verdict for finding in findings]
    wrong, unchecked = verdicts.count("problem"), verdicts.count("unchecked")
    click.echo(f"\n{len(findings)} things checked: {wrong} wrong, {unchecked} not checked.")
    return 1 if wrong else 0


def _doctor() -> list[Finding]:
    """What the node's doctor calls a problem; else that it calls nothing so."""
    from hpccarbon import config as configuration
    from hpccarbon.errors import ConfigError
    from hpccarbon.node.doctor import diagnose
    from hpccarbon.setup.check import CONFIG, Finding

    try:
        config = configuration.load(Path(CONFIG))
    except ConfigError:
        return [Finding("doctor", "unchecked", "not checked: the configuration does not load")]
    checks = diagnose(config, configuration.node_name(None)).checks
    problems = [check for check in checks if check.verdict == "problem"]
    if not problems:
        return [Finding("doctor", "ok", "finds no problem; hpccarbon doctor says what is measured")]
    return [Finding(f"doctor, {one.subject}", "problem", one.found, one.advice) for one in problems]


def _say_next(site: Site, lines: list[Line], *, known: bool) -> None:
    from hpccarbon.setup.plan import CONFIG_DIR

    click.echo("\nNext:")
    if lines and site.is_node:
        said = ", ".join(line.key for line in lines)
        click.echo(f"  take {CONFIG_DIR}/slurm.conf.lines into slurm.conf ({said}), then scontrol reconfigure")
    elif known:
        click.echo("  slurm.conf has everything already")
    if not site.zone:
        click.echo(f"  set carbon.zone and carbon.pue in {CONFIG_DIR}/hpccarbon.toml, or no report has grams")
    click.echo("  hpccarbon doctor      what this machine can measure")


def _undo(machine: Machine) -> None:
    for entry, gone in machine.undo():
        if gone:
            click.echo(f"- {entry.kind:<9} {entry.what}: taken back")
            continue
        reason = {"directory": "not empty", "user": "files of its may lie anywhere"}.get(entry.kind, "edited since")
        click.echo(f"! {entry.kind:<9} {entry.what}: left ({reason})")
    click.echo("\nTake the lines of Prolog= and Epilog= out of slurm.conf yourself, then scontrol reconfigure.")
