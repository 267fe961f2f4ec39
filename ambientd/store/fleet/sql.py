"""One SQL text for both databases, and the values that go into it.

Statements mark parameters by `?` and use what both have: ON CONFLICT, RETURNING, UPDATE … FROM, row values.
What differs is behind `Sql`. A statement must never break a constraint in its ordinary course: PostgreSQL
gives up the whole transaction then.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from ambientd.core.timefmt import from_ms, to_ms

Row = tuple[Any, ...]
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Bulk(NamedTuple):
    """A statement over many rows of values, which it finds in a table `batch` with these columns.

    On PostgreSQL it runs once for all rows, on SQLite once for some of them at a time; so a row must not meet
    another one. `batch` must stand first behind FROM, alone or before a comma, and all its columns must be
    named with it. `lock` names the table (as the statement does) whose rows are locked until the end of the
    transaction.
    """

    columns: tuple[tuple[str, str], ...]  # name and PostgreSQL's type
    sql: str
    lock: str = ""

    @property
    def texts(self) -> tuple[int, ...]:
        """Places of the columns that hold text."""
        return tuple(place for place, (_, kind) in enumerate(self.columns) if kind == "text")


def all_of_batch(columns: Sequence[tuple[str, str]]) -> str:
    """The columns of `batch`, for `INSERT … SELECT`."""
    return ", ".join(f"batch.{name}" for name, _ in columns)


class Attempt:
    """What became of statements that may fail: `failure` is a sentence when they were taken back."""

    failure: str | None = None


class Sql(Protocol):
    """Statements inside one transaction. Raises the driver's errors, which the store translates."""

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, or of RETURNING."""

    def locked(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """The same; the rows of its one table are locked until the end of the transaction, in a write."""

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """How many rows a statement changed."""

    def bulk(self, statement: Bulk, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """Rows of RETURNING or of a query, of all rows of values together."""

    def serialize(self, name: str) -> None:
        """Waits until no other transaction holds this name; holds it until the end of this one."""

    def try_serialize(self, name: str) -> bool:
        """The same without waiting; False when another transaction holds it."""

    def attempt(self) -> AbstractContextManager[Attempt]:
        """Statements inside it may fail without harm to the transaction: they are taken back then."""


def one(rows: Sequence[Row]) -> Row | None:
    """The only row of a query by a key."""
    return rows[0] if rows else None


def marks(columns: str) -> str:
    """As many marks as there are columns."""
    return ", ".join("?" * (columns.count(",") + 1))


def is_in(values: Iterable[object]) -> str:
    """`IN (?, …)` with a mark for each value; the values are few and bounded by the caller."""
    return f"IN ({', '.join('?' for _ in values)})"


def ms(at: datetime | None) -> int | None:
    """An instant as it is stored."""
    return None if at is None else to_ms(at)


def at(value: int | None) -> datetime | None:
    """A stored instant."""
    return None if value is None else from_ms(value)


def json_text(value: object) -> str:
    """A document as it is stored. Raises ValueError for what either database would refuse."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a JSON document: {error}") from None
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        raise ValueError("a document with a NUL character cannot be stored")
    return text


def json_value(text: str) -> Any:
    """A stored document."""
    return msgspec.json.decode(text)


def digest(value: bytes | None) -> bytes | None:
    """Bytes as both drivers give them."""
    return None if value is None else bytes(value)


def check_text(params: Sequence[Any]) -> None:
    """Raises ValueError for a text with a NUL character, which PostgreSQL refuses and SQLite would cut."""
    for value in params:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("a NUL character cannot be stored")
