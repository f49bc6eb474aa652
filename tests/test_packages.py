"""What is handed to a site is whole: the wheel, the one file for nodes, the .deb and the .rpm."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow.parquet as pq
import pytest

from hpccarbon.cli import FOR_EVERYONE, FOR_OPERATORS
from hpccarbon.schema import SHARD

CHECKOUT = Path(__file__).resolve().parent.parent
DEPLOY = CHECKOUT / "slurm_scripts" / "deploy"
CONFIG = """
cluster = "alpha"
[paths]
state_dir = "{dir}/state"
run_dir = "{dir}/run"
shared_dir = "{dir}/shared"
[meters]
enabled = ["rapl", "model"]
"""
OF_THE_NODE = ("/proc/", "/sys/", "/dev/", "/etc/")
"""What any program opens for the system's sake, or the daemon to measure."""
MAY_OPEN = 40


def run(*argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, argv)), env=os.environ | environment, capture_output=True, text=True, check=False, timeout=250
    )


@pytest.fixture(scope="module")
def hatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds what builds the project."""
    where = tmp_path_factory.mktemp("hatch")
    done = run(sys.executable, "-m", "pip", "install", "--quiet", "--target", where, "hatchling")
    assert done.returncode == 0, done.stderr
    return where


def wheel_of(source: Path, where: Path, hatch: Path) -> zipfile.ZipFile:
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--wheel-dir", where, source, PYTHONPATH=str(hatch))
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(where.glob("hpccarbon-*.whl")))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, hatch: Path) -> zipfile.ZipFile:
    return wheel_of(CHECKOUT, tmp_path_factory.mktemp("wheel"), hatch)


RECIPE = DEPLOY / "spack" / "py_hpccarbon" / "package.py"
SPACK = {
    "arrow": ("22.0.0", "compute filesystem parquet python snappy zstd"),
    "duckdb": ("1.3.2", "icu parquet python"),
    "py-click": ("8.2.2", ""),
    "py-cryptography": ("50.0.0", ""),
    "py-dask": ("2025.7.0", "distributed"),
    "py-dask-jobqueue": ("0.9.0", ""),
    "py-hatchling": ("1.28.0", ""),
    "py-jinja2": ("3.1.6", ""),
    "py-msgspec": ("0.20.0", ""),
    "py-numpy": ("2.4.1", ""),
    "py-nvidia-ml-py": ("13.590.48", ""),
    "py-prometheus-client": ("0.22.1", ""),
    "py-psutil": ("7.1.0", ""),
    "py-pyarrow": ("24.0.0", ""),
    "py-rich": ("13.9.4", ""),
    "py-tzdata": ("2025.3", ""),
    "py-vl-convert-python": ("1.9.0", ""),
}
"""Packages of Spack's own repository: the newest version of each, and those of its variants that we ask for.

Source: github.com/spack/spack-packages, repos/spack_repo/builtin, read in November 2026; python, pandas and tomli not.
"""


class Asked(NamedTuple):
    """A `depends_on` of the recipe: the package, its lowest version, its variants."""

    name: str
    lowest: str
    variants: str


def recipe() -> list[Asked]:
    """The recipe run, with what it has from Spack put in its place: it calls nothing but directives."""
    asked: list[str] = []
    place = dict.fromkeys(("license", "variant", "version"), lambda *_a, **_k: None)
    code = re.sub(r"^from spack.*\n", "", RECIPE.read_text(), flags=re.MULTILINE)
    exec(code, {**place, "PythonPackage": object, "depends_on": lambda spec, **_k: asked.append(spec)})
    found = [re.fullmatch(r"([a-z0-9-]+)(?:@([0-9.]+):[0-9.]*)?((?:\+\w+)*)", spec) for spec in asked]
    assert found and None not in found, asked
    return [Asked(one[1], one[2] or "0", one[3]) for one in found if one]


def test_the_spack_recipe_asks_for_what_the_project_asks_for() -> None:
    """Not tried with Spack itself; but no dependency and no lower bound is forgotten."""
    said = msgspec.toml.decode((CHECKOUT / "pyproject.toml").read_bytes())
    extras = said["project"]["optional-dependencies"]
    wanted = [*said["build-system"]["requires"], *said["project"]["dependencies"]]
    wanted += [one for extra in ("nvml", "dask", "charts", "exporter") for one in extras[extra]]
    asked = {one.name.removeprefix("py-"): one.lowest for one in recipe() if one.name not in ("python", "arrow")}
    bounds = dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?>=([0-9.]+)", "\n".join(wanted), re.MULTILINE))
    assert asked == bounds


def test_spack_has_what_its_recipe_asks_for() -> None:
    asked = recipe()
    assert {one.name for one in asked} - SPACK.keys() == {"python", "py-pandas", "py-tomli"}
    for name, lowest, variants in asked:
        newest, has = SPACK.get(name, (lowest, ""))
        assert [int(part) for part in lowest.split(".")] <= [int(part) for part in newest.split(".")], name
        assert set(variants.split("+")) - {""} <= set(has.split()), name


def test_a_packager_that_is_not_installed_is_named(tmp_path: Path) -> None:
    done = run(sys.executable, DEPLOY / "build_packages.py", "build", tmp_path, PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "error: no dpkg-deb here; install dpkg\n")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python as nodes have it: the system's, in an environment that has pip."""
    system = Path("/usr/bin/python3")
    if run(system, "-c", "import sys, ensurepip; sys.exit(sys.version_info < (3, 10))").returncode:
        pytest.skip("NO SYSTEM PYTHON of 3.10 or newer with venv")
    where = tmp_path_factory.mktemp("python")
    assert run(system, "-m", "venv", where).returncode == 0
    return where / "bin" / "python"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Path:
    """The single file for nodes."""
    output = tmp_path_factory.mktemp("build") / "hpccarbon-node.pyz"
    done = run(python, DEPLOY / "build_node.py", CHECKOUT, output)
    assert done.returncode == 0, done.stderr
    return output


def test_the_wheel_holds_every_file_of_the_package_and_the_scripts(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    tracked = run("git", "-C", CHECKOUT, "ls-files", "hpccarbon", "slurm_scripts").stdout.split()
    if not tracked:
        pytest.skip("not a git checkout: nothing says which files there should be")
    expected = {f"hpccarbon/{name}" if name.startswith("slurm_scripts/") else name for name in tracked}
    assert expected - held == set()


def test_the_wheel_holds_the_manual_pages_where_man_looks(wheel: zipfile.ZipFile) -> None:
    found = {Path(name).name for name in wheel.namelist() if ".data/data/share/man/man1/" in name}
    commands = {f"hpccarbon-{entry.name}.1" for entry in (*FOR_EVERYONE, *FOR_OPERATORS)}
    assert found == commands | {"hpccarbon.1"}


@pytest.mark.parametrize(
    "place", ["bash-completion/completions/", "zsh/site-functions/_", "fish/vendor_completions.d/"]
)
def test_the_wheel_holds_the_completions_where_shells_look(wheel: zipfile.ZipFile, place: str) -> None:
    (name,) = [name for name in wheel.namelist() if f".data/data/share/{place}hpccarbon" in name]
    assert b"_HPCCARBON_COMPLETE" in wheel.read(name)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, hatch: Path) -> Path:
    where = tmp_path_factory.mktemp("sdist")
    build = "from hatchling.build import build_sdist; import sys; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(where)],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(hatch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = where.glob("hpccarbon-*.tar.gz")
    return archive


def test_the_sdist_is_the_checkout(sdist: Path) -> None:
    """Who has it can test, measure and build as in a checkout; and nothing comes along that nobody committed."""
    listing = ("git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    tracked = {name for name in run(*listing).stdout.split("\0") if name and (CHECKOUT / name).exists()}
    if not tracked:
        pytest.skip("not a git checkout: nothing says which files there should be")
    with tarfile.open(sdist) as files:
        held = {entry.name.partition("/")[2] for entry in files.getmembers() if entry.isfile()}
    assert {"Makefile", "README.md", "LICENSE", "NOTICE", "bench/__main__.py", "docs/install.md"} <= held
    assert held - tracked == {"PKG-INFO"}
    assert tracked - held == {".ci/run"}


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_checkout(
    wheel: zipfile.ZipFile, sdist: Path, hatch: Path, tmp_path: Path
) -> None:
    with wheel_of(sdist, tmp_path, hatch) as again:
        made, wanted = ({info.filename: info.CRC for info in one.infolist()} for one in (again, wheel))
    assert made == wanted


def test_a_node_runs_from_one_file_and_opens_few_others(build: Path, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("NO STRACE: the files that a start opens cannot be counted")
    (tmp_path / "config.toml").write_text(CONFIG.format(dir=tmp_path))
    unpacked = {"HPCCARBON_UNPACK_DIR": str(tmp_path / "unpacked")}
    trace = tmp_path / "trace"
    for _start in ("unpacks", "finds it there"):
        done = run(
            *("timeout", "3", "strace", "-e", "trace=open,openat", "-o", trace),
            *(build, "daemon", "--node", "n1", "--config", tmp_path / "config.toml"),
            **unpacked,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert "hpccarbon: stopped" in done.stderr
    opened = {line.split('"')[1] for line in trace.read_text().splitlines() if '"' in line and " = -1 " not in line}
    ours = {name for name in opened if not name.startswith(OF_THE_NODE) and not Path(name).is_dir()}
    program = {name for name in ours if not name.startswith((f"{tmp_path}/state", f"{tmp_path}/run"))}
    assert {str(build), str(tmp_path / "config.toml")} < program
    assert len(program) <= MAY_OPEN, sorted(program)
    assert not any("site-packages" in name for name in program)
    (shard,) = (tmp_path / "shared").rglob("*.parquet")
    assert pq.read_schema(shard).names == [column.name for column in SHARD]


def test_what_is_not_in_the_node_build_is_named(build: Path, tmp_path: Path) -> None:
    (tmp_path / "shared" / "shards" / "alpha").mkdir(parents=True)
    (tmp_path / "config.toml").write_text(CONFIG.format(dir=tmp_path))
    unpacked = {"HPCCARBON_UNPACK_DIR": str(tmp_path / "unpacked")}
    done = run(build, "report", "--by", "user", "--config", tmp_path / "config.toml", **unpacked)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "is not in this build for nodes" in done.stderr


def test_a_node_sets_itself_up_from_one_file_and_checks_it(build: Path, tmp_path: Path) -> None:
    environment = {"HPCCARBON_UNPACK_DIR": str(tmp_path / "unpacked"), "SLURM_CONF": "/nonexistent/slurm.conf"}
    image = ("--prefix", str(tmp_path / "image"))
    (tmp_path / "image").mkdir()
    asked = ("--role", "node", "--cluster", "alpha", "--shared-dir", "/shared", "--no-systemd", "--apply")
    for arguments in (asked, ("--check",)):
        done = run(build, "setup", *image, *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ok configuration: loads; cluster alpha" in done.stdout
        assert "things checked: 0 wrong" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a directory of another user")
def test_machine_code_is_not_loaded_from_another_users_directory(build: Path, tmp_path: Path) -> None:
    planted = tmp_path / "unpacked"
    planted.mkdir()
    os.chown(planted, 65534, 65534)
    done = run(build, "doctor", HPCCARBON_UNPACK_DIR=str(planted))
    assert done.returncode == 1
    assert "belongs to another user" in done.stderr


class Packages(NamedTuple):
    """Both packages, and what the .deb holds."""

    deb: Path
    rpm: Path
    root: Path


@pytest.fixture(scope="module")
def packages(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    if shutil.which("dpkg-deb") is None or shutil.which("rpmbuild") is None:
        pytest.skip("NO dpkg-deb or rpmbuild")
    where = tmp_path_factory.mktemp("packages")
    done = run(sys.executable, DEPLOY / "build_packages.py", build, where)
    assert done.returncode == 0, done.stderr
    (deb,) = where.glob("*.deb")
    (rpm,) = where.glob("*.rpm")
    assert run("dpkg-deb", "-x", deb, where / "root").returncode == 0
    assert run("dpkg-deb", "-e", deb, where / "root" / "DEBIAN").returncode == 0
    return Packages(deb, rpm, where / "root")


IN_BOTH = {
    "/usr/bin/hpccarbon",
    "/usr/lib/systemd/system/hpccarbon.service",
    "/usr/lib/sysusers.d/hpccarbon.conf",
    "/usr/lib/tmpfiles.d/hpccarbon.conf",
    "/usr/lib/hpccarbon/slurm_scripts/prolog.sh",
    "/usr/share/bash-completion/completions/hpccarbon",
    "/usr/share/fish/vendor_completions.d/hpccarbon.fish",
    "/usr/share/man/man1/hpccarbon.1.gz",
    "/usr/share/man/man1/hpccarbon-run.1.gz",
    "/usr/share/doc/hpccarbon-node/NOTICE",
}
OF_DEBIAN = {"/usr/share/zsh/vendor-completions/_hpccarbon", "/usr/share/doc/hpccarbon-node/copyright"}
OF_RED_HAT = {"/usr/share/zsh/site-functions/_hpccarbon", "/usr/share/doc/hpccarbon-node/LICENSE"}
ITS_DIRECTORIES = {"/usr/lib/hpccarbon", "/usr/lib/hpccarbon/slurm_scripts", "/usr/share/doc/hpccarbon-node"}
"""Which a .rpm must name, or they stay behind; dpkg knows by itself."""


def test_the_packages_hold_the_program_and_what_belongs_to_it(build: Path, packages: Packages, tmp_path: Path) -> None:
    root = packages.root
    files = {f"/{file.relative_to(root)}" for file in root.rglob("*") if file.is_file()}
    files = {name for name in files if not name.startswith("/DEBIAN/")}
    listed = set(run("rpm", "-qpl", packages.rpm).stdout.split())
    assert files >= IN_BOTH | OF_DEBIAN
    assert listed == files - OF_DEBIAN | OF_RED_HAT | ITS_DIRECTORIES
    assert "ExecStart=/usr/bin/hpccarbon daemon" in (root / "usr/lib/systemd/system/hpccarbon.service").read_text()
    said = run(root / "usr/bin/hpccarbon", "--version", HPCCARBON_UNPACK_DIR=str(tmp_path / "unpacked"))
    assert said.stdout.split()[-1] in packages.deb.name
    needed = run("dpkg-deb", "-f", packages.deb, "Depends").stdout.strip()
    assert needed == build.open("rb").readline().decode().split()[0].rpartition("/")[2]
    assert f"/usr/bin/{needed}" in run("rpm", "-qp", "--requires", packages.rpm).stdout


def test_the_packages_explain_what_works_on_a_node(packages: Packages, tmp_path: Path) -> None:
    unpacked = {"HPCCARBON_UNPACK_DIR": str(tmp_path / "unpacked")}
    pages = sorted((packages.root / "usr/share/man/man1").iterdir())
    for page in pages:
        assert gzip.decompress(page.read_bytes()).startswith(b".TH ")
        command = page.name.removesuffix(".1.gz").split("-")[1:]
        assert run(packages.root / "usr/bin/hpccarbon", *command, "--help", **unpacked).returncode == 0, page.name
    assert len(pages) == 8
    completion = packages.root / "usr/share/bash-completion/completions/hpccarbon"
    assert "_HPCCARBON_COMPLETE" in completion.read_text()
    assert run("bash", "-n", completion).returncode == 0


STUBS = ("systemd-sysusers", "systemd-tmpfiles", "systemctl")


def asked_by(script: Path, argument: str, scratch: Path, *, systemd: bool) -> list[str]:
    """What a maintainer script asks of systemd's programs, which are stubs here, on a machine of its own."""
    stubs = scratch / "stubs"
    stubs.mkdir(exist_ok=True)
    log = scratch / "asked"
    log.write_text("")
    for name in STUBS:
        (stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n')
        (stubs / name).chmod(0o755)
    mounts = "mount -t tmpfs none /run" + (" && mkdir -p /run/systemd/system" if systemd else "")
    command = f"{mounts} && PATH={stubs}:$PATH sh {script} {argument}"
    done = run("unshare", "--mount", "sh", "-c", command)
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


MAKES = ["systemd-sysusers hpccarbon.conf", "systemd-tmpfiles --create hpccarbon.conf"]
RELOAD, RESTART = "systemctl daemon-reload", "systemctl try-restart hpccarbon.service"
END = "systemctl disable --now hpccarbon.service"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


@pytest.mark.root
@ROOT
@pytest.mark.parametrize(
    ("script", "argument", "systemd", "asked"),
    [
        ("postinst", "configure", True, [*MAKES, RELOAD, RESTART]),
        ("postinst", "configure", False, MAKES),
        ("prerm", "upgrade", True, []),
        ("prerm", "remove", True, [END]),
        ("prerm", "remove", False, []),
        ("postrm", "remove", True, [RELOAD]),
    ],
)
def test_the_deb_asks_of_systemd_what_is_needed(
    packages: Packages, tmp_path: Path, script: str, argument: str, systemd: bool, asked: list[str]
) -> None:
    assert asked_by(packages.root / "DEBIAN" / script, argument, tmp_path, systemd=systemd) == asked


@pytest.mark.root
@ROOT
@pytest.mark.parametrize(
    ("script", "argument", "asked"),
    [
        ("postinstall", "1", [*MAKES, RELOAD, RESTART]),
        ("preuninstall", "1", []),
        ("preuninstall", "0", [END]),
        ("postuninstall", "0", [RELOAD]),
    ],
)
def test_the_rpm_asks_of_systemd_what_is_needed(
    packages: Packages, tmp_path: Path, script: str, argument: str, asked: list[str]
) -> None:
    said = run("rpm", "-qp", "--scripts", packages.rpm).stdout
    parts = re.split(r"^(\w+) scriptlet \(using /bin/sh\):\n", said, flags=re.MULTILINE)
    body = tmp_path / "scriptlet"
    body.write_text(dict(zip(parts[1::2], parts[2::2], strict=True))[script])
    assert asked_by(body, argument, tmp_path, systemd=True) == asked


@pytest.mark.root
@ROOT
def test_the_deb_installs_into_a_root_of_its_own_and_leaves_it(packages: Packages, tmp_path: Path) -> None:
    """With dpkg itself, and systemd's own programs for the account and the directories."""
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("NO systemd-sysusers or systemd-tmpfiles")
    root = tmp_path / "root"
    for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    dpkg = ("dpkg", f"--root={root}", "--log=/dev/null", "--force-depends", "--force-script-chrootless")
    done = run(*dpkg, "-i", packages.deb)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    assert "\nhpccarbon:" in "\n" + (root / "etc/passwd").read_text()
    modes = {name: (root / name).stat().st_mode & 0o777 for name in ("run/hpccarbon", "var/lib/hpccarbon")}
    assert modes == {"run/hpccarbon": 0o711, "var/lib/hpccarbon": 0o700}
    assert run(*dpkg, "-i", packages.deb).returncode == 0  # again, as an upgrade does
    assert run(*dpkg, "-r", "hpccarbon-node").returncode == 0
    assert not (root / "usr/bin/hpccarbon").exists()


def small_root(root: Path) -> None:
    """What scriptlets need to run in a root of their own: a shell, systemd's two programs, and their libraries."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "etc", "proc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("sh", "systemd-sysusers", "systemd-tmpfiles"):
        program = Path(shutil.which(name) or "").resolve()
        shutil.copy2(program, root / "usr/bin" / name)
        for library in re.findall(r"/\S+", run("ldd", program).stdout):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)


@pytest.mark.root
@ROOT
def test_the_rpm_installs_into_a_root_of_its_own_and_leaves_it(build: Path, packages: Packages, tmp_path: Path) -> None:
    """With rpm itself: new, by a later release, away. That root has no /dev, as some images have none."""
    if shutil.which("rpm") is None or shutil.which("systemd-sysusers") is None:
        pytest.skip("NO rpm or systemd-sysusers")
    root = tmp_path / "root"
    small_root(root)
    changed = run(sys.executable, DEPLOY / "build_packages.py", build, tmp_path, "2")
    assert changed.returncode == 0, changed.stderr
    (later,) = tmp_path.glob("*-2.*.rpm")

    def rpm(*words: object) -> str:
        mounts = 'mount -t proc proc "$0/proc" && exec rpm --root="$0" "$@"'
        done = run("unshare", "--mount", "sh", "-c", mounts, root, *words)
        assert done.returncode == 0, done.stderr
        assert not re.search("failed|warning|cannot", done.stderr), done.stderr
        return done.stdout

    rpm("-i", "--nodeps", packages.rpm)
    rpm("-V", "--nodeps", "hpccarbon-node")  # sizes, digests, modes, owners
    assert (root / "usr/bin/hpccarbon").stat().st_mode & 0o777 == 0o755
    assert "\nhpccarbon:" in "\n" + (root / "etc/passwd").read_text()
    modes = {name: (root / name).stat().st_mode & 0o777 for name in ("run/hpccarbon", "var/lib/hpccarbon")}
    assert modes == {"run/hpccarbon": 0o711, "var/lib/hpccarbon": 0o700}
    (root / "var/lib/hpccarbon/store.sqlite").touch()
    rpm("-U", "--nodeps", later)
    assert rpm("-q", "--queryformat", "%{RELEASE}", "hpccarbon-node") == "2"
    rpm("-e", "hpccarbon-node")
    assert not [name for name in ITS_DIRECTORIES | {"/usr/bin/hpccarbon"} if (root / name.lstrip("/")).exists()]
    assert (root / "var/lib/hpccarbon/store.sqlite").exists()


@pytest.mark.root
@ROOT
def test_where_run_is_mounted_without_programs_machine_code_lies_on_disk(build: Path, tmp_path: Path) -> None:
    """As Debian's initramfs mounts /run; the unit lets the daemon write to both places."""
    mounts = "mount -t tmpfs -o noexec none /run && mount -t tmpfs none /var/cache"
    command = f"{mounts} && cd {tmp_path} && {build} run -- true >&2 && ls -d /run/hpc* /var/cache/hpc*/*; true"
    done = run("unshare", "--mount", "sh", "-c", command)
    assert re.fullmatch(r"/var/cache/hpccarbon-build-0/[0-9a-f]+-small\n", done.stdout), done.stdout + done.stderr
    unit = (DEPLOY.parent / "systemd" / "hpccarbon.service").read_text()
    assert "\nRuntimeDirectory=hpccarbon hpccarbon-build-0\nCacheDirectory=hpccarbon-build-0\n" in unit


def test_a_build_for_another_python_says_so(build: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.pyz"
    shutil.copyfile(build, older)
    with zipfile.ZipFile(build) as archive, zipfile.ZipFile(older, "w") as changed:
        for name in ("__main__.py", "hpccarbon_built.py"):
            changed.writestr(name, archive.read(name).decode().replace("BUILT_WITH = '3.", "BUILT_WITH = '3.9"))
    done = run("/usr/bin/python3", "-IS", older)
    assert done.returncode == 1
    assert "this build is for Python 3.9" in done.stderr
