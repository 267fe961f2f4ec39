"""What differs between the earlier JSON store and the ledger: an import that went well leaves nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from ambientd.core.records import SessionRecord, UsageRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.legacy_messages import LegacyComparison, LegacyDifference, LegacySums

# A row can hold texts of half a megabyte; what differs is seen in its beginning, or in its length.
SHOWN_MAX = 80


class SessionState(NamedTuple):
    """One session as one of the two stores knows it."""

    session_id: str
    session: SessionRecord | None
    usage: UsageRecord | None
    events: int


_SESSION: tuple[str, ...] = (
    "agent_id",
    "model_id",
    "run_id",
    "status",
    "task_title",
    "task_text",
    "task_category",
    "started_at",
    "ended_at",
    "runtime_ms",
    "error_code",
    "error_message",
)
_USAGE: tuple[str, ...] = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cost_usd",
    "cost_confidence",
    "provider",
)
_SAME_COST_USD = 1e-9  # the aggregates' own unit


@dataclass
class Comparison:
    """Adds up what was compared; differences past `limit` are only counted."""

    unusable: int
    limit: int
    compared: int = 0
    json: LegacySums = field(default_factory=LegacySums)
    sqlite: LegacySums = field(default_factory=LegacySums)
    differences: list[LegacyDifference] = field(default_factory=list)
    count: int = 0

    def note(self, session_id: str, name: str, theirs: str, ours: str | None) -> None:
        """One value that differs."""
        self.count += 1
        if len(self.differences) < self.limit:
            difference = LegacyDifference(session_id=session_id, field=name, json=theirs, sqlite=ours)
            self.differences.append(difference)

    def add(self, other: "Comparison") -> None:
        """Takes another comparison in."""
        self.unusable += other.unusable
        self.compared += other.compared
        self.count += other.count
        self.differences += other.differences[: self.limit - len(self.differences)]
        for sums, more in ((self.json, other.json), (self.sqlite, other.sqlite)):
            for name in sums.__struct_fields__:
                setattr(sums, name, getattr(sums, name) + getattr(more, name))

    def view(self) -> LegacyComparison:
        """The result; sums of money are rounded to the aggregates' unit."""
        for sums in (self.json, self.sqlite):
            sums.cost_usd = round(sums.cost_usd, 9)
        return LegacyComparison(
            compared=self.compared,
            unusable=self.unusable,
            json=self.json,
            sqlite=self.sqlite,
            differences=self.differences,
            difference_count=self.count,
        )


def compare(theirs: SessionState, ours: SessionState, found: Comparison) -> None:
    """Compares one session. What the earlier store did not know cannot differ."""
    if theirs.session is None:
        return
    found.compared += 1
    _add(found.json, theirs)
    if ours.session is None:
        found.note(theirs.session_id, "session", theirs.session.status.value, None)
        return
    _add(found.sqlite, ours)
    _compare_fields(theirs.session_id, _SESSION, theirs.session, ours.session, found)
    if theirs.usage is not None:
        _compare_fields(theirs.session_id, _USAGE, theirs.usage, ours.usage, found)
    if ours.events < theirs.events:
        found.note(theirs.session_id, "events", str(theirs.events), str(ours.events))


def _compare_fields(
    session_id: str, names: tuple[str, ...], theirs: object, ours: object, found: Comparison
) -> None:
    for name in names:
        one, other = getattr(theirs, name), getattr(ours, name, None)
        if one is not None and not _is_same(one, other):
            found.note(session_id, name, _shown(one), None if other is None else _shown(other))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < _SAME_COST_USD
    return bool(one == other)


def _shown(value: Any) -> str:
    spell: dict[type, Callable[[Any], str]] = {datetime: rfc3339_ms, str: str}
    text = value.value if isinstance(value, Enum) else spell.get(type(value), repr)(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}… ({len(text)} characters)"


def _add(sums: LegacySums, state: SessionState) -> None:
    sums.sessions += 1
    sums.events += state.events
    if state.session is not None:
        sums.runtime_ms += state.session.runtime_ms or 0
    if state.usage is not None:
        sums.tokens += state.usage.total_tokens or 0
        sums.cost_usd += state.usage.cost_usd or 0.0
