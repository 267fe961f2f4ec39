"""What sets one SQLite database of this program apart from another: its schema and its repositories."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import apsw

X = TypeVar("X")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseKind(Generic[X]):
    """`migrations` is a folder below `migrations/`; `begin` makes a transaction's repositories.

    `prepare` adds to every connection what its statements need, `undone` tells a transaction that a savepoint
    of it was taken back, `finish` is called before each commit. `head` is the number of the audit chain's
    last record, `appended` whether a transaction has added to it.
    """

    migrations: str
    prepare: Callable[[apsw.Connection], object]
    begin: Callable[[apsw.Connection, datetime], X]
    undone: Callable[[X], object]
    finish: Callable[[apsw.Connection], object]
    head: Callable[[apsw.Connection], int]
    appended: Callable[[X], bool]
