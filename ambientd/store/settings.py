"""Small facts of the node's own in SQLite, by name."""

import apsw

from ambientd.store.faults import text

_PUT = (
    "INSERT INTO node_settings (name, value) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_BEGINS = "SELECT name, value FROM node_settings WHERE name >= ? AND name < ? ORDER BY name"


class SqliteSettings:
    """`ports.store.SettingsRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def get(self, name: str) -> str | None:
        """The value under a name."""
        found = self._connection.execute("SELECT value FROM node_settings WHERE name = ?", (name,)).get
        return None if found is None else str(found)

    def put(self, name: str, value: str) -> None:
        """Sets or replaces a value; raises ValueError for what cannot be stored."""
        self._connection.execute(_PUT, (text(name, "name"), text(value, "value")))

    def beginning(self, prefix: str) -> dict[str, str]:
        """All values whose names begin so, by the rest of the name."""
        rows = self._connection.execute(_BEGINS, (prefix, prefix + "\U0010ffff"))
        return {name[len(prefix) :]: value for name, value in rows}
