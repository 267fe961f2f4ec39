"""The layers are what the contracts in pyproject.toml say."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.meta.tree import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as c; c()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_no_module_imports_against_the_layers() -> None:
    outcome = lint_imports(ROOT)
    assert outcome.returncode == 0, outcome.stdout


def test_every_contract_states_its_reason() -> None:
    assert len(CONTRACTS) >= 7
    assert [row["name"] for row in CONTRACTS if "so that" not in row["name"]] == []


def test_a_core_that_asks_the_clock_is_found(tmp_path: Path) -> None:
    for package in ("ambientd", "ambientctl"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "ambientd" / "core" / "late.py").write_text("import time\n\nNOW = time.monotonic\n")
    outcome = lint_imports(tmp_path)
    assert outcome.returncode == 1
    assert "ambientd.core.late -> time" in outcome.stdout
