"""`Sql` on SQLite. There is one writer, so nothing needs a lock."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import apsw

from ambientd.store.fleet.sql import Attempt, Bulk, Row, check_text

# So many rows of values a statement: few texts, each prepared once and small enough to be kept so. One row at
# a time the interpreter's lock is given up and asked for at every step, beside a busy event loop the longest
# part of a commit.
CHUNKS = (64, 16, 4, 1)
# A failing disk or a lost transaction is no matter of the statement: it must reach the writer.
_OF_THE_STATEMENT = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError, apsw.TooBigError)


@lru_cache(maxsize=128)
def _over_rows(statement: Bulk, count: int) -> str:
    names = ", ".join(name for name, _ in statement.columns)
    row = f"({', '.join('?' * len(statement.columns))})"
    # CROSS: the batch is gone through, and everything else is looked up for its rows.
    sql = statement.sql.replace(" FROM batch, ", " FROM batch CROSS JOIN ")
    return f"WITH batch ({names}) AS (VALUES {', '.join([row] * count)}) {sql}"


def _chunks(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows in order, as few at once as there are texts for."""
    first = 0
    for size in CHUNKS:
        while len(rows) - first >= size:
            yield rows[first : first + size]
            first += size


class SqliteSql:
    """Statements over one connection, inside its transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """See Sql."""
        check_text(params)
        try:
            return self._connection.execute(sql, params).fetchall()
        except OverflowError as error:
            raise ValueError(str(error)) from None

    locked = rows

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """See Sql."""
        check_text(params)
        try:
            self._connection.execute(sql, params)
        except OverflowError as error:
            raise ValueError(str(error)) from None
        return self._connection.changes()

    def bulk(self, statement: Bulk, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """See Sql."""
        for place in statement.texts:
            check_text([row[place] for row in rows])
        found: list[Row] = []
        try:
            for chunk in _chunks(rows):
                values = [value for row in chunk for value in row]
                found += self._connection.execute(_over_rows(statement, len(chunk)), values)
        except OverflowError as error:
            raise ValueError(str(error)) from None
        return found

    def serialize(self, name: str) -> None:
        """See Sql."""

    def try_serialize(self, name: str) -> bool:
        """See Sql."""
        return True

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """See Sql."""
        attempt = Attempt()
        self._connection.execute("SAVEPOINT attempt")
        try:
            yield attempt
        except _OF_THE_STATEMENT as error:
            attempt.failure = str(error)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO attempt")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE attempt")
