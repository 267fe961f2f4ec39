"""One sample of Δv from the ledger and the meters, and the answer to who asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import fsum, isfinite
from typing import TYPE_CHECKING

import msgspec

from ambientd.core.delta_v import rate_per_hour
from ambientd.core.delta_v_account import (
    Account,
    SessionSum,
    Slice,
    Span,
    Step,
    add_sample,
    merge,
    open_account,
)
from ambientd.core.delta_v_inputs import UNIT, Inputs, Present, Reading, build_inputs, share_power
from ambientd.core.delta_v_words import input_views, parameter_views
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import from_ms, parse_rfc3339, rfc3339_ms, to_ms
from ambientd.flows.sessions import resolve
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction
from ambientd.wire.delta_v_messages import (
    DeltaVAnswer,
    DeltaVPoint,
    DeltaVRefused,
    DeltaVSession,
    DeltaVWindow,
)
from ambientd.wire.enums import MetricConfidence
from ambientd.wire.messages import ErrorDetail

if TYPE_CHECKING:
    from ambientd.ports.delta_v import DeltaVView

RATE_WINDOW = timedelta(hours=1)
"""Completions of so long are the velocity: within a single sample there is one or none."""

SESSIONS_MAX = 256
"""Sessions that are given a part of one sample; of more, the others have none."""

DEFAULT_WINDOW = timedelta(hours=1)
POINTS_MAX = 120
SESSIONS_SHOWN = 20
_STEPS_SEC = (60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800, 2_592_000)
_CLOCK_SLACK = timedelta(minutes=1)


class LedgerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says for one sample. `completed` is None where it says nothing."""

    present: Sequence[Present] = ()
    completed: int | None = None
    sums: Mapping[str, SessionSum] = {}


async def look(store: Store, since: datetime, now: datetime, *, gateway: bool) -> LedgerFacts:
    """Who was there since `since`, and how many have completed lately. Raises what the store raises."""

    def work(tx: Transaction) -> LedgerFacts:
        present = tx.delta_v.present(since, now, SESSIONS_MAX, gateway=gateway)
        return LedgerFacts(
            present=present,
            completed=tx.delta_v.completed(now - RATE_WINDOW, now),
            sums={one.session_id: one for one in tx.delta_v.sums([item.session_id for item in present])},
        )

    return await store.read(work)


def take_sample(
    account: Account, reading: Reading, facts: LedgerFacts, *, dt: float, gap_sec: float, at: datetime
) -> tuple[Step, Inputs]:
    """What an interval of `dt` seconds that ended at `at` makes of the account, and the inputs it had."""
    inputs = build_inputs(reading, facts.completed, account.basis.yardstick)
    parts = []
    for share in share_power(facts.present, reading, dt):
        kept = facts.sums.get(share.session_id)
        if kept is None or kept.generation != account.generation:
            began = at - timedelta(seconds=dt)
            kept = SessionSum(session_id=share.session_id, since=began, generation=account.generation)
        parts.append((share, kept))
    return add_sample(account, inputs, dt=dt, gap_sec=gap_sec, at_ms=to_ms(at), sessions=parts), inputs


# --- the answer


class _Found(msgspec.Struct, frozen=True):
    account: Account
    pieces: list[Slice]
    sums: list[SessionSum]


async def answer(
    view: DeltaVView, query: Mapping[str, str], *, store: Store, clock: Clock
) -> DeltaVAnswer | Rejected:
    """How Δv stands, over a window and in total. Raises what the store raises."""
    now = clock.now()
    since = _since(query.get("since"), now)
    if isinstance(since, Rejected):
        return since
    step = next(
        (step for step in _STEPS_SEC if (now - since).total_seconds() <= step * POINTS_MAX), _STEPS_SEC[-1]
    )
    fragment = query.get("session")

    def work(tx: Transaction) -> _Found | Rejected:
        # Before the first sample of this process the account is what was kept.
        account = view.account or open_account(tx.delta_v.account(), view.basis, now)
        asked = Span(
            since_ms=to_ms(since),
            until_ms=to_ms(now + _CLOCK_SLACK),
            width_ms=step * 1000,
            generation=account.generation,
            limit=POINTS_MAX + 2,
        )
        pieces = tx.delta_v.slices(asked)
        if fragment is None:
            return _Found(account, pieces, tx.delta_v.largest(account.generation, SESSIONS_SHOWN))
        row = resolve(tx, fragment)
        return (
            row if isinstance(row, Rejected) else _Found(account, pieces, tx.delta_v.sums([row.session_id]))
        )

    found = await store.read(work)
    return found if isinstance(found, Rejected) else _build(view, found, now=now, since=since, step=step)


def _since(text: str | None, now: datetime) -> datetime | Rejected:
    if text is None:
        return now - DEFAULT_WINDOW
    try:
        return parse_rfc3339(text)
    except ValueError:
        expected = "2026-11-20T15:40:03Z"
        detail = ErrorDetail("since", "invalid", "not an RFC 3339 instant", expected)
        return Rejected("VALIDATION_ERROR", "Invalid query", (detail,))


def _build(view: DeltaVView, found: _Found, *, now: datetime, since: datetime, step: int) -> DeltaVAnswer:
    account, pieces, total = found.account, found.pieces, found.account.total
    return DeltaVAnswer(
        generated_at=rfc3339_ms(now),
        status=total.status,
        value=total.value,
        unit=UNIT,
        mapping=account.basis.mapping,
        since=rfc3339_ms(account.since),
        generation=account.generation,
        seconds=account.seconds,
        gap_sec=account.gap_sec,
        samples=total.samples,
        refused=DeltaVRefused(total.not_finite, total.overflowed),
        clamped=total.clamped,
        corrected=total.corrected,
        interval_sec=view.interval,
        window=_window(pieces, since),
        inputs=[] if view.inputs is None else input_views(view.inputs),
        parameters=parameter_views(account.basis),
        step_sec=step,
        history=[_point(piece) for piece in pieces],
        sessions=[_session(one, account) for one in found.sums],
        reason=account.reason,
    )


def _window(pieces: Sequence[Slice], since: datetime) -> DeltaVWindow:
    whole = Slice(start_ms=0)
    for piece in pieces:
        whole = merge(whole, piece)
    value = sum_of(pieces)
    return DeltaVWindow(
        since=rfc3339_ms(since),
        seconds=whole.seconds,
        gap_sec=whole.gap_sec,
        value=value,
        per_hour=None if value is None else rate_per_hour(value, whole.seconds),
        joules=whole.joules,
        samples=whole.samples,
        refused=whole.refused,
        confidence=whole.confidence if whole.samples else MetricConfidence.UNKNOWN,
    )


def sum_of(pieces: Sequence[Slice]) -> float | None:
    """The sum over some pieces; None when it is too large for a float."""
    try:
        found = fsum(piece.value for piece in pieces)
    except OverflowError:
        return None
    return found if isfinite(found) else None


def _point(piece: Slice) -> DeltaVPoint:
    return DeltaVPoint(
        at=rfc3339_ms(from_ms(piece.start_ms)),
        seconds=piece.seconds,
        gap_sec=piece.gap_sec,
        value=piece.value,
        per_hour=rate_per_hour(piece.value, piece.seconds),
        watts=piece.mean("joules"),
        load=piece.mean("load_sec"),
        velocity=piece.mean("velocity_sec"),
        inertia=piece.mean("inertia_sec"),
        samples=piece.samples,
        refused=piece.refused,
        source=piece.source,
        confidence=piece.confidence,
    )


def _session(one: SessionSum, account: Account) -> DeltaVSession:
    return DeltaVSession(
        session_id=one.session_id,
        since=rfc3339_ms(one.since),
        value=one.total.value,
        per_hour=rate_per_hour(one.total.value, one.seconds),
        seconds=one.seconds,
        joules=one.joules,
        samples=one.total.samples,
        refused=one.total.refused,
        source=one.source,
        confidence=one.confidence,
        current=one.generation == account.generation,
    )
