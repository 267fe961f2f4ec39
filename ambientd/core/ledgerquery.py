"""The ledger's query string: every problem at once, then typed filters (R3.105–R3.111)."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time

from ambientd.core.records import LedgerQuery
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import parse_rfc3339
from ambientd.core.views import decode_cursor
from ambientd.wire.enums import LedgerSort, SessionStatus
from ambientd.wire.messages import ErrorDetail

DEFAULT_LIMIT = 50
PAGED_ROWS_MAX = 10_000


def parse_query(query: Mapping[str, str]) -> LedgerQuery | Rejected:
    """Filters of `GET /api/v3/ledger`; the router has checked names and integers."""
    problems: list[ErrorDetail] = []
    statuses = _statuses(query.get("status", ""), problems)
    since, until = (_instant(query, name, problems) for name in ("from", "to"))
    sort = LedgerSort(query.get("sort", LedgerSort.NEWEST.value))
    place = decode_cursor(query["cursor"], sort) if "cursor" in query else None
    if isinstance(place, Rejected):
        problems.extend(place.details)
        place = None
    limit, offset = _page(query, problems)
    text = query.get("q")
    if text is not None and ("\x00" in text or not text.strip()):
        problems.append(ErrorDetail("q", "invalid", "expected text to look for"))
    if problems:
        return Rejected("VALIDATION_ERROR", "Invalid query", tuple(problems))
    return LedgerQuery(
        agent_id=query.get("agent"),
        statuses=statuses,
        model_id=query.get("model"),
        category=query.get("category"),
        since=since,
        until=until,
        text=text,
        limit=limit,
        offset=offset,
        sort=sort,
        after=(place[0], place[1]) if place is not None and isinstance(place[0], datetime) else None,
        place=(place[0], place[1]) if place is not None and not isinstance(place[0], datetime) else None,
    )


def _page(query: Mapping[str, str], problems: list[ErrorDetail]) -> tuple[int, int]:
    """How many rows, and how many before them."""
    if "page" not in query and "pageSize" not in query:
        return int(query.get("limit", str(DEFAULT_LIMIT))), 0
    problems += [
        ErrorDetail(name, "not_allowed", "cannot be given together with page or pageSize")
        for name in ("cursor", "limit")
        if name in query
    ]
    page, size = int(query.get("page", "1")), int(query.get("pageSize", str(DEFAULT_LIMIT)))
    if page * size > PAGED_ROWS_MAX:
        text = f"only the first {PAGED_ROWS_MAX} rows have pages; use `cursor` beyond them"
        problems.append(ErrorDetail("page", "range", text))
    return size, (page - 1) * size


def _statuses(text: str, problems: list[ErrorDetail]) -> frozenset[SessionStatus]:
    found: set[SessionStatus] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.add(SessionStatus(word))
        except ValueError:
            known = ", ".join(SessionStatus)
            problems.append(ErrorDetail("status", "enum", "not a status of a session", expected=known))
    return frozenset(found)


def _instant(query: Mapping[str, str], name: str, problems: list[ErrorDetail]) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        return parse_rfc3339(text)
    except ValueError:
        expected = "2026-11-20 or 2026-11-20T15:40:03Z"
        problems.append(ErrorDetail(name, "invalid", "not a day or an RFC 3339 instant", expected=expected))
        return None
