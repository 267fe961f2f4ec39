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
    of it was taken back, `finish` is called before each commit. `appended` says whether a transaction has
    appended to the audit chain, `audit_head` the number of the chain's last record.
    """

    migrations: str
    prepare: Callable[[apsw.Connection], object]
    begin: Callable[[apsw.Connection, datetime], X]
    undone: Callable[[X], object]
    finish: Callable[[apsw.Connection], object]
    appended: Callable[[X], bool]
    audit_head: Callable[[apsw.Connection], int]
