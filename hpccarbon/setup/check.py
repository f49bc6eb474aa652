"""Looks whether what `setup` made holds, and names what does not with the next step. Changes nothing.

What a file says is the site's own affair once it is edited; who may write what root runs is not.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hpccarbon import __version__
from hpccarbon import config as configuration
from hpccarbon.config import Config
from hpccarbon.errors import ConfigError
from hpccarbon.setup import slurmconf
from hpccarbon.setup.carry import Machine, account_ids, owner_of
from hpccarbon.setup.plan import CONFIG_DIR, FRAGMENT, HOOKS, UNIT_DIR, Directory, File, Role, Step, Unit, User

Verdict = Literal["ok", "note", "problem", "unchecked"]
CONFIG = f"{CONFIG_DIR}/hpccarbon.toml"
SETTINGS = f"{CONFIG_DIR}/hooks.env"
UNITS = ("hpccarbon.service", "hpccarbon-aggregate.service")
AGAIN = "hpccarbon setup --apply, with the options of the first time"
_SAYS = re.compile(r"^\s*(\w+)=([\"']?)(.*?)\2\s*$", re.MULTILINE)
_STARTS = re.compile(r"^ExecStart=(\S+)", re.MULTILINE)
_HOOKS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
"""Where the prolog looks for the program (slurm_scripts/prolog.sh)."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; where it is not well, `advice` is the next step."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def what_is_here(machine: Machine) -> tuple[Role, bool]:
    """What this machine was set up as, and whether with units: from the journal and from what lies here."""
    noted = machine.noted()

    def known(path: str) -> bool:
        return path in noted or machine.path(path).exists()

    daemon, aggregator = (known(f"{UNIT_DIR}/{name}") for name in UNITS)
    node = daemon or any(known(f"{CONFIG_DIR}/{name}") for name in (*HOOKS, "hooks.env"))
    role: Role = "both" if node and aggregator else "node" if node else "head"
    return role, daemon or aggregator


def program_of(machine: Machine) -> str:
    """The program that the services or the hooks here start; empty, if nothing says."""
    for name in UNITS:
        if found := _STARTS.search(_text(machine.path(f"{UNIT_DIR}/{name}"))):
            return found[1]
    return _settings(machine).get("HPCCARBON_BIN", "")


def check(machine: Machine, todo: Sequence[Step], present: dict[str, list[str]]) -> list[Finding]:
    """Everything of a plan that can be looked at from here.

    Args:
        present: slurm.conf as slurmctld knows it (`slurmconf.settings`); empty, if it could not be asked.
    """
    findings: list[Finding] = []
    for step in todo:
        if isinstance(step, User):
            findings.append(_account(machine, step))
        elif isinstance(step, Unit):
            findings.append(_unit(machine, step))
        else:
            findings += _guarded(machine, step)
    if any(isinstance(step, File) and step.path == SETTINGS for step in todo):
        findings += [*_hooks_settings(machine), *_slurm(present)]
    return [*findings, *_program(machine)]


# ---- accounts, services -------------------------------------------------------------------------------------------


def _account(machine: Machine, step: User) -> Finding:
    what = f"account {step.name}"
    if machine.is_image:
        return Finding(what, "unchecked", "not checked: an image gets its accounts at the first boot")
    account = account_ids(step.name)
    if account is None:
        return Finding(what, "problem", "there is none", AGAIN)
    return Finding(what, "ok", f"uid {account[0]}")


def _unit(machine: Machine, step: Unit) -> Finding:
    what = f"service {step.name}"
    if not machine.has_systemd:
        return Finding(what, "unchecked", "not checked: systemd does not run here", f"systemctl status {step.name}")
    if machine.is_image:
        if machine.state(step) == "same":
            return Finding(what, "ok", "enabled, starts at the first boot")
        return Finding(what, "problem", "not enabled", AGAIN)
    enabled, active = (_said("systemctl", verb, step.name) for verb in ("is-enabled", "is-active"))
    found = f"{enabled}, {active}"
    if not enabled.startswith("enabled"):
        return Finding(what, "problem", found, f"systemctl enable --now {step.name}")
    if active != "active":
        return Finding(what, "problem", found, f"journalctl -u {step.name} -n 20 says why")
    if _said("systemctl", "show", "--property=NeedDaemonReload", "--value", step.name) == "yes":
        advice = f"systemctl daemon-reload, then systemctl restart {step.name}"
        return Finding(what, "problem", f"{found}, but by an older unit file", advice)
    return Finding(what, "ok", found)


# ---- directories and files ----------------------------------------------------------------------------------------


def _guarded(machine: Machine, step: Directory | File) -> Iterator[Finding]:
    """Owner and mode; then what kind of file it is."""
    path = machine.path(step.path)
    kind = "directory" if isinstance(step, Directory) else "file"
    what = f"{kind} {step.path}"
    try:
        status = path.stat()
    except FileNotFoundError:
        yield Finding(what, "problem", "missing", AGAIN)
        return
    except OSError as err:
        yield Finding(what, "unchecked", f"not checked: {err.strerror}", "run as root")
        return
    if path.is_dir() != isinstance(step, Directory):
        yield Finding(what, "problem", f"is no {kind}", f"move it away, then {AGAIN}")
        return
    mode = status.st_mode & 0o7777
    found = f"mode {mode:04o}, uid {status.st_uid}"
    owner = machine.owner(step, path)
    may_write = 0o002 if step.site and isinstance(step, Directory) else 0o022  # a site may have an admin group
    lacks = step.mode & ~mode & (0o700 if may_write == 0o002 else 0o777)
    name = owner_of(step) or "root"
    if owner is None:
        yield Finding(what, "unchecked", f"{found}; owner not checked: there is no account {name}")
    elif status.st_uid != owner:
        yield Finding(what, "problem", f"{found}, which is not {name}'s", f"chown {name}: {step.path}")
    elif mode & may_write:
        yield Finding(what, "problem", f"{found}: others may write it", f"chmod {step.mode:04o} {step.path}")
    elif lacks:
        advice = f"chmod {step.mode:04o} {step.path}"
        yield Finding(what, "problem", f"{found}: lacks {lacks:04o} of {step.mode:04o}", advice)
    elif not machine.knows_owner(step):
        yield Finding(what, "unchecked", f"{found}; owner not checked: to be {name}'s when the image boots")
    else:
        yield Finding(what, "ok", found)
    if isinstance(step, File):
        yield from _content(machine, step)


def _content(machine: Machine, step: File) -> Iterator[Finding]:
    path = machine.path(step.path)
    if step.path == CONFIG:
        yield _configuration(path)
    elif step.path == FRAGMENT:
        yield _fragment(machine, _text(path))
    elif not step.site and _text(path) != step.text:
        yield Finding(f"file {step.path}", "note", "is not what this release brings: edited, or of another", AGAIN)
    if step.path == SETTINGS or path.suffix == ".sh":
        yield _shell(path, step)


def _configuration(path: Path) -> Finding:
    try:
        config = configuration.load(path)
    except ConfigError as err:
        return Finding("configuration", "problem", str(err), f"edit {path}")
    return Finding("configuration", "ok", f"loads; cluster {config.cluster}")


def _shell(path: Path, step: File) -> Finding:
    """A hook ends well whatever happens, so that a syntax error shows nowhere but here."""
    done = subprocess.run(["sh", "-n", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["sh -n failed"])[-1]
        return Finding(f"shell {step.path}", "problem", said, f"edit {step.path}" if step.site else AGAIN)
    return Finding(f"shell {step.path}", "ok", "parses")


def _fragment(machine: Machine, text: str) -> Finding:
    """The lines that slurm.conf is to take over: whole, each once, enough, and about hooks that are here."""
    what, advice = f"lines {FRAGMENT}", f"remove it, then {AGAIN}"
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        if not re.fullmatch(r"[A-Z][A-Za-z]+=\S+", line):
            return Finding(what, "problem", f"{line!r} is no KEY=VALUE of slurm.conf", advice)
    said = slurmconf.parse(text)
    twice = [key for key, values in said.items() if len(values) > 1]
    short = [line.key for line in slurmconf.lacking(said) if line.key in said]
    if twice or short:
        why = f"{twice[0]} stands twice" if twice else f"{short[0]} does not hold what is wanted"
        return Finding(what, "problem", why, advice)
    for key in ("Prolog", "Epilog"):
        for hook in said.get(key, []):
            if not os.access(machine.path(hook), os.X_OK):
                return Finding(what, "problem", f"{key}={hook}: no program that can be run lies there", AGAIN)
    return Finding(what, "ok", f"{len(lines)} line(s) of {', '.join(said)}" if lines else "slurm.conf lacked nothing")


# ---- hooks, program ------------------------------------------------------------------------------------------------


def _hooks_settings(machine: Machine) -> Iterator[Finding]:
    """The hooks must leave their files where the daemon looks for them."""
    hooks_dir = _settings(machine).get("HPCCARBON_RUN_DIR", "/run/hpccarbon")
    try:
        config: Config = configuration.load(machine.path(CONFIG))
    except ConfigError:
        return  # said already
    run_dir = config.paths.run_dir
    if hooks_dir != run_dir:
        advice = f"set HPCCARBON_RUN_DIR={run_dir} in {SETTINGS}: the daemon never sees the hooks' files else"
        yield Finding("hooks", "problem", f"write to {hooks_dir}, the daemon reads {run_dir}", advice)
    else:
        yield Finding("hooks", "ok", f"write where the daemon reads: {run_dir}")


def _slurm(present: dict[str, list[str]]) -> Iterator[Finding]:
    """Whether Slurm runs the hooks. Never a problem: the lines are taken over by hand, after setup."""
    if not present:
        yield Finding(
            "slurm.conf", "unchecked", "not checked: slurmctld could not be asked", "scontrol show config says why"
        )
        return
    lacking = slurmconf.lacking(present)
    if lacking:
        found = f"lacks {', '.join(line.key for line in lacking)}"
        yield Finding("slurm.conf", "note", found, f"take {FRAGMENT} into it, then scontrol reconfigure")
    else:
        yield Finding("slurm.conf", "ok", "has everything, the hooks among it")


def _program(machine: Machine) -> Iterator[Finding]:
    """What services and hooks start is there, runs, and is of this release."""
    program = program_of(machine)
    if not program:
        return
    what = f"program {program}"
    path = machine.path(program)
    if machine.is_image:
        # An absolute link leads out of the image: that it is there must do.
        there = path.is_symlink() or os.access(path, os.X_OK)
        advice = "install it into the image: docs/install.md"
        yield Finding(what, "ok", "there") if there else Finding(what, "note", "not in the image yet", advice)
        return
    advice = "install again (docs/install.md), or setup --apply by the program that is to run"
    said = _said(program, "--version", path=_HOOKS_PATH)
    if not said.startswith("hpccarbon "):
        yield Finding(what, "problem", f"does not run: {said}", advice)
    elif said.split()[-1] != __version__:
        yield Finding(what, "note", f"is version {said.split()[-1]}, and this is {__version__}", advice)
    else:
        yield Finding(what, "ok", f"runs, version {__version__}")


def _settings(machine: Machine) -> dict[str, str]:
    """What hooks.env sets. It is shell: what is more than an assignment is not seen."""
    return {found[1]: found[3] for found in _SAYS.finditer(_text(machine.path(SETTINGS)))}


def _text(path: Path) -> str:
    """The text; of a file that is missing or closed, none: that was said where its owner and mode are."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _said(*argv: str, path: str = "") -> str:
    """The last line a program says, or why it says nothing. With `path` in the environment that a prolog gives it."""
    environment = {"PATH": path} if path else None
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=environment)
    except OSError as err:
        return str(err.strerror)
    except subprocess.TimeoutExpired:
        return "no answer in a minute"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"
