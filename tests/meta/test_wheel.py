"""The wheel and the source archive hold what an installation needs. Built offline by the locked backend."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.meta.tree import ROOT, modules

SCRIPTS = ("ambientd", "ambientctl")


def build(kind: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    outcome = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    wanted = {str(path.relative_to(ROOT)) for path in modules("ambientd", "ambientctl")}
    assert wanted - set(wheel.namelist()) == set()


def test_every_migration_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    migrations = [path.relative_to(ROOT / "migrations") for path in (ROOT / "migrations").rglob("*.sql")]
    assert migrations, "there are no migrations at all"
    assert {f"ambientd/_migrations/{path}" for path in migrations} - set(wheel.namelist()) == set()


def test_what_is_not_python_below_the_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    for package in ("ambientd", "ambientctl"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in wheel.namelist()


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_program_is_an_executable_script_that_the_installer_completes(
    wheel: zipfile.ZipFile, name: str
) -> None:
    (member,) = [info for info in wheel.infolist() if info.filename.endswith(f".data/scripts/{name}")]
    assert wheel.read(member).startswith(b"#!python\n")
    assert member.external_attr >> 16 & 0o111 == 0o111


def test_nothing_foreign_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    roots = {name.split("/")[0] for name in wheel.namelist()}
    assert {root for root in roots if ".dist-info" not in root and ".data" not in root} == {
        "ambientd",
        "ambientctl",
    }
    assert [name for name in wheel.namelist() if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_source_archive_builds_the_same_wheel(
    archive: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    # Debian 12's tarfile has no extraction filters yet, and later ones warn without
    (tmp_path / "source").mkdir()
    subprocess.run(["tar", "xzf", str(archive), "-C", str(tmp_path / "source")], check=True)
    (source,) = (tmp_path / "source").iterdir()
    (tmp_path / "made").mkdir()
    again = zipfile.ZipFile(build("wheel", source, tmp_path / "made"))
    assert sorted(again.namelist()) == sorted(wheel.namelist())


def test_the_source_archive_holds_the_project_and_no_left_overs(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        tops = {name.split("/")[1] for name in tar.getnames()}
    allowed = {"ambientd", "ambientctl", "docs", "migrations", "packaging", "systemd", "tests"}
    assert tops <= allowed | {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
