"""How a query of the ledger is asked: which filter leads, and how many sessions it has.

Nothing here depends on how many sessions there are. Of several filters the one with the fewest sessions
leads by its index, and the others are decided within that index. Sums over `session_counts` tell the total;
a range of time or a text is counted, up to a bound.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

import apsw

from ambientd.core.records import LedgerQuery
from ambientd.store.faults import text
from ambientd.store.search import Binding

# More kinds than this (agents made up anew for each session), and adding them up costs more than it saves.
KINDS_MAX = 20_000

_MANY_KINDS = f"SELECT 1 FROM session_counts LIMIT 1 OFFSET {KINDS_MAX}"  # noqa: S608 - constants
_ALL = "SELECT sum(sessions) FROM session_counts"
_DAYS = "SELECT sum(sessions) FROM session_day_counts WHERE bucket_date >= ? AND bucket_date < ?"
_PART = "SELECT count(*) FROM (SELECT 1 FROM session_ledger WHERE started_at >= ? AND started_at < ? LIMIT ?)"


class Filter(NamedTuple):
    """One condition on a column of `session_counts` and, under the same name, of the ledger."""

    column: str
    counted: str  # the condition over `session_counts`
    asked: str  # the condition over `l`; a "+" in front keeps its index from being used
    bindings: tuple[Binding, ...]


def kind_filters(query: LedgerQuery) -> list[Filter]:
    """The filters of a query that `session_counts` knows; raises ValueError for what no row can hold."""
    found: list[Filter] = []
    for column, value in (
        ("agent_id", query.agent_id),
        ("model_id", query.model_id),
        ("task_category", query.category),
    ):
        if value is None:
            continue
        bound = (text(value, "filter") or "",)
        asked = f"l.{column} = ?"
        if value == "" and column == "task_category":
            asked = "coalesce(l.task_category, '') = ?"
        found.append(Filter(column, f"{column} = ?", asked, bound))
    if query.statuses:
        within = f"IN ({', '.join('?' * len(query.statuses))})"
        words = tuple(sorted(status.value for status in query.statuses))
        found.append(Filter("status", f"status {within}", f"l.status {within}", words))
    return found


def counted(connection: apsw.Connection, filters: Sequence[Filter]) -> int | None:
    """How many sessions pass all filters; None when there are too many kinds to add up."""
    if connection.execute(_MANY_KINDS).get is not None:
        return None
    where = " WHERE " + " AND ".join(one.counted for one in filters) if filters else ""
    bindings = tuple(value for one in filters for value in one.bindings)
    return int(connection.execute(_ALL + where, bindings).get or 0)


def counted_between(connection: apsw.Connection, since: str, until: str, most: int) -> int:
    """How many sessions started within bounds, which are as stored instants compare with them.

    Whole days are added up; what lies before and behind them is counted, each up to `most`.
    """
    first, last = _next_day(since), until[:10]
    if first > last:  # within one day
        return _part(connection, since, until, most)
    whole = int(connection.execute(_DAYS, (first, last)).get or 0)
    return whole + sum(
        _part(connection, start, end, most)
        for start, end in ((since, first), (last, until))
        if start < end and whole < most
    )


def _part(connection: apsw.Connection, since: str, until: str, most: int) -> int:
    return int(connection.execute(_PART, (since, until, most)).get)


def _next_day(bound: str) -> str:
    """The day with which whole days begin, behind a lower bound; "" for none."""
    day, _, time = bound.partition("T")
    if not time or time.startswith("00:00:00.000Z"):
        return day
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def led(connection: apsw.Connection, filters: Sequence[Filter]) -> list[str]:
    """The conditions over `l`, in order, such that the filter with the fewest sessions leads."""
    if len(filters) < 2:
        # Several common statuses by their index would be sorted whole.
        return [_beside(one.asked) if len(one.bindings) > 1 else one.asked for one in filters]
    leaders = [one for one in filters if len(one.bindings) == 1]
    fewest = min(leaders, key=lambda one: counted(connection, [one]) or 0)
    return [one.asked if one is fewest else _beside(one.asked) for one in filters]


def _beside(condition: str) -> str:
    return f"+{condition}" if condition.startswith("l.") else condition


def newest_of_each(values: Sequence[Binding], place: str) -> str:
    """A condition that leaves, of several statuses, the newest sessions of each behind a place.

    Each status is read in its index's order; all of them together would be sorted whole. Bindings per
    status: the status, those of `place`, the limit.
    """
    behind = f" AND {place}" if place else ""
    one = (
        "SELECT session_key FROM (SELECT session_key FROM session_ledger AS l"  # noqa: S608 - constants
        f" WHERE l.status = ?{behind} ORDER BY l.started_at DESC, l.session_id DESC LIMIT ?)"
    )
    return f"l.session_key IN ({' UNION ALL '.join([one] * len(values))})"
