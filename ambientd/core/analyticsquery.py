"""The query strings of `/api/v3/analytics`: every problem at once, then typed questions (R3.113, R3.117)."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo

from ambientd.core.analytics import MatrixQuery, Scope, UsageQuery, start_of
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.enums import MatrixSplit, UsageGroup
from ambientd.wire.messages import ErrorDetail

_ZONE_NAME_MAX = 64
_YEAR_MIN, _YEAR_MAX = 2, 9998  # so that a day more or less, and any offset, is a date still

FindZone = Callable[[str], tzinfo | None]
"""The zone of an IANA name, None when there is none."""


def parse_usage(query: Mapping[str, str], find_zone: FindZone) -> UsageQuery | Rejected:
    """The question of `GET /api/v3/analytics/usage`; days in `from` and `to` are those of `tz`."""
    problems: list[ErrorDetail] = []
    name = query.get("tz", "UTC")
    zone = UTC if name == "UTC" else find_zone(name) if len(name) <= _ZONE_NAME_MAX else None
    if zone is None:
        expected = "an IANA name such as Europe/Berlin"
        problems.append(ErrorDetail("tz", "unknown", "no time zone of this node has that name", expected))
    scope = _scope(query, zone or UTC, problems)
    if problems or zone is None:
        return _refusal(problems)
    group = UsageGroup(query.get("groupBy", UsageGroup.DAY.value))
    return UsageQuery(scope=scope, group_by=group, zone=zone, zone_name=name)


def parse_matrix(query: Mapping[str, str]) -> MatrixQuery | Rejected:
    """The question of `GET /api/v3/analytics/performance`."""
    problems: list[ErrorDetail] = []
    scope = _scope(query, UTC, problems)
    if problems:
        return _refusal(problems)
    return MatrixQuery(scope=scope, split=MatrixSplit(query.get("splitBy", MatrixSplit.NONE.value)))


def _refusal(problems: list[ErrorDetail]) -> Rejected:
    return Rejected("VALIDATION_ERROR", "Invalid query", tuple(sorted(problems, key=lambda one: one.field)))


def _scope(query: Mapping[str, str], zone: tzinfo, problems: list[ErrorDetail]) -> Scope:
    since, until = (_instant(query, name, zone, problems) for name in ("from", "to"))
    if since is not None and until is not None and until <= since:
        problems.append(ErrorDetail("to", "range", "must lie after `from`"))
    problems += [
        ErrorDetail(name, "invalid", "holds a NUL character")
        for name in ("agent", "model", "task")
        if "\0" in query.get(name, "")
    ]
    return Scope(
        since=since,
        until=until,
        agent_id=query.get("agent"),
        model_id=query.get("model"),
        category=query.get("task"),
    )


def _instant(
    query: Mapping[str, str], name: str, zone: tzinfo, problems: list[ErrorDetail]
) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        if len(text) == len("2026-11-20"):
            return start_of(_checked(date.fromisoformat(text)), zone)
        at = parse_rfc3339(text)
        _checked(at.date())
        # The ledger keeps milliseconds: a bound within one is the same as a bound behind it.
        return at + timedelta(microseconds=-at.microsecond % 1000)
    except ValueError:
        expected = "2026-11-20 or 2026-11-20T15:40:03Z"
        problems.append(ErrorDetail(name, "invalid", "not a day or an RFC 3339 instant", expected))
        return None


def _checked(day: date) -> date:
    if not _YEAR_MIN <= day.year <= _YEAR_MAX:
        raise ValueError("outside the calendar")
    return day
