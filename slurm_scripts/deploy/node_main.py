"""The door of the single-file node build: finds what it needs inside that file and runs one module of hpccarbon.

Python modules are loaded from the archive itself. Machine code cannot be: it is put on node-local disk once per boot
and build, in a directory that only its owner can write. Every import here is a file that each start on each node opens,
so there are few: no pathlib.
"""

import os
import stat
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder

from hpccarbon_built import BUILD, BUILT_WITH, EXTENSIONS, PACKAGES

ARCHIVE = __loader__.archive  # zipimport's
SMALL = "natives/small/"  # msgspec._core.so
LARGE = "natives/large/"  # pyarrow/...


class Natives:
    """Finds machine code: the daemon's own is unpacked at its first start, pyarrow when it is first imported."""

    def find_spec(self, name, path=None, target=None):
        """As importlib asks for it (PEP 451)."""
        if name in EXTENSIONS:
            file = os.path.join(unpacked(SMALL), name + ".so")
            spec = ModuleSpec(name, ExtensionFileLoader(name, file), origin=file)
            spec.has_location = True
            return spec
        if name in PACKAGES:
            return PathFinder.find_spec(name, [unpacked(LARGE)])
        return None


def unpacked(part):
    """The directory with a part of the archive, made whole before it gets its name: two starts at once do no harm."""
    directory = home()
    target = os.path.join(directory, BUILD + "-" + os.path.basename(part.rstrip("/")))
    if not os.path.isdir(target):
        import shutil

        for name in os.listdir(directory):
            if is_left_over(name):  # it would stay in memory until the next boot
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        beside = f"{target}.{os.getpid()}"
        extract(part, beside)
        try:
            os.rename(beside, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            shutil.rmtree(beside, ignore_errors=True)
    return target


def is_left_over(name):
    """Whether a directory is another build's, or of a start that was killed before it was whole."""
    _, _, pid = name.partition(".")
    return not os.path.isdir(f"/proc/{pid}") if pid else not name.startswith(BUILD)


def extract(part, where):
    """Write a part of the archive."""
    import zipfile

    with zipfile.ZipFile(ARCHIVE) as archive:
        for info in archive.infolist():
            if info.filename.startswith(part) and not info.is_dir():
                file = os.path.join(where, info.filename[len(part) :])
                os.makedirs(os.path.dirname(file), mode=0o755, exist_ok=True)
                with archive.open(info) as source, open(file, "wb") as out:
                    while chunk := source.read(1 << 20):
                        out.write(chunk)
                    out.flush()
                    os.fsync(out.fileno())  # a directory on disk is found again after a power cut: it must be whole


def home():
    """Node-local and nobody else's: in /run for root, the user's runtime directory or /tmp otherwise.

    Where that is mounted noexec (Debian's /run is), machine code cannot be loaded from it: on disk then.
    """
    given = os.environ.get("HPCCARBON_UNPACK_DIR")
    base, disk = os.environ.get("XDG_RUNTIME_DIR") or "/tmp", "/var/tmp"
    if os.geteuid() == 0:
        base, disk = "/run", "/var/cache"
    if not given and (not os.path.isdir(base) or os.statvfs(base).f_flag & os.ST_NOEXEC):
        base = disk
    where = given or os.path.join(base, f"hpccarbon-build-{os.geteuid()}")
    os.makedirs(where, mode=0o755, exist_ok=True)
    found = os.lstat(where)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        sys.exit(f"error: {where} belongs to another user or others may write it; set HPCCARBON_UNPACK_DIR")
    return where


def main():
    """Run `-m MODULE ARGS`, else the command line."""
    built, here = (".".join(version.split(".")[:2]) for version in (BUILT_WITH, sys.version))
    if built != here:
        sys.exit(f"error: this build is for Python {built}, and this is {here}: build one with it (make node)")
    if sys.version == BUILT_WITH:
        # The same Python to the letter: its pure modules come from the archive too, and no directory is searched.
        sys.path.insert(1, os.path.join(ARCHIVE, "stdlib"))
    sys.meta_path.insert(0, Natives())
    if len(sys.argv) > 2 and sys.argv[1] == "-m":
        import runpy

        del sys.argv[1]
        runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
        return
    from hpccarbon.cli import main as command

    command()


main()
