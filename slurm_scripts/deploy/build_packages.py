#!/usr/bin/env python3
"""Makes a .deb and a .rpm of the single-file node build. Uses dpkg-deb and rpmbuild; installs nothing.

    build_packages.py NODE_BUILD OUTPUT_DIRECTORY [RELEASE]      RELEASE: 1, or higher where one version is packed anew

Debian's and Red Hat's own tools, because both are kept by those who read the packages. The packages bring the program,
its hooks, unit, account and directories, manual pages and completions; what only the site knows comes from
`hpccarbon setup`. Run by a Python that can import click and msgspec, in a checkout: the pages are made by docs/man.py.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
CHECKOUT = SCRIPTS.parent
PROGRAM = "usr/bin/hpccarbon"
UNITS = "usr/lib/systemd/system"
HOOKS = "usr/lib/hpccarbon/slurm_scripts"
SUMMARY = "Energy and carbon of jobs on Slurm clusters: the part for compute nodes"
TEXT = """A daemon measures energy (RAPL, NVML, BMC), divides it among the jobs by their
cgroups and writes Parquet shards. Reports are made by the Python package."""
PAGES = ("", "-completion", "-daemon", "-doctor", "-now", "-run", "-setup", "-status")
"""Manual pages: of the program, and of the commands that work without the Python package."""
DOCUMENTS = "usr/share/doc/hpccarbon-node"
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/hpccarbon",
    "zsh": "usr/share/zsh/site-functions/_hpccarbon",
    "fish": "usr/share/fish/vendor_completions.d/hpccarbon.fish",
}
DEBIAN_ZSH = "usr/share/zsh/vendor-completions/_hpccarbon"
"""Where Debian's zsh looks; /usr/share/zsh/site-functions is not among it."""
# Account and directories need no systemd that runs: in a chroot or an image they are made, too, even without /dev/null.
# Without /proc systemd-tmpfiles refuses; the first boot makes up for it. DPKG_ROOT: dpkg --root.
AFTER_INSTALL = """\
for maker in systemd-sysusers "systemd-tmpfiles --create"; do
	[ -n "$(command -v "${maker%% *}")" ] || continue
	$maker ${DPKG_ROOT:+"--root=$DPKG_ROOT"} hpccarbon.conf || echo "hpccarbon-node: $maker failed" >&2
done
if [ -d /run/systemd/system ] && [ -z "${DPKG_ROOT:-}" ]; then
	systemctl daemon-reload || :
	systemctl try-restart hpccarbon.service || :
fi
"""
BEFORE_REMOVAL = """\
if [ -d /run/systemd/system ] && [ -z "${DPKG_ROOT:-}" ]; then
	systemctl disable --now hpccarbon.service || :
fi
"""
AFTER_REMOVAL = """\
if [ -d /run/systemd/system ] && [ -z "${DPKG_ROOT:-}" ]; then
	systemctl daemon-reload || :
fi
"""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main() -> None:
    """Both packages, of the version that the build says it is."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    for tool, package in (("dpkg-deb", "dpkg"), ("rpmbuild", "rpm (Debian) or rpm-build (Red Hat)")):
        if shutil.which(tool) is None:
            sys.exit(f"error: no {tool} here; install {package}")
    build, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    release = int(sys.argv[3]) if len(sys.argv) == 4 else 1
    version = subprocess.run([str(build), "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    python = re.search(r"python(3\.\d+)", build.open("rb").readline().decode())
    if python is None:
        sys.exit(f"error: {build}: its first line names no python3.N; build it with the nodes' own Python")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        fill(tree, build)
        print(deb(tree, Path(scratch), output, version if release == 1 else f"{version}-{release}", python[1]))
        print(rpm(tree, Path(scratch), output, version, release, python[1]))


def fill(tree: Path, build: Path) -> None:
    """The files as they lie on a node."""
    place(build, tree / PROGRAM, 0o755)
    for name in ("prolog.sh", "epilog.sh", "task_prolog.sh"):
        place(SCRIPTS / name, tree / HOOKS / name, 0o755)
    for name in ("README.md", "hooks.env.example", "hpccarbon.toml.example", "slurm.conf.example"):
        place(SCRIPTS / name, tree / HOOKS / name, 0o644)
    unit = (SCRIPTS / "systemd" / "hpccarbon.service").read_text(encoding="utf-8")
    target = tree / UNITS / "hpccarbon.service"
    write(target, unit.replace("/opt/hpccarbon/bin/hpccarbon", f"/{PROGRAM}").encode())
    for name in ("sysusers", "tmpfiles"):
        place(SCRIPTS / "systemd" / f"hpccarbon.{name}", tree / f"usr/lib/{name}.d/hpccarbon.conf", 0o644)
    for name in ("LICENSE", "NOTICE"):
        place(CHECKOUT / name, tree / DOCUMENTS / name, 0o644)
    read(tree, build)


def read(tree: Path, build: Path) -> None:
    """Manual pages and completions: made by the code that they tell of."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, str(CHECKOUT / "docs" / "man.py"), scratch]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        for name in PAGES:
            page = Path(scratch, f"hpccarbon{name}.1").read_bytes()
            write(tree / f"usr/share/man/man1/hpccarbon{name}.1.gz", gzip.compress(page, mtime=0))
    for shell, place_of in COMPLETIONS.items():
        done = subprocess.run([str(build), "completion", shell], check=True, capture_output=True)
        write(tree / place_of, done.stdout)


def write(target: Path, content: bytes) -> None:
    """A file that everyone may read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(0o644)


def place(source: Path, target: Path, mode: int) -> None:
    """Copy one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def deb(tree: Path, scratch: Path, output: Path, version: str, python: str) -> Path:
    """The package for Debian and its kin."""
    root = scratch / "deb"
    shutil.copytree(tree, root)
    (root / DEBIAN_ZSH).parent.mkdir(parents=True)
    (root / COMPLETIONS["zsh"]).rename(root / DEBIAN_ZSH)
    (root / COMPLETIONS["zsh"]).parent.rmdir()
    (root / DOCUMENTS / "LICENSE").rename(root / DOCUMENTS / "copyright")  # as Debian's policy calls it
    control = root / "DEBIAN"
    control.mkdir()
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    size_kib = sum(file.stat().st_size for file in tree.rglob("*") if file.is_file()) // 1024
    description = "".join(f" {line}\n" for line in TEXT.splitlines())
    (control / "control").write_text(
        f"Package: hpccarbon-node\nVersion: {version}\nArchitecture: {architecture}\nSection: admin\n"
        f"Priority: optional\nMaintainer: the administrators of this site <root@localhost>\n"
        f"Installed-Size: {size_kib}\nDepends: python{python}\nDescription: {SUMMARY}\n{description}",
        encoding="utf-8",
    )
    # prerm runs before an upgrade, too, which must not end the service for good.
    removal = f'if [ "$1" = remove ]; then\n{BEFORE_REMOVAL}fi\n'
    for name, text in (("postinst", AFTER_INSTALL), ("prerm", removal), ("postrm", AFTER_REMOVAL)):
        script = control / name
        script.write_text(f"#!/bin/sh\nset -e\n{text}", encoding="utf-8")
        script.chmod(0o755)
    result = output / f"hpccarbon-node_{version}_{architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(result)], check=True, capture_output=True
    )
    return result


def rpm(tree: Path, scratch: Path, output: Path, version: str, release: int, python: str) -> Path:
    """The package for Red Hat and its kin."""
    files = sorted(f"/{file.relative_to(tree)}" for file in tree.rglob("*") if file.is_file())
    # Directories of its own, which rpm leaves behind unless they are named.
    files += [f"%dir /{place}" for place in (os.path.dirname(HOOKS), HOOKS, DOCUMENTS)]
    spec = scratch / "hpccarbon-node.spec"
    spec.write_text(
        f"""\
Name: hpccarbon-node
Version: {version}
Release: {release}
Summary: {SUMMARY}
License: Apache-2.0
Requires: /usr/bin/python{python}
AutoReqProv: no
# The program is an archive with a first line of text: nothing may strip or rewrite it.
%global __os_install_post %{{nil}}
%global debug_package %{{nil}}
# It is compressed already.
%define _binary_payload w0.gzdio

%description
{TEXT}

%install
cp -a {tree}/. %{{buildroot}}

%post
{AFTER_INSTALL.replace("%", "%%")}
%preun
# 0: the last one goes; an update keeps the service running.
if [ "$1" -eq 0 ]; then
{BEFORE_REMOVAL}fi

%postun
{AFTER_REMOVAL}
%files
{chr(10).join(files)}
""",
        encoding="utf-8",
    )
    made = scratch / "rpm"
    options = [f"--define=_topdir {made}", f"--define=_rpmdir {made}"]
    done = subprocess.run(
        ["rpmbuild", "--quiet", "-bb", *options, str(spec)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: rpmbuild: {done.stderr.strip()}")
    (package,) = made.rglob("*.rpm")
    return Path(shutil.move(package, output / package.name))


if __name__ == "__main__":
    main()
