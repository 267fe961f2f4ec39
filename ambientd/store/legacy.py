"""The earlier JSON store behind the repositories' interfaces, for reading only (9.2.4, R3.142)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, cast

from ambientd.core.contracts.canonical import CanonicalEvent, CanonicalIngest, CanonicalUsage, content_id
from ambientd.core.ingest import end_of
from ambientd.core.legacy import Normalised
from ambientd.core.pricing import Tokens, decide, with_cost
from ambientd.core.records import (
    UNKNOWN_MODEL,
    Costable,
    EventRecord,
    LedgerQuery,
    LedgerSlice,
    NewEvent,
    NewSession,
    SessionChange,
    SessionRecord,
    UsageRecord,
)
from ambientd.core.telemetry import Span, usage_row
from ambientd.ports.errors import StoreError
from ambientd.ports.store import StoreFacts, Transaction
from ambientd.wire.enums import ACTIVE, TERMINAL, EventType

PAGE_MAX = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class ReadOnlyError(StoreError):
    """A write to the JSON store: it is a backup and nobody writes it any more (R3.147)."""

    def __init__(self) -> None:
        super().__init__("the JSON store of the earlier generation is read-only", code="STORAGE_UNAVAILABLE")


class _Kept(NamedTuple):
    session: SessionRecord
    usage: UsageRecord | None
    events: tuple[EventRecord, ...]


class JsonLedger:
    """`ports.store.LedgerRepository` over records in memory; every write raises ReadOnlyError."""

    def __init__(self, kept: Mapping[str, _Kept]) -> None:
        """The records by session id."""
        self._kept = kept

    def add(self, session: NewSession) -> None:
        """Refused."""
        raise ReadOnlyError

    def change(self, session_id: str, change: SessionChange) -> bool:
        """Refused."""
        raise ReadOnlyError

    def append(self, session_id: str, events: Sequence[NewEvent]) -> int:
        """Refused."""
        raise ReadOnlyError

    def get(self, session_id: str) -> SessionRecord | None:
        """One session by its whole id."""
        found = self._kept.get(session_id)
        return None if found is None else found.session

    def find(self, fragment: str, limit: int) -> list[SessionRecord]:
        """Sessions whose id equals, starts with or ends with `fragment`, newest first."""
        if not fragment:
            return []
        fits = (row for row in self._newest() if _is_fragment(fragment, row.session_id))
        return list(fits)[: max(limit, 0)]

    def page(self, query: LedgerQuery) -> LedgerSlice:
        """One page of summaries; the text is looked for as it is, without regard to case."""
        rows = [row for row in self._newest() if _fits(query, row)]
        total = len(rows)
        if query.after is not None:
            rows = [row for row in rows if (row.started_at, row.session_id) < query.after]
        limit = min(max(query.limit, 0), PAGE_MAX)
        return LedgerSlice(
            rows=tuple(rows[:limit]), total=total, total_is_lower_bound=False, more=len(rows) > limit
        )

    def active(self) -> list[SessionRecord]:
        """Queued and running sessions, oldest first."""
        return [row for row in reversed(self._newest()) if row.status in ACTIVE]

    def last_of_agents(self) -> Mapping[str, SessionRecord]:
        """Of each agent, the ended session that was started last."""
        return {row.agent_id: row for row in reversed(self._newest()) if row.ended_at is not None}

    def ended_since(self, at: datetime, limit: int) -> list[SessionRecord]:
        """Sessions that ended at or after an instant, newest end first."""
        ended = [(row.ended_at, row) for row in self._newest() if row.ended_at is not None]
        rows = sorted((pair for pair in ended if pair[0] >= at), key=lambda pair: pair[0], reverse=True)
        return [row for _, row in rows[: max(limit, 0)]]

    def events(self, session_id: str, after_seq: int, limit: int) -> list[EventRecord]:
        """Events with `seq` greater than `after_seq`, in order."""
        found = self._kept.get(session_id)
        events = () if found is None else found.events
        return [event for event in events if event.seq > after_seq][: max(limit, 0)]

    def events_of_type(self, session_id: str, event_type: str, limit: int) -> list[EventRecord]:
        """Events of one type, in order; raises ValueError for a type that does not exist."""
        kind = EventType(event_type)
        events = self.events(session_id, 0, 2**31)
        return [event for event in events if event.event_type is kind][: max(limit, 0)]

    def count(self) -> int:
        """How many sessions the store holds."""
        return len(self._kept)

    def _newest(self) -> list[SessionRecord]:
        rows = (item.session for item in self._kept.values())
        return sorted(rows, key=lambda row: (row.started_at, row.session_id), reverse=True)


class JsonUsage:
    """`ports.store.UsageRepository` over records in memory; every write raises ReadOnlyError."""

    def __init__(self, kept: Mapping[str, _Kept]) -> None:
        """The records by session id."""
        self._kept = kept

    def put(self, usage: UsageRecord) -> None:
        """Refused."""
        raise ReadOnlyError

    def account(self, session_id: str) -> None:
        """Refused."""
        raise ReadOnlyError

    def get(self, session_id: str) -> UsageRecord | None:
        """The usage row, if any."""
        found = self._kept.get(session_id)
        return None if found is None else found.usage

    def costable(
        self, after: int, limit: int, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[Costable]:
        """Refused: what is read-only is not costed anew."""
        raise ReadOnlyError


class JsonTransaction:
    """The repositories that the JSON store has; asking for another raises StoreError."""

    def __init__(self, kept: Mapping[str, _Kept]) -> None:
        """The records by session id."""
        self.ledger = JsonLedger(kept)
        self.usage = JsonUsage(kept)

    def __getattr__(self, name: str) -> Any:
        raise StoreError(f"the JSON store of the earlier generation has no {name}")


class JsonStore:
    """`ports.store.Store` over records of the earlier generation."""

    def __init__(self, records: Sequence[Normalised]) -> None:
        """Of two records of one session the first counts."""
        self._kept: dict[str, _Kept] = {}
        for record in records:
            self._kept.setdefault(record.ingest.session.session_id, _keep(record))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Raises ReadOnlyError; `work` is not called."""
        raise ReadOnlyError

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` over the records."""
        return work(cast("Transaction", JsonTransaction(self._kept)))

    def facts(self) -> StoreFacts:
        """The state of a store that is always there."""
        return JsonStoreFacts()


class JsonStoreFacts(NamedTuple):
    """`ports.store.StoreFacts` of records in memory."""

    ready: bool = True
    reason: str | None = None
    degraded: str | None = None
    schema_version: int = 0
    size_bytes: int = 0


def _keep(record: Normalised) -> _Kept:
    ingest = record.ingest
    said = ingest.session
    events = _events(said.session_id, ingest.events)
    artifacts = sum(event.event_type is EventType.ARTIFACT for event in events)
    ended_at, span = _end(ingest)
    usage = usage_row(said.session_id, ingest.usage, span, _EPOCH)
    usage = with_cost(usage, decide(reported=ingest.usage.cost_usd, tokens=Tokens(), model=None, table=None))
    if record.estimate is not None:
        usage = with_cost(usage, record.estimate)
    return _Kept(
        session=SessionRecord(
            session_id=said.session_id,
            run_id=said.run_id,
            agent_id=said.agent_id,
            agent_label=said.agent_label or said.agent_id,
            model_id=said.model_id or UNKNOWN_MODEL,
            task_title=said.task_title,
            task_text=said.task_text,
            task_category=said.task_category,
            status=said.status,
            started_at=said.started_at,
            ended_at=ended_at,
            runtime_ms=usage.runtime_ms,
            running_since=None,
            artifact_count=max(said.artifact_count or 0, artifacts),
            error_code=said.error_code,
            error_message=said.error_message,
            source_version=said.source_version,
            ingested_at=_EPOCH,
            total_tokens=usage.total_tokens,
            cost_usd=usage.cost_usd,
            cost_confidence=usage.cost_confidence,
        ),
        usage=usage if _says_anything(record) else None,
        events=events,
    )


def _says_anything(record: Normalised) -> bool:
    """Whether there is a usage row: of an ended session always, of an open one when it said something."""
    reported = record.ingest.usage != CanonicalUsage() or record.estimate is not None
    return record.ingest.session.is_terminal or reported


def _end(ingest: CanonicalIngest) -> tuple[datetime | None, Span]:
    """The end where the record tells of one; the moment of an import is none."""
    start = ingest.session.started_at
    if ingest.session.status not in TERMINAL:
        return None, Span(start, None)
    end = end_of(ingest, None, ingest.usage.runtime_ms, start)
    told = end.span.ended_at is not None or ingest.usage.runtime_ms is not None
    return (end.at if told else None), end.span


def _events(session_id: str, events: Sequence[CanonicalEvent]) -> tuple[EventRecord, ...]:
    last = max((event.seq or 0 for event in events), default=0)
    found = []
    for event in events:
        seq = event.seq
        if seq is None:
            last += 1
            seq = last
        found.append(
            EventRecord(
                event_id=event.event_id or content_id(session_id, event, 0),
                session_id=session_id,
                seq=seq,
                event_type=event.event_type,
                at=event.at,
                payload=event.payload,
            )
        )
    return tuple(sorted(found, key=lambda event: event.seq))


def _is_fragment(fragment: str, session_id: str) -> bool:
    return session_id.startswith(fragment) or session_id.endswith(fragment)


def _fits(query: LedgerQuery, row: SessionRecord) -> bool:
    equal = (
        (query.agent_id, row.agent_id),
        (query.model_id, row.model_id),
        (query.category, row.task_category or ""),
    )
    return (
        all(wanted is None or wanted == found for wanted, found in equal)
        and (not query.statuses or row.status in query.statuses)
        and (query.since is None or row.started_at >= query.since)
        and (query.until is None or row.started_at < query.until)
        and _has_text(query.text, row)
    )


def _has_text(text: str | None, row: SessionRecord) -> bool:
    if text is None or not text.strip():
        return True
    needle = text.strip().casefold()
    texts = (row.session_id, row.task_title, row.task_text)
    return any(needle in found.casefold() for found in texts if found)
