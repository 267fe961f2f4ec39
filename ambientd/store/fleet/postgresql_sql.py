"""`Sql` on PostgreSQL."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg

from ambientd.store.fleet.sql import Attempt, Bulk, Row, check_text

_QUOTED = frozenset({"text", "jsonb"})
# Classes of SQLSTATE that speak of the values or of a trigger's refusal, not of the server or the link.
_OF_THE_STATEMENT = ("22", "23", "42", "P0")


@lru_cache(maxsize=512)
def _marked(sql: str, end: str = "") -> bytes:
    """`?` becomes `%s`. No statement of ours has one in a literal, nor may (a test looks)."""
    return (sql.replace("%", "%%").replace("?", "%s") + end).encode()


@lru_cache(maxsize=128)
def _over_all_rows(statement: Bulk, locking: bool) -> bytes:
    names = ", ".join(name for name, _ in statement.columns)
    arrays = ", ".join(f"%s::{kind}[]" for _, kind in statement.columns)
    text = f"WITH batch ({names}) AS (SELECT * FROM unnest({arrays})) {statement.sql}"
    if locking and statement.lock:
        text += f" FOR NO KEY UPDATE OF {statement.lock}"
    return text.encode()


def lock_key(name: str) -> int:
    """The number of an advisory lock: 64 bits with sign, from its name."""
    return int.from_bytes(hashlib.sha256(f"ambient:{name}".encode()).digest()[:8], signed=True)


class PostgresqlSql:
    """Statements over one connection, inside its transaction."""

    def __init__(self, connection: psycopg.Connection[Row], *, writing: bool) -> None:
        """The connection belongs to one transaction; `writing`: it is none that only reads."""
        self._connection = connection
        self._writing = writing

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """See Sql."""
        check_text(params)
        return self._connection.execute(_marked(sql), params).fetchall()

    def locked(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """See Sql."""
        check_text(params)
        # Not FOR UPDATE: a foreign key that is checked meanwhile would wait for it.
        end = " FOR NO KEY UPDATE" if self._writing else ""
        return self._connection.execute(_marked(sql, end), params).fetchall()

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """See Sql."""
        check_text(params)
        return self._connection.execute(_marked(sql), params).rowcount

    def bulk(self, statement: Bulk, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """See Sql."""
        if not rows:
            return []
        arrays = [
            _array(kind, values)
            for (_, kind), values in zip(statement.columns, zip(*rows, strict=True), strict=True)
        ]
        cursor = self._connection.execute(_over_all_rows(statement, self._writing), arrays)
        return cursor.fetchall() if cursor.description is not None else []

    def serialize(self, name: str) -> None:
        """See Sql."""
        if self._writing:
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(name),))

    def try_serialize(self, name: str) -> bool:
        """See Sql."""
        found = self._connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (lock_key(name),)).fetchone()
        return found is not None and bool(found[0])

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """See Sql."""
        attempt = Attempt()
        self._connection.execute("SAVEPOINT attempt")
        try:
            yield attempt
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate[:2] not in _OF_THE_STATEMENT:
                raise
            attempt.failure = str(error).partition("\n")[0]
            self._connection.execute("ROLLBACK TO SAVEPOINT attempt")
        self._connection.execute("RELEASE SAVEPOINT attempt")


def _array(kind: str, values: Sequence[Any]) -> str:
    """An array as PostgreSQL reads it. The driver's own takes ten times as long."""
    if kind not in _QUOTED:
        return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
    check_text(values)
    return "{" + ",".join([_quoted(value) for value in values]) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
