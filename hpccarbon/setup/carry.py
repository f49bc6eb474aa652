"""Carries steps out on a machine, remembers each in a journal, takes them back. Decides nothing about their content.

The journal (`/etc/hpccarbon/setup.json`) is written before each step, so that a run that was cut short can be undone.
What an administrator changed since is never removed: `undo` names it and leaves it.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hpccarbon.errors import HpcCarbonError
from hpccarbon.setup.plan import CONFIG_DIR, UNIT_DIR, Directory, File, Step, Unit, User

State = Literal["new", "same", "changed", "kept", "later"]
"""of a step: to be done; done; content, owner or mode differ; they do, and are the site's own; not possible here."""


class Entry(msgspec.Struct):
    """One thing that was done: `digest` of what was written, `before` what stood there (None: nothing).

    Of `rights` (a directory that was there and was mended) `before` is the owner, as UID:GID, and `mode` the mode.
    """

    kind: str
    what: str
    digest: str = ""
    before: str | None = None
    mode: int = 0


class Machine:
    """The machine, or the image of one below `prefix` (then no account is made and no service is started).

    Args:
        prefix: `/`, or the root of an image.
        journal: where it is kept [/etc/hpccarbon/setup.json below `prefix`].
    """

    def __init__(self, prefix: Path = Path("/"), journal: Path | None = None) -> None:
        self.prefix = prefix
        self.is_image = prefix != Path("/")
        self._journal = journal or self.path(f"{CONFIG_DIR}/setup.json")

    def path(self, absolute: str) -> Path:
        """Where a path of the plan lies on this machine."""
        return self.prefix / absolute.lstrip("/")

    # ---- looking ------------------------------------------------------------------------------------------------

    def state(self, step: Step) -> State:
        """How the machine stands to a step."""
        if isinstance(step, User):
            if self.is_image:
                return "later"
            return "same" if account_ids(step.name) is not None else "new"
        if isinstance(step, Unit):
            if not self.has_systemd:
                return "later"
            return "same" if self.path(f"{UNIT_DIR}/multi-user.target.wants/{step.name}").is_symlink() else "new"
        path = self.path(step.path)
        if not (path.is_dir() if isinstance(step, Directory) else path.exists()):
            return "new"
        same = path.stat().st_mode & 0o7777 == step.mode and path.stat().st_uid == self.owner(step, path)
        if same and isinstance(step, File):
            same = path.read_bytes() == step.text.encode()
        return "same" if same else "kept" if step.site else "changed"

    @property
    def has_systemd(self) -> bool:
        """Whether units can be enabled: in an image by links alone, here only where systemd runs (sd_booted(3))."""
        return shutil.which("systemctl") is not None and (self.is_image or Path("/run/systemd/system").is_dir())

    def owner(self, step: Directory | File, path: Path) -> int | None:
        """The uid that what a step makes should have; None: there is no such account.

        Where that cannot be said (`knows_owner`) whoever has it is right.
        """
        if not self.knows_owner(step):
            return path.stat().st_uid
        name = owner_of(step)
        if not name:
            return 0
        account = account_ids(name)
        return account[0] if account else None

    def knows_owner(self, step: Directory | File) -> bool:
        """Whether owners mean anything here: an image's accounts are made later, and who makes it need not be root."""
        return not self.is_image or (not owner_of(step) and os.geteuid() == 0)

    def difference(self, step: File) -> str:
        """What writing the file would change, as a unified diff."""
        path = self.path(step.path)
        old = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return "\n".join(
            difflib.unified_diff(old, step.text.splitlines(), step.path, f"{step.path} (new)", "", "", 1, "")
        )

    def noted(self) -> set[str]:
        """Everything that the journal says was made here."""
        return {entry.what for entry in self._read_journal()}

    # ---- doing --------------------------------------------------------------------------------------------------

    def apply(self, todo: Sequence[Step]) -> list[tuple[Step, State]]:
        """Carry out what is not done yet.

        Returns: each step with the state it was found in.
        Raises: HpcCarbonError naming the step that failed; what was done before it stays, and can be undone.
        """
        found: list[tuple[Step, State]] = []
        for step in todo:
            state = self._state_after(step, found)
            found.append((step, state))
            if state in ("new", "changed"):
                try:
                    self._do(step)
                except OSError as err:
                    raise HpcCarbonError(
                        f"cannot make {err.filename}: {err.strerror} (run as root; --undo takes the rest back)"
                    ) from err
        return found

    def look(self, todo: Sequence[Step]) -> list[tuple[Step, State]]:
        """Each step with its state; nothing is done."""
        found: list[tuple[Step, State]] = []
        for step in todo:
            found.append((step, self._state_after(step, found)))
        return found

    def _state_after(self, step: Step, before: Sequence[tuple[Step, State]]) -> State:
        """As `state`; but a service that runs by a unit file that is replaced is to begin anew."""
        state = self.state(step)
        if isinstance(step, Unit) and state == "same" and not self.is_image:
            path = f"{UNIT_DIR}/{step.name}"
            if any(isinstance(one, File) and one.path == path and was in ("new", "changed") for one, was in before):
                return "changed"
        return state

    def _do(self, step: Step) -> None:
        if isinstance(step, User):
            self._note(Entry("user", step.name))
            _command(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", step.name])
        elif isinstance(step, Unit):
            self._systemctl("daemon-reload")
            if self.state(step) == "same":  # enabled already: as it is, but by the new file
                _command(["systemctl", "try-restart", step.name])
                return
            self._note(Entry("unit", step.name))
            self._systemctl("enable", step.name)
        elif isinstance(step, Directory):
            self._make_directory(step)
        else:
            self._write(step)

    def _make_directory(self, step: Directory) -> None:
        path = self.path(step.path)
        if path.is_dir():
            was = path.stat()
            if not any((one.kind, one.what) == ("directory", step.path) for one in self._read_journal()):  # else undone
                before = f"{was.st_uid}:{was.st_gid}"
                self._note(Entry("rights", step.path, before=before, mode=was.st_mode & 0o7777))
            if was.st_uid != self.owner(step, path):
                os.chown(path, 0, 0)  # those of accounts are the site's once they are there
            path.chmod(step.mode)
            return
        path.mkdir(parents=True)
        path.chmod(step.mode)
        owner = account_ids(step.owner) if step.owner and not self.is_image else None
        if owner is not None:
            os.chown(path, *owner)
        self._note(Entry("directory", step.path))

    def _write(self, step: File) -> None:
        path = self.path(step.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.exists() else None
        mode = path.stat().st_mode & 0o777 if before is not None else 0
        self._note(Entry("file", step.path, _digest(step.text), before, mode))
        _replace(path, step.text, step.mode)

    def _systemctl(self, verb: str, *units: str) -> None:
        """In an image a unit is enabled by its link alone; here it also starts or stops."""
        if self.is_image:
            if units:
                _command(["systemctl", f"--root={self.prefix}", verb, *units])
        else:
            _command(["systemctl", verb, *(["--now"] if units else []), *units])

    # ---- taking back --------------------------------------------------------------------------------------------

    def undo(self) -> list[tuple[Entry, bool]]:
        """Take everything back that the journal names, last first.

        Returns: each entry, and whether it was taken back: a file that was edited since, a directory that is not empty
            and every account stay (files of its may lie anywhere).
        Raises: HpcCarbonError, if there is no journal or it cannot be read, or naming what cannot be taken back; what
            comes after it in the journal stays there.
        """
        journal = self._read_journal()
        if not journal:
            raise HpcCarbonError(f"{self._journal}: nothing was set up here (no journal), so there is nothing to undo")
        units = any(entry.kind == "unit" for entry in journal)
        done: list[tuple[Entry, bool]] = []
        while journal:
            entry = journal[-1]
            if entry.kind == "directory" and self.path(entry.what) == self._journal.parent:
                self._journal.unlink()
            try:
                done.append((entry, self._take_back(entry)))
            except OSError as err:
                raise HpcCarbonError(
                    f"cannot take back {entry.what}: {err.strerror} (mend that, then --undo again)"
                ) from err
            journal.pop()  # what was done is forgotten at once: the rest can be tried again
            if self._journal.exists():
                self._keep(journal)
        self._journal.unlink(missing_ok=True)
        if units:
            self._systemctl("daemon-reload")
        return done

    def _take_back(self, entry: Entry) -> bool:
        if entry.kind == "user":
            return False
        if entry.kind == "unit":
            with contextlib.suppress(HpcCarbonError):  # it may be gone
                self._systemctl("disable", entry.what)
            return True
        path = self.path(entry.what)
        if entry.kind == "rights":
            if path.exists():
                os.chown(path, *map(int, (entry.before or "").split(":")))
                path.chmod(entry.mode)
            return True
        if entry.kind == "directory":
            try:
                path.rmdir()
            except FileNotFoundError:
                return True
            except OSError:
                return False
            return True
        if not path.exists():
            return True
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry.digest:
            return False
        if entry.before is None:
            path.unlink()
        else:
            _replace(path, entry.before, entry.mode)
        return True

    def _read_journal(self) -> list[Entry]:
        try:
            return msgspec.json.decode(self._journal.read_bytes(), type=list[Entry])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as err:
            raise HpcCarbonError(f"cannot read {self._journal}: {err} (remove by hand: docs/install.md)") from err

    def _note(self, entry: Entry) -> None:
        """Add to the journal. What was noted first for a path stands: it knows what was there before hpccarbon came."""
        journal = self._read_journal()
        first = next((old for old in journal if (old.kind, old.what) == (entry.kind, entry.what)), None)
        if first is None:
            journal.append(entry)
        else:
            first.digest = entry.digest
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        self._keep(journal)

    def _keep(self, journal: list[Entry]) -> None:
        _replace(self._journal, msgspec.json.format(msgspec.json.encode(journal)).decode() + "\n", 0o600)


def _replace(path: Path, text: str, mode: int) -> None:
    """Write beside and rename over: a hook that Slurm is running now stays whole."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    beside.rename(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def owner_of(step: Directory | File) -> str:
    """The name of the account that owns what the step makes; empty: root."""
    return step.owner if isinstance(step, Directory) else ""


def account_ids(name: str) -> tuple[int, int] | None:
    """(uid, gid) of an account; None, if there is none of that name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


def _command(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise HpcCarbonError(f"{argv[0]}: {err} (do it by hand: {' '.join(argv)})") from err
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise HpcCarbonError(f"{argv[0]}: {said[-1]} (do it by hand: {' '.join(argv)})")
