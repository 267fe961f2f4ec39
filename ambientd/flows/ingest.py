"""Taking in sessions from outside: idempotency verdict, upsert, events, usage, aggregates, in one step."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from ambientd.core import pricing, telemetry
from ambientd.core.contracts.canonical import (
    CanonicalEvent,
    CanonicalIngest,
    CanonicalUsage,
    content_id,
    fingerprint,
)
from ambientd.core.contracts.problems import MAX_PROBLEMS
from ambientd.core.contracts.rejections import Rejections
from ambientd.core.ingest import (
    Mode,
    StoredSession,
    advance,
    conflict,
    contradiction,
    end_of,
    merge_usage,
    mode_of,
)
from ambientd.core.pricing import PriceTable
from ambientd.core.records import UNKNOWN_MODEL, KeptEvent, KeptKey, PlacedEvent, UsageRecord
from ambientd.core.rejection import Rejected
from ambientd.core.telemetry import Span
from ambientd.core.timefmt import to_ms
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction
from ambientd.wire.enums import TERMINAL, EventType, MetricConfidence, MetricSource, SessionStatus
from ambientd.wire.messages import ErrorDetail, IngestAnswer

_REPORTED = MetricSource.PROVIDER_REPORTED


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """A taken ingest. `replay`: the very same was taken before, and nothing was written.

    `changed`: something of the session changed. `ended`: the session was closed by this.
    """

    session_id: str
    replay: bool = False
    changed: bool = False
    ended: bool = False


def apply(
    tx: Transaction, ingest: CanonicalIngest, at: datetime, *, prices: PriceTable | None = None
) -> Ingested | Rejected:
    """One ingest inside a transaction. A refusal has written nothing.

    `at` is the moment of arrival; `prices` estimate the cost of sessions that report tokens only.
    """
    session_id = ingest.session.session_id
    key, content = key_of(ingest), fingerprint(ingest)
    kept = tx.ingest.key(key)
    if kept is not None and kept.fingerprint == content and kept.session_id == session_id:
        return Ingested(session_id=session_id, replay=True)
    if kept is not None and ingest.idempotency_key is not None:
        detail = ErrorDetail("idempotency_key", "conflict", "was used for another content")
        text = "the idempotency key was used for another content; nothing was written"
        return Rejected("IDEMPOTENCY_CONFLICT", text, (detail,))
    stored = tx.ingest.session(session_id)
    if stored is not None:
        rejected = contradiction(stored, ingest)
        if rejected is not None:
            return rejected
    placed = _place_events(tx, ingest, is_new=stored is None)
    if isinstance(placed, Rejected):
        return placed
    write = _Write(tx, ingest, at, prices)
    changed = write.new(placed) if stored is None else write.again(stored, placed)
    tx.ingest.put_key(key, KeptKey(session_id=session_id, fingerprint=content), at)
    if changed and write.status in TERMINAL:
        tx.usage.account(session_id)
    was_open = stored is None or stored.status not in TERMINAL
    return Ingested(session_id=session_id, changed=changed, ended=was_open and write.status in TERMINAL)


def key_of(ingest: CanonicalIngest) -> str:
    """The key under which an ingest is remembered: the sender's own, else session and state (ruling 9)."""
    if ingest.idempotency_key is not None:
        return f"key:{ingest.source}:{ingest.idempotency_key}"
    state = ingest.session.status.value if ingest.session.is_terminal else "open"
    return f"{state}:{ingest.session.session_id}"


class _Write:
    """The writes of one ingest, after everything was found to fit."""

    def __init__(
        self, tx: Transaction, ingest: CanonicalIngest, at: datetime, prices: PriceTable | None
    ) -> None:
        self._tx = tx
        self._ingest = ingest
        self._at = at
        self._prices = prices
        self.status = ingest.session.status

    def new(self, events: Sequence[PlacedEvent]) -> bool:
        """The first that is heard of a session."""
        said, ingest = self._ingest.session, self._ingest
        ended_at, span = self._end(None, ingest.usage.runtime_ms)
        usage = telemetry.usage_row(said.session_id, ingest.usage, span, self._at)
        model_id = said.model_id or UNKNOWN_MODEL
        artifacts = sum(event.event_type is EventType.ARTIFACT for event in events)
        self._tx.ingest.add(
            StoredSession(
                session_id=said.session_id,
                run_id=said.run_id,
                agent_id=said.agent_id,
                agent_label=said.agent_label or said.agent_id,
                model_id=model_id,
                task_title=said.task_title,
                task_text=said.task_text,
                task_category=said.task_category,
                status=said.status,
                started_at=said.started_at,
                ended_at=ended_at,
                runtime_ms=usage.runtime_ms,
                running_since=said.started_at if said.status is SessionStatus.RUNNING else None,
                artifact_count=max(said.artifact_count or 0, artifacts),
                error_code=said.error_code,
                error_message=said.error_message,
                source_version=said.source_version,
                source=ingest.source,
                gateway_session_id=said.gateway_session_id,
            )
        )
        if events:
            self._tx.ingest.append(said.session_id, events)
        if said.is_terminal or ingest.usage != CanonicalUsage():
            cost = self._cost(ingest.usage, model_id)
            self._tx.usage.put(pricing.with_cost(usage, cost))
        return True

    def again(self, stored: StoredSession, events: Sequence[PlacedEvent]) -> bool:
        """More about a known session; whether that changed anything."""
        session_id, tx = stored.session_id, self._tx
        mode, step = mode_of(stored.status, self._ingest.session.status), advance(stored, self._ingest)
        self.status = step.status
        row = tx.usage.get(session_id)
        before = telemetry.reported_of(row)
        after = merge_usage(before, self._ingest.usage, mode)
        columns = dict(step.columns)
        ended_at, span = self._end_again(stored, row, step.ended_at, after.runtime_ms)
        if ended_at != stored.ended_at:
            columns["ended_at"] = ended_at
        if events:
            tx.ingest.append(session_id, events)
        columns |= self._artifacts(stored, events, mode)
        rewritten = after != before or {"status", "model_id", "ended_at"} & columns.keys()
        if rewritten:
            usage = telemetry.usage_row(session_id, after, span, self._at)
            if usage.runtime_ms is not None and usage.runtime_ms != stored.runtime_ms:
                columns["runtime_ms"] = usage.runtime_ms
            if self.status in TERMINAL or after != CanonicalUsage():
                tx.usage.put(pricing.with_cost(usage, self._cost(after, step.model_id)))
        if columns:
            tx.ingest.change(session_id, columns)
        return bool(columns or events or rewritten)

    def _end(self, known: datetime | None, runtime_ms: int | None) -> tuple[datetime | None, Span]:
        if self.status not in TERMINAL:
            return None, Span(self._ingest.session.started_at, None)
        end = end_of(self._ingest, known, runtime_ms, self._at)
        return end.at, end.span

    def _end_again(
        self, stored: StoredSession, row: UsageRecord | None, known: datetime | None, runtime_ms: int | None
    ) -> tuple[datetime | None, Span]:
        """An end that was only guessed gives way to one that is told, and proves no runtime meanwhile."""
        guessed = row is None or row.runtime_confidence in (MetricConfidence.LOW, MetricConfidence.UNKNOWN)
        if stored.status not in TERMINAL or not guessed or row is None:
            return self._end(known, runtime_ms)
        if self._ingest.session.ended_at is not None and row.runtime_source is not _REPORTED:
            return self._end(self._ingest.session.ended_at, runtime_ms)
        derives = row.runtime_source is MetricSource.DERIVED
        return stored.ended_at, Span(stored.started_at, stored.ended_at if derives else None, certain=False)

    def _artifacts(
        self, stored: StoredSession, events: Sequence[PlacedEvent], mode: Mode
    ) -> Mapping[str, int]:
        said = self._ingest.session.artifact_count
        wish = stored.artifact_count
        if said is not None and (mode is Mode.REPLACE or wish == 0):
            wish = said
        elif said is not None and mode is Mode.GROW:
            wish = max(wish, said)
        if any(event.event_type is EventType.ARTIFACT for event in events):
            wish = max(wish, self._tx.ingest.count_artifacts(stored.session_id))
        return {} if wish == stored.artifact_count else {"artifact_count": wish}

    def _cost(self, usage: CanonicalUsage, model_id: str) -> pricing.Cost:
        tokens = pricing.Tokens(
            prompt=usage.prompt_tokens,
            completion=usage.completion_tokens,
            total=usage.total_tokens,
            cache_read=usage.cache_read_tokens,
            cache_write=usage.cache_write_tokens,
        )
        return pricing.decide(reported=usage.cost_usd, tokens=tokens, model=model_id, table=self._prices)


# --- events


def _place_events(tx: Transaction, ingest: CanonicalIngest, *, is_new: bool) -> list[PlacedEvent] | Rejected:
    """The events that are not there yet, with their numbers; a refusal when one contradicts the record.

    An event is known by its number or its id. What comes without a number follows all that have one.
    """
    if not ingest.events:
        return []
    session_id = ingest.session.session_id
    named = _named(session_id, ingest.events)
    known = _Known(tx, session_id, named, is_new=is_new)
    placed: list[PlacedEvent] = []
    unplaced: list[CanonicalEvent] = []
    problems = []
    for place, event in enumerate(named):
        same = known.find(event)
        if same is not None:
            if not _is_same(same, event, session_id):
                problems.append((f"events[{place}]", "this event is recorded otherwise"))
        elif event.seq is None:
            unplaced.append(event)
        else:
            placed.append(_placed(event, event.seq, session_id))
    if problems:
        return conflict(ingest, *problems[:MAX_PROBLEMS])
    last = max([0 if is_new else tx.ingest.last_seq(session_id), *(event.seq for event in placed)])
    placed += [_placed(event, last + place, session_id) for place, event in enumerate(unplaced, 1)]
    return placed


class _Known:
    """Stored events that those of an ingest may be."""

    def __init__(
        self, tx: Transaction, session_id: str, events: Sequence[CanonicalEvent], *, is_new: bool
    ) -> None:
        numbers = [] if is_new else [event.seq for event in events if event.seq is not None]
        ids = [event.event_id for event in events if event.event_id is not None]
        self._session_id = session_id
        self._looks_twice = tx.ingest.has_ids_like_numbers_of(session_id)
        if self._looks_twice:
            ids += [f"{session_id}:{event.seq}" for event in events if event.event_id is None]
        self._by_seq = {kept.seq: kept for kept in tx.ingest.events_by_seq(session_id, numbers)}
        self._by_id = {kept.event_id: kept for kept in tx.ingest.events_by_id(session_id, ids)}

    def find(self, event: CanonicalEvent) -> KeptEvent | None:
        """The stored event of the same id, else of the same number."""
        if event.event_id is not None:
            same = self._by_id.get(event.event_id)
        else:
            same = self._by_id.get(f"{self._session_id}:{event.seq}") if self._looks_twice else None
        return same or (None if event.seq is None else self._by_seq.get(event.seq))


def _named(session_id: str, events: Sequence[CanonicalEvent]) -> list[CanonicalEvent]:
    """Gives the id of its content to every event that has neither id nor number."""
    seen: dict[str, int] = {}
    named = []
    for event in events:
        if event.event_id is None and event.seq is None:
            plain = content_id(session_id, event, 0)
            occurrence = seen[plain] = seen.get(plain, -1) + 1
            event_id = plain if occurrence == 0 else content_id(session_id, event, occurrence)
            event = msgspec.structs.replace(event, event_id=event_id)
        named.append(event)
    return named


def _is_same(kept: KeptEvent, event: CanonicalEvent, session_id: str) -> bool:
    return (
        kept.session_id == session_id
        and (event.event_id is None or kept.event_id == event.event_id)
        and (event.seq is None or kept.seq == event.seq)
        and kept.event_type == event.event_type
        and kept.at_ms == to_ms(event.at)
        and kept.payload == event.payload
    )


def _placed(event: CanonicalEvent, seq: int, session_id: str) -> PlacedEvent:
    own = None if event.event_id == f"{session_id}:{seq}" else event.event_id
    return PlacedEvent(seq=seq, event_type=event.event_type, at=event.at, payload=event.payload, event_id=own)


# --- the use case


class IngestFlow:
    """Takes documents in; what the route and other senders on this node share."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        prices: Callable[[], PriceTable | None],
        rejections: Rejections,
        changed: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        """`changed` hears of every session that was written, `ended` of those that were closed."""
        self._store = store
        self._clock = clock
        self._prices = prices
        self._rejections = rejections
        self._changed = changed
        self._ended = ended

    async def take(self, raw: bytes) -> IngestAnswer | Rejected:
        """Takes one envelope in; durable when this returns. Raises what `Store.write` raises."""
        from ambientd.core.contracts.registry import Refusal, parse, read

        document = parse(raw)
        ingest = document if isinstance(document, Refusal) else read(document)
        if isinstance(ingest, Refusal):
            self._rejections.count(ingest.rejected.code, ingest.version)
            return ingest.rejected
        prices, at = self._prices(), self._clock.now()
        done = await self._store.write(lambda tx: apply(tx, ingest, at, prices=prices))
        if isinstance(done, Rejected):
            self._rejections.count(done.code, ingest.version)
            return done
        if done.changed:
            self._changed(done.session_id)
        if done.ended:
            self._ended(done.session_id)
        return IngestAnswer(ok=True, session_id=done.session_id, idempotent_replay=done.replay)
