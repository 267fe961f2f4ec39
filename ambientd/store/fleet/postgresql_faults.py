"""PostgreSQL's errors in the words of `ports.errors`."""

import psycopg

from ambientd.ports.errors import StoreBusyError, StoreError, StoreFullError, UnavailableError
from ambientd.store.faults import UNAVAILABLE

# What another attempt of the same work can get over.
_PASSING = frozenset({"40001", "40P01"})
_BUSY = frozenset({"40001", "40P01", "55P03", "57014"})
_AWAY = ("08", "57", "58", "53", "XX")
_OF_VALUES = ("22", "23")


def is_passing(error: psycopg.Error) -> bool:
    """Whether the server gave the transaction up for another's sake."""
    return error.sqlstate in _PASSING


def is_lost(connection: "psycopg.Connection[object] | None", error: psycopg.Error) -> bool:
    """Whether the error speaks of the link or the server as a whole and not of what was asked."""
    state = error.sqlstate
    if state is not None and state.startswith(("57P", "08")):
        return True
    return isinstance(error, psycopg.OperationalError) and (connection is None or connection.closed)


def translate(error: psycopg.Error) -> Exception:
    """The error to raise for one of PostgreSQL's; a broken constraint is the caller's ValueError."""
    state, text = error.sqlstate or "", first_line(error)
    if state.startswith(_OF_VALUES) or (isinstance(error, psycopg.DataError) and not state):
        return ValueError(text)
    if state in _BUSY:
        return StoreBusyError(f"the database is busy: {text}")
    if state == "53100":
        return StoreFullError("the database server's disk is full; nothing was written")
    if state == "25006":
        return StoreError(f"the database cannot be written: {text}", code=UNAVAILABLE)
    if not state or state.startswith(_AWAY):
        return UnavailableError(f"the database server does not answer: {text}")
    return StoreError(f"the database refused: {text}", code=UNAVAILABLE)


def first_line(error: psycopg.Error) -> str:
    """What the server said, without the statement that it quotes behind it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
