"""Orders of the ledger's list, and what lies behind a place in one."""

from ambientd.core.records import LedgerQuery
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.faults import text
from ambientd.wire.enums import LedgerSort

# In falling order NULL comes last by itself.
_VALUES = {LedgerSort.RUNTIME: "l.runtime_ms", LedgerSort.COST: "u.cost_usd"}

Bindings = list[str | int | float]


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
