"""Answers about a site become a list of steps. Looks at no machine and changes nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from hpccarbon.errors import HpcCarbonError
from hpccarbon.setup.slurmconf import Line, fragment

if TYPE_CHECKING:
    from importlib.abc import Traversable

CONFIG_DIR = "/etc/hpccarbon"
UNIT_DIR = "/etc/systemd/system"
SYSUSERS = "/etc/sysusers.d/hpccarbon.conf"
HOOKS = ("prolog.sh", "epilog.sh")
FRAGMENT = f"{CONFIG_DIR}/slurm.conf.lines"


Role = Literal["node", "head", "both"]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What only the site knows. `role`: a node runs the daemon, the head the aggregator; a cluster of one, both."""

    role: Role
    cluster: str
    shared_dir: str
    zone: str = ""
    pue: float = 0.0
    user: str = "hpccarbon"
    executable: str = "/opt/hpccarbon/bin/hpccarbon"
    systemd: bool = True

    @property
    def is_node(self) -> bool:
        """Whether jobs run here."""
        return self.role != "head"

    @property
    def is_head(self) -> bool:
        """Whether the ledger is made here."""
        return self.role != "node"


class User(msgspec.Struct, frozen=True, tag="user"):
    """A system account without a home or a shell."""

    name: str
    why: str


class Directory(msgspec.Struct, frozen=True, tag="directory"):
    """A directory; `owner` is a user's name, empty for root. `site`: one that is there keeps its mode and its owner."""

    path: str
    mode: int
    why: str
    owner: str = ""
    site: bool = False


class File(msgspec.Struct, frozen=True, tag="file"):
    """A file of root's. `site` files are the administrator's to edit: one that is there is never overwritten."""

    path: str
    text: str
    mode: int
    why: str
    site: bool = False


class Unit(msgspec.Struct, frozen=True, tag="unit"):
    """A systemd unit that starts now and at each boot."""

    name: str
    why: str


Step = User | Directory | File | Unit


def steps(site: Site, scripts: Traversable, lines: list[Line]) -> list[Step]:
    """Everything to be done on this machine, in order.

    Args:
        scripts: where the package's `slurm_scripts` lie.
        lines: what slurm.conf lacks (`slurmconf.lacking`).

    Raises: HpcCarbonError, if a packaged file is not what this version expects.
    """
    todo: list[Step] = [
        Directory(CONFIG_DIR, 0o755, "configuration, hooks and the journal of this setup"),
        User(site.user, "writes to the shared directory: shared file systems squash root"),
        Directory(
            site.shared_dir, 0o750, "shards, ledger, job records, intensities; one place for all nodes", site.user, True
        ),
        File(f"{CONFIG_DIR}/hpccarbon.toml", _config(site, scripts), 0o644, "the site's one configuration", site=True),
    ]
    if site.is_node:
        for hook in HOOKS:
            todo.append(File(f"{CONFIG_DIR}/{hook}", _text(scripts / hook), 0o755, "Slurm runs it as root at each job"))
        todo += [
            File(f"{CONFIG_DIR}/hooks.env", _hooks_env(site, scripts), 0o644, "settings of the hooks", site=True),
            File(FRAGMENT, fragment(lines), 0o644, "what slurm.conf lacks: yours to take over"),
        ]
    names = [name for name, wanted in (("hpccarbon", site.is_node), ("hpccarbon-aggregate", site.is_head)) if wanted]
    if site.systemd:
        todo.append(
            File(SYSUSERS, f'u {site.user} - "hpccarbon"\n', 0o644, "the account, on machines that boot an image")
        )
        todo += [File(f"{UNIT_DIR}/{name}.service", _unit(site, scripts, name), 0o644, "the service") for name in names]
        todo += [Unit(f"{name}.service", "starts now and at each boot") for name in names]
    return todo


def _config(site: Site, scripts: Traversable) -> str:
    text = _text(scripts / "hpccarbon.toml.example")
    text = _set(text, "cluster", f'"{site.cluster}"')
    text = _set(text, "shared_dir", f'"{site.shared_dir}"')
    text = _set(text, "seal_user", f'"{site.user}"')
    text = _set(text, "zone", f'"{site.zone}"')
    text = _set(text, "pue", f"{site.pue:g}")
    return _set(text, "timezone", '"UTC"')


def _hooks_env(site: Site, scripts: Traversable) -> str:
    text = _text(scripts / "hooks.env.example")
    if not site.systemd:
        text = _set(text, "HPCCARBON_START", "yes")
    return _set(text, "HPCCARBON_BIN", site.executable)


def _set(text: str, key: str, value: str) -> str:
    """The example with the first `key = ...` set; its comment stays."""
    pattern = re.compile(rf"^({key}\s*=\s*)(\"[^\"]*\"|[^\s#]+)", re.MULTILINE)
    changed, count = pattern.subn(lambda found: found[1] + value, text, count=1)
    if not count:
        raise HpcCarbonError(f"the packaged example has no line `{key} =`: it is not of this version; install again")
    return changed


def _unit(site: Site, scripts: Traversable, name: str) -> str:
    text = _text(scripts.joinpath("systemd").joinpath(f"{name}.service"))
    text = text.replace("/opt/hpccarbon/bin/hpccarbon", site.executable).replace("/shared/hpccarbon", site.shared_dir)
    return re.sub(r"^User=hpccarbon$", f"User={site.user}", text, flags=re.MULTILINE)


def _text(path: Traversable) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise HpcCarbonError(f"cannot read {path}: {err.strerror} (the package is not whole; install again)") from err
