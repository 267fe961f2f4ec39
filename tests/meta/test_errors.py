"""The table of error codes is complete, and the source names no code that is not in it."""

import ast
import re
from collections.abc import Iterator

import pytest

from ambientd.wire import exits
from ambientd.wire.errors import ERRORS, ErrorCode
from tests.meta.tree import PACKAGES, ROOT, modules

A_CODE = re.compile(r"[A-Z]{2,}(_[A-Z]+)+")
# Callables whose first argument is a code, in whatever module they stand.
TAKERS = re.compile(r"_?(Rejected|reject|Refused|refuse|RefusedError|_RefusedError)")


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def text_of(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def codes_in(tree: ast.AST) -> Iterator[str]:
    """Constants that are used as a code: argument of a refusal, `code=`, or index of the table."""
    for node in ast.walk(tree):
        found: list[str | None] = []
        if isinstance(node, ast.Call):
            found = [text_of(word.value) for word in node.keywords if word.arg == "code"]
            if node.args and TAKERS.fullmatch(name_of(node.func)):
                found.append(text_of(node.args[0]))
        elif isinstance(node, ast.Subscript) and name_of(node.value) == "ERRORS":
            found = [text_of(node.slice)]
        yield from (text for text in found if text and A_CODE.fullmatch(text))


def test_every_code_in_the_source_is_in_the_table() -> None:
    used = {
        f"{path.relative_to(ROOT)}: {code}"
        for path in modules(*PACKAGES)
        for code in codes_in(ast.parse(path.read_text()))
        if code not in ERRORS
    }
    assert used == set()


def test_the_search_finds_codes_in_every_form() -> None:
    source = 'Rejected("NO_SUCH_A", "")\nStoreError("x", code="NO_SUCH_B")\nERRORS["NO_SUCH_C"]\n'
    assert sorted(codes_in(ast.parse(source))) == ["NO_SUCH_A", "NO_SUCH_B", "NO_SUCH_C"]


@pytest.mark.parametrize("row", ERRORS.values(), ids=lambda row: row.code)
def test_a_row_is_whole(row: ErrorCode) -> None:
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", row.code)
    assert 400 <= row.status <= 599
    assert row.exit in exits.MEANING
    assert row.exit != exits.DONE
    assert row.sentence.endswith(".")
    assert len(row.sentence) > 15


@pytest.mark.parametrize("row", ERRORS.values(), ids=lambda row: row.code)
def test_what_may_succeed_later_says_so_by_its_status(row: ErrorCode) -> None:
    assert row.retryable == (row.status in {408, 429, 503})


def test_no_two_codes_mean_the_same() -> None:
    sentences = [row.sentence for row in ERRORS.values()]
    assert len(set(sentences)) == len(sentences)


def test_every_exit_code_has_a_meaning() -> None:
    values = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert values == set(exits.MEANING)
