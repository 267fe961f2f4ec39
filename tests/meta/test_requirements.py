"""The lock files hold every dependency with hashes and no address, in one set of versions."""

import re
import tomllib

import pytest

from tests.meta.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt")

Versions = dict[str, tuple[int, ...]]


def text_of(name: str) -> str:
    return (ROOT / "packaging" / name).read_text()


def blocks_of(name: str) -> list[str]:
    """One text per requirement, its hashes included."""
    lines = [line for line in text_of(name).splitlines() if not line.startswith("#")]
    return re.split(r"\n(?=\S)", "\n".join(lines))


def versions_of(name: str) -> Versions:
    pins = [re.match(r"([a-z0-9-]+)==([0-9.]+)", block) for block in blocks_of(name)]
    return {pin[1]: tuple(map(int, pin[2].rstrip(".").split("."))) for pin in pins if pin}


def wanted(requirements: list[str]) -> Versions:
    """Names with their least versions."""
    found = [re.fullmatch(r"([A-Za-z0-9-]+)(?:\[[a-z,]+\])?(?:>=([0-9.]+))?", text) for text in requirements]
    assert None not in found, "a form of requirement that this test cannot read"
    return {hit[1].lower(): tuple(map(int, (hit[2] or "0").split("."))) for hit in found if hit}


@pytest.mark.parametrize("name", FILES)
def test_a_lock_names_no_address_and_no_option(name: str) -> None:
    assert not re.search(r"[a-z]+://|^-", text_of(name), re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_every_locked_package_is_pinned_and_has_hashes(name: str) -> None:
    for block in blocks_of(name):
        assert re.match(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [^\\]+)? \\\n", block), block
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", block)) >= 1, block


def test_the_core_lock_covers_the_dependencies() -> None:
    locked = versions_of("requirements.txt")
    assert {n: v for n, v in wanted(PROJECT["dependencies"]).items() if locked.get(n, ()) < v} == {}


def test_the_development_lock_covers_the_extra_and_the_build_backend() -> None:
    locked = versions_of("requirements-dev.txt")
    asked = wanted([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"], "hatchling"])
    assert {n: v for n, v in asked.items() if locked.get(n, ()) < v} == {}


def test_the_small_locks_are_parts_of_the_development_lock() -> None:
    everything = set(blocks_of("requirements-dev.txt"))
    assert set(blocks_of("requirements.txt")) - everything == set()
    assert set(blocks_of("requirements-build.txt")) - everything == set()
