"""Who hears of whatever is new in the audit and the ledger."""

from collections.abc import Callable


class Tells:
    """Passes on what the store and the board of news tell. Nobody who hears of it may block or raise."""

    def __init__(self, audit_moved: Callable[[int], None]) -> None:
        """`audit_moved` hears the number of the last audit record."""
        self._audit_moved = audit_moved
        self._of_sessions: list[Callable[[], None]] = []
        self._of_all: list[Callable[[], None]] = []

    def sessions_to(self, tell: Callable[[], None]) -> None:
        """`tell` hears of sessions only."""
        self._of_sessions.append(tell)

    def all_to(self, tell: Callable[[], None]) -> None:
        """`tell` hears of sessions and of the audit."""
        self._of_all.append(tell)

    def audited(self, seq: int) -> None:
        """The audit's last record is `seq` now."""
        self._audit_moved(seq)
        for tell in self._of_all:
            tell()

    def session(self, _session_id: str) -> None:
        """A session has news."""
        for tell in (*self._of_sessions, *self._of_all):
            tell()
