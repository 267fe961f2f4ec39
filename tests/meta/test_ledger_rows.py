"""Every row of the ledger's acceptance list is held by tests that exist (`ledger_rows.toml`)."""

import ast
import tomllib
from pathlib import Path

from tests.meta.tree import ROOT

MAP: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("ledger_rows.toml").read_text())
LISTS = {"LG": 6, "UA": 6, "PM": 5, "AL": 6, "CF": 4, "DS": 5, "CH": 5, "GV": 5}
# Rows of the gateway, of the older routes and of TCP come with those.
ROWS = {f"R3.{number}" for number in range(69, 202)} - {"R3.98", "R3.198"}
ROWS |= {f"FR-{name}-{number:02}" for name, last in LISTS.items() for number in range(1, last + 1)}
ROWS |= {"AC-cost", "AC-restart", "AC-repeat", "AC-migration"}
ROWS |= {f"Q{number}" for number in range(24, 65)}
ROWS |= {f"T{number}" for number in (*range(12, 32), *range(39, 43))}


def ids_of(path: Path) -> set[str]:
    """Ids of the tests of a file, without parameters."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for member in members:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name.startswith("test_"):
                found.add(f"{path.relative_to(ROOT)}::{prefix}{member.name}")
    return found


def test_every_listed_row_has_a_test_that_exists() -> None:
    assert ROWS - MAP.keys() == set()
    assert MAP.keys() - ROWS == set()
    assert [row for row, tests in MAP.items() if not tests or len(set(tests)) != len(tests)] == []
    named = {test for tests in MAP.values() for test in tests}
    files = {ROOT / test.partition("::")[0] for test in named}
    assert [path for path in files if not path.is_file()] == []
    exist = {test for path in files for test in ids_of(path)}
    assert sorted(named - exist) == []
