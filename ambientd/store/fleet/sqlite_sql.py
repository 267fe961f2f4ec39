"""`Sql` on SQLite. There is one writer, so nothing needs a lock."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import apsw

from ambientd.store.fleet.sql import Attempt, Bulk, Row, check_text

_OF_BATCH = re.compile(r"\bbatch\.([a-z_0-9]+)")
# A failing disk or a lost transaction is no matter of the statement: it must reach the writer.
_OF_THE_STATEMENT = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError, apsw.TooBigError)


@lru_cache(maxsize=128)
def _for_one_row(statement: Bulk) -> tuple[str, tuple[int, ...]]:
    """The statement with a row's values in place of the table of all rows, and where text is among them."""
    place = {name: number for number, (name, _) in enumerate(statement.columns, 1)}
    sql = statement.sql.replace(" FROM batch, ", " FROM ").replace(" FROM batch WHERE ", " WHERE ")
    return _OF_BATCH.sub(lambda found: f"?{place[found[1]]}", sql), statement.texts


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
        sql, texts = _for_one_row(statement)
        for place in texts:
            check_text([row[place] for row in rows])
        try:
            return self._connection.executemany(sql, rows).fetchall()
        except OverflowError as error:
            raise ValueError(str(error)) from None

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
