import csv
import io
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.export import COLUMNS, FORMATS, csv_line
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import SessionSummary

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def row(**changes: object) -> SessionSummary:
    base = SessionSummary(
        session_id="s1",
        agent_id="a",
        agent_label="A",
        model_id="m",
        status=SessionStatus.SUCCESS,
        started_at="2026-11-20T12:00:00.000Z",
        runtime_ms=0,
        artifact_count=2,
        ingested_at="2026-11-20T12:00:00.000Z",
    )
    return msgspec.structs.replace(base, **changes)


def read(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@given(st.lists(st.none() | st.integers() | TEXT, min_size=1, max_size=6))
def test_a_csv_reader_reads_back_what_was_written(values: list[str | int | None]) -> None:
    (found,) = read(csv_line(["first", *values]))
    for value, cell in zip(values, found[1:], strict=True):
        if isinstance(value, str):
            assert cell in (value, f"'{value}")
        else:
            assert cell == ("" if value is None else str(value))


@given(TEXT)
def test_no_text_of_a_csv_begins_like_a_formula(text: str) -> None:
    (found,) = read(csv_line(["first", text]))
    assert not found[1].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@pytest.mark.parametrize(
    "text", ['=cmd|" /C calc"!A0', "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "＝1", "  =1"]
)
def test_formulas_get_an_apostrophe(text: str) -> None:
    (found,) = read(csv_line(["first", text]))
    assert found[1] == f"'{text}"


def test_numbers_stay_numbers() -> None:
    assert csv_line([0, 0.25, None, 3]) == b"0,0.25,,3\r\n"


def test_a_line_of_csv_has_every_column_also_where_nothing_is_known() -> None:
    form = FORMATS["csv"]
    header, found = read(form.head + form.line(row(cost_usd=0.61, task_title="a,b")))
    assert header == list(COLUMNS)
    assert len(found) == len(COLUMNS)
    cells = dict(zip(header, found, strict=True))
    assert (cells["costUsd"], cells["taskTitle"], cells["endedAt"], cells["runtimeMs"]) == (
        "0.61",
        "a,b",
        "",
        "0",
    )


def test_the_columns_are_all_that_a_row_can_have() -> None:
    known = {field.encode_name for field in msgspec.structs.fields(SessionSummary)}
    assert set(COLUMNS) <= known
    assert known - set(COLUMNS) <= {"runningSince"}


def test_a_line_of_ndjson_is_the_row_as_the_list_has_it() -> None:
    line = FORMATS["ndjson"].line(row(task_title="=1\n+2"))
    assert line.count(b"\n") == 1
    assert json.loads(line) == msgspec.to_builtins(row(task_title="=1\n+2"))
