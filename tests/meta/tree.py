"""The checkout that is tested: its root, its files, and its Python modules."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ambientd", "ambientctl")


def modules(*folders: str) -> list[Path]:
    """The Python files below these folders of the checkout, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def files_for_git() -> list[Path]:
    """What a commit of everything would hold. Skips the test outside of a git checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout: which files are tracked is not known")
    return [
        ROOT / name.decode()
        for name in listing.stdout.split(b"\0")
        if name and (ROOT / name.decode()).is_file()
    ]
