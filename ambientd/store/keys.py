"""From the id that people see to the integer that the tables are joined by."""

import apsw


class Keys:
    """Looks up session keys, remembering those of one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Belongs to one transaction: a later one may see other sessions."""
        self._connection = connection
        self._seen: dict[str, int] = {}

    def remember(self, session_id: str, key: int) -> None:
        """A session that was just added."""
        self._seen[session_id] = key

    def forget(self) -> None:
        """After a rollback nothing that was seen is certain."""
        self._seen.clear()

    def find(self, session_id: str) -> int | None:
        """The key, None when no session has this id."""
        key = self._seen.get(session_id)
        if key is None:
            found = self._connection.execute(
                "SELECT session_key FROM session_ledger WHERE session_id = ?", (_searchable(session_id),)
            ).get
            if found is None:
                return None
            key = int(found)
            self._seen[session_id] = key
        return key

    def need(self, session_id: str) -> int:
        """The key; raises LookupError when no session has this id."""
        key = self.find(session_id)
        if key is None:
            raise LookupError(f"no session has the id {session_id[:64]!r}")
        return key


def _searchable(text: str) -> str:
    """A lone surrogate is in no stored text, and SQLite would not take it."""
    return text.encode(errors="replace").decode()
