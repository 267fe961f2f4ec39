"""Orders of the ledger's list, and what lies behind a place in one.

There is no index over runtimes or costs: each new session would be written to it at another place. What is
kept for the daily sums has both in a tenth of the room; reading that tells where the first page ends.
"""

from typing import NamedTuple

import apsw
import msgspec

from ambientd.core.records import LedgerQuery, SessionRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.faults import text
from ambientd.wire.enums import LedgerSort

# In falling order NULL comes last by itself.
_VALUES = {LedgerSort.RUNTIME: "l.runtime_ms", LedgerSort.COST: "u.cost_usd"}

Bindings = list[str | int | float]

_KEPT = {LedgerSort.RUNTIME: "runtime_ms", LedgerSort.COST: "cost_nano"}
_FIGURES = {LedgerSort.RUNTIME: 1.0, LedgerSort.COST: 1e9}  # of what is kept, per unit of the ledger's
# More than these at once (many equal figures), and they are sorted as all the others are.
CANDIDATES_MAX = 5_000
# Sessions that ended and are not kept, or of which the days are to be built again.
_MISSING = (
    "SELECT EXISTS (SELECT 1 FROM usage_days WHERE is_incomplete) OR (SELECT count(*) FROM session_accounted)"
    " <> (SELECT coalesce(sum(sessions), 0) FROM session_counts WHERE status NOT IN ('queued', 'running'))"
)


def order_of(sort: LedgerSort) -> str:
    """The clause; ties by id, so that every order is a total one."""
    if sort is LedgerSort.NEWEST:
        return " ORDER BY l.started_at DESC, l.session_id DESC"
    return f" ORDER BY {_VALUES[sort]} DESC, l.session_id DESC"


def behind(query: LedgerQuery) -> tuple[list[str], Bindings]:
    """The condition for what follows the page before, if there was one."""
    if query.after is not None and query.sort is LedgerSort.NEWEST:
        return ["(l.started_at, l.session_id) < (?, ?)"], [rfc3339_ms(query.after[0]), _need(query.after[1])]
    if query.place is None or query.sort is LedgerSort.NEWEST:
        return [], []
    figure, session_id = query.place
    value = _VALUES[query.sort]
    if figure is None:
        return [f"({value} IS NULL AND l.session_id < ?)"], [_need(session_id)]
    condition = f"({value} < ? OR {value} IS NULL OR ({value} = ? AND l.session_id < ?))"
    return [condition], [figure, figure, _need(session_id)]


def _need(value: str) -> str:
    return text(value, "cursor") or ""


class Candidates(NamedTuple):
    """Keys, as JSON, of all sessions whose figure is at least this large, and of the open ones."""

    keys: str
    least: int

    def have(self, last: SessionRecord, sort: LedgerSort) -> bool:
        """Whether nothing else can belong before this row."""
        figure = figure_of(last, sort)
        return figure is not None and round(figure * _FIGURES[sort]) >= self.least


def candidates(connection: apsw.Connection, query: LedgerQuery, rows: int) -> Candidates | None:
    """Among which the next `rows` sessions are, if they are as large as what has ended.

    Of a query without any filter; None when the sessions themselves must be read: figures that are unknown
    are not told from 0 in what is kept, and of a day that is to be built again nothing is kept.
    """
    if query.sort is LedgerSort.NEWEST or connection.execute(_MISSING).get:
        return None
    kept = _KEPT[query.sort]
    most = ""
    bindings: Bindings = []
    if query.place is not None:
        figure = query.place[0]
        if figure is None:
            return None
        most, bindings = f" AND {kept} <= ?", [round(figure * _FIGURES[query.sort])]
    among = f"FROM session_accounted WHERE {kept} > 0{most}"
    least = connection.execute(
        f"SELECT min(figure) FROM (SELECT {kept} AS figure {among} ORDER BY 1 DESC LIMIT ?)",  # noqa: S608 - constants
        (*bindings, rows),
    ).get
    if least is None:
        return None
    found = connection.execute(
        f"SELECT session_key {among} AND {kept} >= ?"  # noqa: S608 - constants
        " UNION ALL SELECT session_key FROM session_ledger WHERE status IN ('queued', 'running')"
        f" LIMIT {CANDIDATES_MAX + 1}",
        (*bindings, least),
    )
    keys = [int(key) for (key,) in found]
    return None if len(keys) > CANDIDATES_MAX else Candidates(msgspec.json.encode(keys).decode(), int(least))


def figure_of(record: SessionRecord, sort: LedgerSort) -> float | None:
    """What a session is sorted by."""
    return record.cost_usd if sort is LedgerSort.COST else record.runtime_ms
