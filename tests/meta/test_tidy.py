"""What must not be in the tree: places of one machine, addresses of package indexes, vague promises."""

import re

import pytest

from tests.meta.tree import ROOT, files_for_git

# A letter in brackets, so that this file does not hold what it looks for.
UNWANTED = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:wor[k]|hom[e]/[a-z]+|opt/pyp[i])/|\.pyen[v]"),
    "an address of a package index": re.compile(
        r"pyp[i]\.org|pythonhoste[d]|deb\.debia[n]\.org|registry\.npmj[s]|--(?:extra-)?index-ur[l]"
    ),
    "an open promise without the issue that keeps it": re.compile(
        r"\b(?:TOD[O]|FIXM[E]|HAC[K])\b(?!\(#\d+\))"
    ),
}
TEXT_LIMIT = 1_000_000


def test_no_tracked_file_holds_what_must_not_be_there() -> None:
    found = []
    for path in files_for_git():
        content = path.read_bytes()
        if b"\0" in content or len(content) > TEXT_LIMIT:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
            found += [
                f"{path.relative_to(ROOT)}:{number}: {what}"
                for what, sign in UNWANTED.items()
                if sign.search(line)
            ]
    assert found == []


@pytest.mark.parametrize("line", ["cd /wor" + "k/main", "pip --index-ur" + "l=x", "# TO" + "DO later"])
def test_the_search_finds_each_kind(line: str) -> None:
    assert any(sign.search(line) for sign in UNWANTED.values())


def test_the_root_holds_only_what_belongs_there() -> None:
    """A new name at the root is a decision, not an accident."""
    allowed = {"ambientd", "ambientctl", "migrations", "systemd", "packaging", "docs", "tests", ".ci"}
    allowed |= {"README.md", "LICENSE", "pyproject.toml", ".gitignore"}
    assert {path.relative_to(ROOT).parts[0] for path in files_for_git()} - allowed == set()


def test_the_scripts_are_executable() -> None:
    scripts = [ROOT / ".ci" / "run", *(ROOT / "packaging" / "scripts").iterdir()]
    assert [str(path) for path in scripts if path.stat().st_mode & 0o111 != 0o111] == []


def test_packaging_is_no_python_package() -> None:
    """With an `__init__.py` it would hide the library of the same name from the build backend."""
    assert not (ROOT / "packaging" / "__init__.py").exists()
