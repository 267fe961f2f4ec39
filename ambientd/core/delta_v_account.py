"""The running account of Δv: what it counts since when, and its history in slices of time."""

from collections.abc import Iterable
from datetime import datetime
from math import isfinite

import msgspec

from ambientd.core.delta_v import Formula, Parameters, Total, difference, integrate
from ambientd.core.delta_v_inputs import MAPPING, Inputs, Share, Yardstick, weakest
from ambientd.wire.enums import MetricConfidence

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
LARGEST = 1.7976931348623157e308


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What gives the sum its meaning. Sums over two bases would be a sum of nothing."""

    parameters: Parameters = Parameters()
    yardstick: Yardstick = Yardstick()
    mapping: str = MAPPING


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The node's sum. `seconds` were measured, `gap_sec` passed without being counted. `generation` goes up
    whenever it begins anew, for the `reason`."""

    since: datetime
    basis: Basis
    generation: int = 1
    reason: str | None = None
    total: Total = Total()
    seconds: float = 0.0
    gap_sec: float = 0.0


class SessionSum(msgspec.Struct, frozen=True, kw_only=True):
    """A session's part of the node's sum. `joules` are its part of the energy."""

    session_id: str
    since: datetime
    generation: int
    total: Total = Total()
    seconds: float = 0.0
    joules: float = 0.0
    source: str = ""
    confidence: MetricConfidence = MetricConfidence.UNKNOWN


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over some time from `start_ms` (wall clock) on; w, v and M are multiplied with the seconds that
    they were in force for."""

    start_ms: int
    seconds: float = 0.0
    gap_sec: float = 0.0
    value: float = 0.0
    joules: float = 0.0
    load_sec: float = 0.0
    velocity_sec: float = 0.0
    inertia_sec: float = 0.0
    samples: int = 0
    refused: int = 0
    source: str = ""
    confidence: MetricConfidence = MetricConfidence.UNKNOWN

    def mean(self, sum_of: str) -> float | None:
        """A sum by its seconds; None when nothing was measured."""
        if self.seconds <= 0:
            return None
        found = float(getattr(self, sum_of)) / self.seconds
        return found if isfinite(found) else None


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """History of a generation that is asked for: from the minute (or hour) of `since_ms` to `until_ms`, in at
    most `limit` pieces of `width_ms`, which are made of minutes below an hour, else of hours."""

    since_ms: int
    until_ms: int
    width_ms: int
    generation: int
    limit: int


class Step(msgspec.Struct, frozen=True):
    """What one sample made of the account."""

    account: Account
    slice: Slice
    sessions: tuple[SessionSum, ...]


def open_account(kept: Account | None, basis: Basis, now: datetime) -> Account:
    """Goes on with what was kept, or begins anew where it was on another basis."""
    if kept is None:
        return Account(since=now, basis=basis)
    if kept.basis == basis:
        return kept
    return Account(
        since=now, basis=basis, generation=kept.generation + 1, reason="the parameters were changed"
    )


def add_sample(
    account: Account,
    inputs: Inputs,
    *,
    dt: float,
    gap_sec: float,
    at_ms: int,
    sessions: Iterable[tuple[Share, SessionSum]],
) -> Step:
    """Adds an interval of `dt` seconds that ended at `at_ms`, and its parts to the sessions' sums."""
    formula = Formula(account.basis.parameters)
    sample = inputs.sample(dt)
    total = integrate(formula, account.total, [sample])
    taken = total.samples > account.total.samples
    seconds = sample.dt if taken else 0.0
    after = msgspec.structs.replace(
        account, total=total, seconds=account.seconds + seconds, gap_sec=account.gap_sec + gap_sec
    )
    piece = Slice(
        start_ms=at_ms // MINUTE_MS * MINUTE_MS,
        seconds=seconds,
        gap_sec=gap_sec,
        value=difference(total, account.total),
        joules=sample.power * seconds if taken else 0.0,
        load_sec=sample.load * seconds if taken else 0.0,
        velocity_sec=sample.velocity * seconds if taken else 0.0,
        inertia_sec=sample.inertia * seconds if taken else 0.0,
        samples=int(taken),
        refused=int(not taken),
        source=inputs.power.source,
        confidence=inputs.confidence,
    )
    parts = tuple(_add_part(formula, one, share, inputs, seconds) for share, one in sessions) if taken else ()
    return Step(after, piece, parts)


def _add_part(formula: Formula, one: SessionSum, share: Share, inputs: Inputs, dt: float) -> SessionSum:
    sample = inputs.sample(dt, share.part)
    return msgspec.structs.replace(
        one,
        total=integrate(formula, one.total, [sample]),
        seconds=one.seconds + dt,
        joules=one.joules + sample.power * dt,
        source=one.source if share.source in one.source.split("+") else _joined(one.source, share.source),
        confidence=weakest((share.confidence, inputs.confidence)),
    )


def _joined(first: str, second: str) -> str:
    return f"{first}+{second}" if first else second


def merge(first: Slice, second: Slice) -> Slice:
    """Both together, at the place of the first."""
    return Slice(
        start_ms=first.start_ms,
        seconds=first.seconds + second.seconds,
        gap_sec=first.gap_sec + second.gap_sec,
        value=min(first.value + second.value, LARGEST),
        joules=first.joules + second.joules,
        load_sec=first.load_sec + second.load_sec,
        velocity_sec=first.velocity_sec + second.velocity_sec,
        inertia_sec=first.inertia_sec + second.inertia_sec,
        samples=first.samples + second.samples,
        refused=first.refused + second.refused,
        source=second.source or first.source,
        confidence=weakest((first.confidence, second.confidence))
        if first.samples and second.samples
        else (second if second.samples else first).confidence,
    )
