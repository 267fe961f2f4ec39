"""Connections to PostgreSQL, and one transaction on one of them. All of this blocks: it runs in threads."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import TextLoader

from ambientd.ports.errors import UnavailableError
from ambientd.store.fleet.postgresql_faults import first_line, is_lost
from ambientd.store.fleet.postgresql_sql import PostgresqlSql
from ambientd.store.fleet.unit import FleetUnit
from ambientd.store.loan import Loan

CONNECT_TIMEOUT = 5  # seconds
# Limits of the server's side, in milliseconds: nothing waits for ever, not even when this process hangs.
_LIMITS = {
    "statement_timeout": 30_000,
    "lock_timeout": 10_000,
    "idle_in_transaction_session_timeout": 60_000,
}
# A link that is cut without a word is noticed after about half a minute, also while an answer is awaited.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
_USER_TIMEOUT = 30_000  # milliseconds
_BEGIN_WRITE = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGIN_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]


class LostError(Exception):
    """The connection ended before anything can have been committed: the work may be tried on another one."""


class UnreachableError(UnavailableError):
    """The server cannot be reached at all."""


class Pool:
    """Lends connections. When one has ended the idle ones are forgotten too: the server went, as a rule."""

    def __init__(self, conninfo: str, *, password: str | None, size: int) -> None:
        """Connects on first use. The caller sees to it that at most `size` are lent at once."""
        self._conninfo = conninfo
        self._password = password
        self._size = size
        self._idle: deque[Connection] = deque()
        self._lent = 0
        self._closed = False

    @property
    def count(self) -> int:
        """Connections there are."""
        return len(self._idle) + self._lent

    def connect(self) -> Connection:
        """A new connection; raises psycopg.Error."""
        given = conninfo_to_dict(self._conninfo)
        limits = " ".join(f"-c {name}={value}" for name, value in _LIMITS.items())
        settings: dict[str, Any] = {
            "application_name": "ambientd control-plane",
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": _USER_TIMEOUT,
            "client_encoding": "UTF8",
            **_KEEPALIVE,
            **given,
            # What is acknowledged is on disk, whatever the server's own default.
            "options": f"{given.get('options') or ''} {limits} -c synchronous_commit=on".strip(),
        }
        if self._password is not None:
            settings["password"] = self._password
        connection = psycopg.connect(autocommit=True, **settings)
        # Documents stay text: what the repositories parse is the same for both databases.
        connection.adapters.register_loader("jsonb", TextLoader)
        return connection

    def transact(self, work: Callable[[FleetUnit], T], loan: Loan, *, writing: bool) -> T:
        """Runs `work` in one transaction and commits it.

        Raises LostError, UnavailableError when the server cannot be reached, or was lost during the commit;
        psycopg.Error, and whatever `work` raises: nothing is written then.
        """
        connection = self._take()
        committing = False
        try:
            loan.hold(partial(_cancel, connection))
            connection.execute(_BEGIN_WRITE if writing else _BEGIN_READ, prepare=False)
            value = work(FleetUnit(PostgresqlSql(connection, writing=writing)))
            loan.hold(None)
            committing = writing
            connection.execute(b"COMMIT", prepare=False)
        except psycopg.Error as error:
            if not is_lost(connection, error):
                raise
            self._forget_idle()
            if committing:
                text = "the connection to the database was lost during the commit: ask again"
                raise UnavailableError(text) from error
            raise LostError(first_line(error)) from error
        finally:
            loan.hold(None)
            # The server may take a cancellation for the next query's: the connection goes.
            self._give_back(connection, keep=not loan.given_up)
        return value

    def _take(self) -> Connection:
        try:
            connection = self._idle.pop()
        except IndexError:
            try:
                connection = self.connect()
            except psycopg.Error as error:
                text = f"the database server cannot be reached: {first_line(error)}"
                raise UnreachableError(text) from error
        self._lent += 1
        return connection

    def _give_back(self, connection: Connection, *, keep: bool) -> None:
        self._lent -= 1
        with suppress(psycopg.Error):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute(b"ROLLBACK", prepare=False)
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if connection.closed or not (idle and keep) or self._closed or len(self._idle) >= self._size:
            connection.close()
        else:
            self._idle.append(connection)

    def _forget_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    def close(self) -> None:
        """Closes idle connections; one that is lent is closed when it comes back."""
        self._closed = True
        self._forget_idle()


def _cancel(connection: Connection) -> None:
    """Asks the server to end the running query. Blocks for a round trip."""
    with suppress(psycopg.Error, OSError):
        connection.cancel_safe(timeout=CONNECT_TIMEOUT)
