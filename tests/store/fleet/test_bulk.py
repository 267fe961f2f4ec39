"""Statements over many rows on SQLite: none is left out, and no table is gone through for them."""

import importlib
import pkgutil

import apsw
import pytest

import ambientd.store.fleet
from ambientd.store.fleet.sql import Bulk
from ambientd.store.fleet.sqlite_sql import CHUNKS, SqliteSql
from ambientd.store.migrate import default_folder

PUT = Bulk(
    (("key", "text"), ("number", "bigint")),
    "INSERT INTO given (key, number) SELECT batch.key, batch.number FROM batch WHERE true"
    " ON CONFLICT (key) DO NOTHING RETURNING number",
)
GET = Bulk(
    (("key", "text"),), "SELECT g.number FROM batch, given AS g WHERE g.key = batch.key ORDER BY g.number"
)


def all_statements() -> list[Bulk]:
    found = []
    for module in pkgutil.iter_modules(ambientd.store.fleet.__path__):
        if not module.name.startswith("postgresql"):
            names = vars(importlib.import_module(f"ambientd.store.fleet.{module.name}"))
            found += [value for value in names.values() if isinstance(value, Bulk)]
    return found


@pytest.mark.parametrize("count", [0, 1, 3, *CHUNKS, 5 * CHUNKS[0] - 1])
def test_every_row_is_taken_once_and_found_again(count: int) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE given (key TEXT PRIMARY KEY, number INTEGER)")
    sql = SqliteSql(connection)
    rows = [(f"k{n:04}", n) for n in range(count)]
    assert sql.bulk(PUT, rows) == [(n,) for n in range(count)]
    assert sql.bulk(PUT, rows) == []
    assert sql.bulk(GET, [row[:1] for row in rows]) == [(n,) for n in range(count)]


@pytest.mark.parametrize("bad", ["a\0b", 2**63])
def test_a_value_that_cannot_be_stored_is_a_value_error(bad: object) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE given (key TEXT PRIMARY KEY, number INTEGER)")
    row = (bad, 1) if isinstance(bad, str) else ("k", bad)
    with pytest.raises(ValueError, match=r"stored|too big"):
        SqliteSql(connection).bulk(PUT, [row])


def test_no_statement_goes_through_a_table_for_a_few_rows() -> None:
    connection = apsw.Connection(":memory:")
    picture = default_folder("control_plane/sqlite") / "schema.sql"
    connection.execute(picture.read_text())
    plans: list[str] = []

    class Explaining:
        def execute(self, sql: str, values: list[object]) -> list[tuple[object, ...]]:
            plans.extend(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
            return []

    sql = SqliteSql(Explaining())  # type: ignore[arg-type]
    statements = all_statements()
    for statement in statements:
        for count in (1, CHUNKS[0]):
            sql.bulk(statement, [(None,) * len(statement.columns)] * count)
    assert len(statements) > 10
    assert len(plans) > 2 * len(statements)
    assert {plan for plan in plans if plan.startswith("SCAN")} == {
        "SCAN CONSTANT ROW",
        f"SCAN {CHUNKS[0]} CONSTANT ROWS",
        "SCAN batch",
    }
