"""Every dependency stands in docs/licences.md with the licence it says it has; what runs is permissive throughout."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software Foundation|ISC|Zlib|0BSD|CC0|Unlicense|Public Domain", re.IGNORECASE
)
RESTRICTIVE = re.compile(r"\bA?L?GPL|General Public|Proprietary|Commercial|SSPL|CC-BY-NC", re.IGNORECASE)
_MIT = "Permission is hereby granted, free of charge"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ROW = re.compile(r"^\| ([a-z0-9-]+) \| ([^|]+) \|", re.MULTILINE)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    return {canonical(match[0]) for one in requirements if (match := _NAME.match(one))}


def project() -> dict[str, list[str]]:
    """Extra ("" for what always runs) -> its requirements."""
    said = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["project"]
    return {"": said["dependencies"], **said["optional-dependencies"]}


def build() -> list[str]:
    """What a wheel is made with."""
    requires: list[str] = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["build-system"]["requires"]
    return requires


def listed() -> dict[str, str]:
    """Package -> licence, as the page says it."""
    return {name: licence.strip() for name, licence in _ROW.findall((ROOT / "docs" / "licences.md").read_text())}


def licence_of(name: str) -> str:
    """What an installed package says of its licence, in whichever of the three ways; empty where it says nothing."""
    said = metadata.metadata(name)
    classifiers = [one for one in said.get_all("Classifier") or [] if one.startswith("License ::")]
    texts = [text[:60] for field in ("License-Expression", "License") for text in said.get_all(field) or []]
    if any(_MIT in text for text in said.get_all("License") or []):  # the licence itself, without its name
        texts.append("MIT")
    return " ".join([*texts, *classifiers]).strip()


def test_the_page_lists_what_is_needed_and_nothing_else() -> None:
    needed = set[str]().union(names(build()), *(names(one) for one in project().values())) - {"hpccarbon"}
    assert needed == listed().keys() - {"package"}


@pytest.mark.parametrize("name", sorted(listed().keys() - {"package"}))
def test_each_package_says_of_itself_what_the_page_says(name: str) -> None:
    try:
        said = licence_of(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    family = re.match(r"[A-Za-z]+", listed()[name])
    assert family is not None
    if said:  # axe-playwright-python ships a licence file and names none
        assert family[0].lower() in said.lower(), said


def test_everything_that_runs_is_permissive_to_its_last_dependency() -> None:
    extras = project()
    waiting = [name for extra in ("", "nvml", "dask", "charts", "exporter") for name in names(extras[extra])]
    seen: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        try:
            seen[name] = licence_of(name)
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another Python or system
        waiting += names(one for one in needs if "extra ==" not in one)
    assert len(seen) > 20, sys.path
    doubtful = {name: said for name, said in seen.items() if not PERMISSIVE.search(said) or RESTRICTIVE.search(said)}
    assert doubtful == {}
