"""The newest sessions with some words, without looking at all that have them.

Few matches are all looked at. Many are not: sessions come in about as they start, so their keys
are nearly in the order of their starts. The full-text index gives the highest keys first; the index by time
then says which sessions of the same span have other keys, and only those are looked at one by one.
"""

from typing import Any, NamedTuple

import apsw
import msgspec

from ambientd.store.search import MATCHES_MAX, SUFFIX_INDEXED, SUFFIX_SQL, plain_expression, suffix_bindings

# With fewer matches than this, looking at all of them is as fast.
COMMON_MIN = 100
# More sessions out of order than this (a large import of old ones), and all matches are sorted instead.
STRAGGLERS_MAX = 500
ENDS_MAX = 200

_MATCHING = "SELECT rowid FROM session_search WHERE session_search MATCH ?"
_SOME = f"{_MATCHING} LIMIT ?"
_HOW_MANY = f"SELECT count(*) FROM ({_SOME})"  # noqa: S608 - constants
_ENDING = f"SELECT session_key FROM session_ledger WHERE {SUFFIX_SQL} LIMIT {ENDS_MAX + 1}"  # noqa: S608 - constants
_AMONG = (
    "SELECT session_key, started_at, session_id FROM session_ledger"
    " WHERE session_key IN (SELECT value FROM json_each(?))"
)
_AT_PLACE = (
    "SELECT session_key FROM session_ledger WHERE (started_at, session_id) <= (?, ?)"
    " ORDER BY started_at DESC, session_id DESC LIMIT 1"
)
_OUT_OF_ORDER = (
    "SELECT session_key FROM session_ledger"  # noqa: S608 - constants
    " WHERE started_at >= ? AND (started_at, session_id) < (?, ?)"
    f" AND (session_key < ? OR session_key > ?) LIMIT {STRAGGLERS_MAX + 1}"
)

# Behind every place: no instant and no id is greater.
END = ("~", "")
_KEY_MAX = 2**63 - 1


class TextPage(NamedTuple):
    """Keys of the newest sessions, unordered and maybe a few too many; how many match (10,001: more)."""

    keys: list[int]
    total: int


def text_page(
    connection: apsw.Connection, text: str, limit: int, after: tuple[str, str] | None
) -> TextPage | None:
    """The newest `limit` sessions that match a text, behind a place; None when the plain way is better."""
    expression = plain_expression(text)
    if expression is None:
        return None
    matches = _Matches(connection, expression)
    ends = _ending(connection, text.strip(), matches)
    newest = None if ends is None else matches.newest(limit, after or END)
    if ends is None or newest is None:
        return None
    return TextPage(newest + ends, min(matches.count + len(ends), MATCHES_MAX + 1))


def _ending(connection: apsw.Connection, needle: str, matches: "_Matches") -> list[int] | None:
    """Sessions whose id ends with the text and that do not match otherwise; None for too many."""
    if len(needle) < SUFFIX_INDEXED or " " in needle:
        return []
    keys = [int(key) for (key,) in connection.execute(_ENDING, suffix_bindings(needle))]
    return None if len(keys) > ENDS_MAX else [key for key in keys if not matches.has(key)]


class _Matches:
    """What the full-text index has for an expression."""

    def __init__(self, connection: apsw.Connection, expression: str) -> None:
        self._connection = connection
        self._expression = expression
        self._some = [int(key) for (key,) in connection.execute(_SOME, (expression, COMMON_MIN))]
        self.count = len(self._some)
        if self.count == COMMON_MIN:
            self.count = int(connection.execute(_HOW_MANY, (expression, MATCHES_MAX + 1)).get)

    def has(self, key: int) -> bool:
        """Whether one session matches."""
        one = f"{_MATCHING} AND rowid = ?"
        return self._connection.execute(one, (self._expression, key)).fetchone() is not None

    def newest(self, limit: int, after: tuple[str, str]) -> list[int] | None:
        """Keys among which the newest `limit` behind a place are; None when they must all be sorted."""
        if self.count < COMMON_MIN:
            return self._some
        top = int((_KEY_MAX if after is END else self._connection.execute(_AT_PLACE, after).get) or 0)
        rows = self._behind(top, limit, after)
        if len(rows) < limit:
            return None
        oldest, lowest = min(str(row[1]) for row in rows), min(int(row[0]) for row in rows)
        bindings = (oldest, *after, lowest, top)
        others = [int(key) for (key,) in self._connection.execute(_OUT_OF_ORDER, bindings)]
        if len(others) > STRAGGLERS_MAX:
            return None
        return [int(row[0]) for row in rows] + [key for key in others if self.has(key)]

    def _behind(self, top: int, limit: int, after: tuple[str, str]) -> list[tuple[Any, ...]]:
        """Up to `limit` matches with the highest keys up to `top` that lie behind the place."""
        highest = f"{_MATCHING} AND rowid <= ? ORDER BY rowid DESC LIMIT ?"
        asked = (self._expression, top, limit + STRAGGLERS_MAX)
        keys = [int(key) for (key,) in self._connection.execute(highest, asked)]
        rows: list[tuple[Any, ...]] = []
        while len(rows) < limit and keys:
            part, keys = keys[:limit], keys[limit:]
            found = self._connection.execute(_AMONG, (msgspec.json.encode(part).decode(),))
            rows += [row for row in found if (row[1], row[2]) < after]
        rows.sort(key=lambda row: int(row[0]), reverse=True)
        return rows[:limit]
