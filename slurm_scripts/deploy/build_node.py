#!/usr/bin/env python3
"""Builds one file that runs on a compute node: daemon, seal, doctor, status, setup, run. Needs pip; changes no machine.

    build_node.py CHECKOUT OUTPUT        with the Python that the nodes have (same minor version, same CPU)

Ten thousand nodes that import from a shared file system ask its metadata server for some hundred files each. This
file is one: the modules are read from it as a zip archive, machine code is unpacked to node-local disk once per boot
(`node_main.py` says where), and reports, which need pandas and DuckDB, stay out. What goes in is what the node's
modules load, found by loading them.
"""

from __future__ import annotations

import compileall
import hashlib
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEEDS = ("click", "msgspec", "nvidia-ml-py", "pyarrow", "tomli")
"""Of the package's dependencies those that a node loads; their bounds stand in pyproject.toml."""
MODULES = ("hpccarbon.node.daemon", "hpccarbon.node.seal", "hpccarbon.node.doctor", "hpccarbon.node.once")
LARGE = ("pyarrow",)
LOADED = """
import sys, tempfile, pathlib
sys.path.insert(0, sys.argv[1])
import hpccarbon.cli, hpccarbon.cli.daemon, hpccarbon.cli.doctor, hpccarbon.cli.setup, pynvml, logging, subprocess
import {modules}
hpccarbon.config.parse('cluster = "a"')
from hpccarbon.node import seal
with tempfile.TemporaryDirectory() as scratch:
    root = pathlib.Path(scratch)
    seal.write_shard(seal.shard_table([], [], {{}}), root / "x" / "y.parquet", root)
files = {{str(getattr(module, "__file__", None)) for name, module in list(sys.modules.items())}}
files |= {{line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}}
print(*sorted(files), sep="\\n")
"""


def main() -> None:
    """Build, and say what was built."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    checkout, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        install(checkout, tree)
        files = loaded(tree)
        stage = Path(scratch) / "stage"
        pure(tree, files, stage)
        natives(tree, files, stage)
        door(stage)
        write(stage, output)
    size_mb = output.stat().st_size / 1e6
    print(f"{output}: {size_mb:.1f} MB, for Python {sys.version.split()[0]} on {sysconfig.get_platform()}")


def install(checkout: Path, tree: Path) -> None:
    """The package and what a node needs of its dependencies, into `tree`."""
    wanted = requirements(checkout / "pyproject.toml")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(tree)]
    subprocess.run([*pip, "--no-deps", str(checkout)], check=True)
    subprocess.run([*pip, "--only-binary", ":all:", *wanted], check=True)


def requirements(pyproject: Path) -> list[str]:
    """The lines of pyproject.toml that name one of `NEEDS`, as they stand there: dependencies come before scripts."""
    found = []
    for line in pyproject.read_text(encoding="utf-8").partition("[project.scripts]")[0].splitlines():
        text = line.strip().split("#")[0].strip().removeprefix("nvml = [").rstrip(",]").strip('"')
        if text.startswith(NEEDS) and text not in found:
            found.append(text)
    missing = [name for name in NEEDS if not any(text.startswith(name) for text in found)]
    if missing:
        sys.exit(f"error: {pyproject} does not name {', '.join(missing)}")
    return found


def loaded(tree: Path) -> set[Path]:
    """Every file that the node's programs load, from the tree or the standard library."""
    code = LOADED.format(modules=", ".join(MODULES))
    done = subprocess.run([sys.executable, "-I", "-c", code, str(tree)], check=True, capture_output=True, text=True)
    return {Path(line) for line in done.stdout.splitlines() if line.startswith("/")}


def pure(tree: Path, files: set[Path], stage: Path) -> None:
    """Python modules: all of hpccarbon, click, msgspec and pynvml, and of the standard library what is loaded."""
    for name in ("hpccarbon", "click", "msgspec", "pynvml.py", "tomli"):
        source = tree / name
        if source.is_dir():
            shutil.copytree(source, stage / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyi"))
        elif source.exists():
            shutil.copy2(source, stage / name)
    library = Path(sysconfig.get_path("stdlib"))
    for file in files:
        if file.suffix == ".py" and file.is_relative_to(library) and "-packages" not in str(file):
            target = stage / "stdlib" / file.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
    # A zip archive's modules have their byte code beside them, not in __pycache__.
    compileall.compile_dir(stage, quiet=1, legacy=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def natives(tree: Path, files: set[Path], stage: Path) -> None:
    """Machine code, and the packages that are nothing without it."""
    for file in tree.glob("msgspec/*.so"):
        target = stage / "natives" / "small" / f"msgspec.{file.name.split('.')[0]}.so"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    for name in LARGE:
        for file in (tree / name).rglob("*"):
            relative = file.relative_to(tree)
            if file in files or (file.suffix == ".py" and "tests" not in relative.parts):
                target = stage / "natives" / "large" / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)


def door(stage: Path) -> None:
    """`__main__.py`, and the module that tells it what it was built with."""
    digest = hashlib.sha256()
    for file in sorted((stage / "natives").rglob("*")):
        if file.is_file():
            digest.update(file.read_bytes())
    extensions = [file.stem for file in sorted((stage / "natives" / "small").iterdir())]
    (stage / "hpccarbon_built.py").write_text(
        f"""\"What this file was built with, and which machine code it carries.\"
BUILT_WITH = {sys.version!r}  # sys.version of the Python it was built with
BUILD = {digest.hexdigest()[:16]!r}  # digest of the machine code
EXTENSIONS = {extensions!r}  # extension modules of the daemon, by full name
PACKAGES = {list(LARGE)!r}  # packages that only the sealing child loads
""",
        encoding="utf-8",
    )
    shutil.copyfile(HERE / "node_main.py", stage / "__main__.py")


def write(stage: Path, output: Path) -> None:
    """The archive, executable, in an order and with times that depend on the content alone."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "wb") as file:
        # -I: nothing of the caller's environment; -S: no site-packages.
        file.write(f"#!{Path(sys.executable).resolve()} -IS\n".encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(stage.rglob("*")):
                if path.is_file():
                    info = zipfile.ZipInfo(str(path.relative_to(stage)))
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, path.read_bytes())
    output.chmod(output.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


if __name__ == "__main__":
    main()
