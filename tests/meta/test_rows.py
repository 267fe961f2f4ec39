"""Every row of the acceptance lists is held by tests that exist (`rows/*.toml`, one file for each list)."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.meta.tree import ROOT

FOLDER = Path(__file__).with_name("rows")


def _numbered(lists: dict[str, int]) -> set[str]:
    return {f"FR-{name}-{number:02}" for name, last in lists.items() for number in range(1, last + 1)}


def _ledger() -> set[str]:
    """Rows of the gateway, of the older routes and of TCP come with those."""
    rows = {f"R3.{number}" for number in range(69, 202)} - {"R3.98", "R3.198"}
    rows |= _numbered({"LG": 6, "UA": 6, "PM": 5, "AL": 6, "CF": 4, "DS": 5, "CH": 5, "GV": 5})
    rows |= {"AC-cost", "AC-restart", "AC-repeat", "AC-migration"}
    rows |= {f"Q{number}" for number in range(24, 65)}
    return rows | {f"T{number}" for number in (*range(12, 32), *range(39, 43))}


def _gateway() -> set[str]:
    """Rows of pages come with the dashboard; `gateway.toml` names them."""
    pages = {"R3.8", "R3.23", "R3.27", "R3.31", "R3.39", "R3.41"}
    rows = {f"R3.{number}" for number in (*range(1, 57), 98)} - pages
    rows |= {f"Q{number}" for number in (2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 20, 21, 22)}
    rows |= {"FR-KS-05", "FR-KS-06", "FR-TI-04", "FR-MS-02", "FR-MS-05", "FR-MS-08"}
    rows |= {"FR-CF2-01", "FR-CF2-02", "FR-CF2-04"}
    return rows | {"T32", "T33", "T34", "T36", "N4", "N5", "I8", "B2"}


def _connectivity() -> set[str]:
    """R1.52 is the table here and what peers may do, which comes with them."""
    return {f"R1.{number}" for number in (47, 48, 49, 50, 51, 53, 56)} | {"N2", "N9"}


def _peers() -> set[str]:
    """R1.58, R1.59 and R1.66 are held in the cores of snapshots and of the audit."""
    rows = {f"R1.{number}" for number in (52, 57, 60, 61, 62, 63, 64, 65, 67)}
    return rows | {"N1", "N3", "P12", "P13", "P14"}


def _delta_v() -> set[str]:
    return {f"R1.{number}" for number in range(35, 47)}


def _autonomy() -> set[str]:
    return {f"R1.{number}" for number in (54, 58, 59, 66)} | {
        *(f"P{number}" for number in range(1, 12)),
        *("T43", "T45", "A1", "A3"),
    }


def _control_plane() -> set[str]:
    """R1.33 and R1.55 are the node's to hold; see `_join`."""
    rows = {f"R1.{number}" for number in (*range(20, 33), 34, *range(68, 76))}
    return rows | {"T44"}


def _compatible() -> set[str]:
    """Defects by their places; 0.5 is a dashboard's wording."""
    rows = {f"0.{number}" for number in (1, 2, 3, 4, 6, 7, 8, 9)}
    rows |= {f"2.2{letter}" for letter in "abcdefg"} | {f"2.4{letter}" for letter in "abcde"}
    return rows | {"2.6"} | {f"S{number}" for number in range(1, 13)}


def _join() -> set[str]:
    """R1.7 to R1.11 and R1.14 are of a view that stays open, and R1.23 is held where the lists are made."""
    return {f"R1.{number}" for number in (*range(1, 7), 12, 13, *range(15, 20), 21, 22, 33, 55)}


LISTS = {
    "compatible": _compatible(),
    "ledger": _ledger(),
    "gateway": _gateway(),
    "connectivity": _connectivity(),
    "peers": _peers(),
    "leases": {"T3", "T5"},
    "fleet": {f"R1.{number}" for number in (20, 24, 25, 26, 28, 34)},
    "delta_v": _delta_v(),
    "autonomy": _autonomy(),
    "control_plane": _control_plane(),
    "join": _join(),
}


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


def test_every_file_of_rows_is_checked() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == LISTS.keys()


@pytest.mark.parametrize("name", LISTS)
def test_every_listed_row_has_a_test_that_exists(name: str) -> None:
    rows: dict[str, list[str]] = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    assert LISTS[name] - rows.keys() == set()
    assert rows.keys() - LISTS[name] == set()
    assert [row for row, tests in rows.items() if not tests or len(set(tests)) != len(tests)] == []
    named = {test for tests in rows.values() for test in tests}
    files = {ROOT / test.partition("::")[0] for test in named}
    assert [path for path in files if not path.is_file()] == []
    exist = {test for path in files for test in ids_of(path)}
    assert sorted(named - exist) == []
