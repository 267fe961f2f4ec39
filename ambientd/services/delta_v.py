"""Samples Δv now and then and keeps its account. Nothing of the node waits for it, and it needs no link."""

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import trio

from ambientd.core.delta_v_account import Account, Basis, SessionSum, Slice, Span, merge, open_account
from ambientd.core.delta_v_inputs import Inputs, Reading
from ambientd.core.timefmt import rfc3339_ms, to_ms
from ambientd.flows.delta_v import LedgerFacts, look, sum_of, take_sample
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.meters import Meters
from ambientd.ports.store import Store, Transaction
from ambientd.services.supervise import Log
from ambientd.wire.autonomy_messages import DeltaVStatus

WINDOW_SEC = 3600
SPARKS = 8
MINUTE_SEC = 60
# Longer than so many intervals nothing was looked at: what the inputs were then is not known, and is a gap.
INTERVALS_MAX = 2
# What a full disk keeps from being written: two hours of samples, then they are added up.
PENDING_MAX = 120
PENDING_SESSIONS_MAX = 1_000
TROUBLES = (StoreError, UnavailableError)


class _Told(msgspec.Struct):
    """The last trouble of each kind that was logged, so that each is logged once."""

    store: str | None = None
    meters: str | None = None


class DeltaVService:
    """Implements `ports.delta_v.DeltaVView`."""

    def __init__(
        self,
        *,
        store: Store,
        meters: Meters,
        clock: Clock,
        basis: Basis,
        interval: float,
        gateway: bool,
        changed: Callable[[], None],
        log: Log,
    ) -> None:
        """`gateway`: whether sessions of the gateway run on this machine. `interval` is in seconds."""
        self._store = store
        self._meters = meters
        self._clock = clock
        self.basis = basis
        self._gateway = gateway
        self._changed = changed
        self._log = log
        self._told = _Told()
        self._last = 0.0  # on trio's clock
        self._pending: list[Slice] = []
        self._pending_sessions: dict[str, SessionSum] = {}
        # Minutes of the last window, by the time of their end on trio's clock.
        self._recent: deque[tuple[float, Slice]] = deque(maxlen=WINDOW_SEC)
        self.interval = interval
        self.account: Account | None = None
        self.inputs: Inputs | None = None

    # --- its life

    async def run(self) -> None:
        """Runs until cancelled. What a stop or a crash loses is the sample under way."""
        while self.account is None:
            try:
                await self._open()
            except TROUBLES as error:
                self._tell_store(error)
                await trio.sleep(self.interval)
        await self._read(await self._look())
        self._last = trio.current_time()
        due = self._last + self.interval
        while True:
            await trio.sleep_until(due)
            await self._sample(self.account)
            due += self.interval
            if due <= trio.current_time():
                due = trio.current_time() + self.interval

    async def _open(self) -> None:
        """Goes on with what was kept."""
        now = self._clock.now()

        def work(tx: Transaction) -> tuple[Account, list[Slice]]:
            account = open_account(tx.delta_v.account(), self.basis, now)
            asked = Span(
                since_ms=to_ms(now) - WINDOW_SEC * 1000,
                until_ms=to_ms(now),
                width_ms=MINUTE_SEC * 1000,
                generation=account.generation,
                limit=WINDOW_SEC,
            )
            return account, tx.delta_v.slices(asked)

        account, slices = await self._store.read(work)
        if account.reason is not None and account.total.samples == 0:
            self._log.info("delta_v.begun", reason=account.reason, generation=account.generation)
        for piece in slices:
            age = (to_ms(now) - piece.start_ms) / 1000 - MINUTE_SEC
            self._recent.append((trio.current_time() - max(0.0, age), piece))
        self.account = account

    async def _look(self) -> LedgerFacts:
        """What the ledger says; nothing when it cannot be read."""
        now = self._clock.now()
        since = now - timedelta(seconds=max(0.0, trio.current_time() - self._last) if self._last else 0.0)
        try:
            return await look(self._store, since, now, gateway=self._gateway)
        except TROUBLES as error:
            self._tell_store(error)
            return LedgerFacts()

    async def _read(self, facts: LedgerFacts) -> Reading:
        """What the meters say; nothing when they do not answer."""
        try:
            reading = await self._meters.read([one.session_id for one in facts.present if one.own])
        except UnavailableError as error:
            if self._told.meters is None:
                self._log.warning("delta_v.meters_silent", reason=str(error))
            self._told.meters = str(error)
            return Reading()
        self._told.meters = None
        return reading

    async def _sample(self, account: Account) -> None:
        facts = await self._look()
        reading = await self._read(facts)
        now, at = trio.current_time(), self._clock.now()
        passed, self._last = now - self._last, now
        dt = min(passed, INTERVALS_MAX * self.interval)
        sums = {**facts.sums, **self._pending_sessions}
        step, self.inputs = take_sample(
            account,
            reading,
            msgspec.structs.replace(facts, sums=sums),
            dt=dt,
            gap_sec=passed - dt + reading.asleep,
            at=at,
        )
        self.account = step.account
        self._recent.append((now, step.slice))
        self._add_pending(step.slice, step.sessions)
        self._changed()
        await self._keep(step.account, at)

    def _add_pending(self, piece: Slice, sessions: tuple[SessionSum, ...]) -> None:
        if len(self._pending) < PENDING_MAX:
            self._pending.append(piece)
        else:
            self._pending[-1] = merge(self._pending[-1], piece)
        self._pending_sessions |= {one.session_id: one for one in sessions}
        while len(self._pending_sessions) > PENDING_SESSIONS_MAX:
            del self._pending_sessions[next(iter(self._pending_sessions))]

    async def _keep(self, account: Account, at: datetime) -> None:
        """Writes what was not written yet; what cannot be written now is written with the next sample."""
        slices, sessions = list(self._pending), list(self._pending_sessions.values())
        try:
            await self._store.write(lambda tx: tx.delta_v.put(account, slices, sessions, at))
        except TROUBLES as error:
            self._tell_store(error)
            return
        self._pending.clear()
        self._pending_sessions.clear()
        self._told.store = None

    def _tell_store(self, error: Exception) -> None:
        if self._told.store is None:
            self._log.warning("delta_v.not_kept", reason=str(error))
        self._told.store = str(error)

    # --- what the status says

    def status(self) -> DeltaVStatus | None:
        """From memory; None until the account was read."""
        account = self.account
        if account is None:
            return None
        now = trio.current_time()
        recent = [(ended, piece) for ended, piece in self._recent if now - ended < WINDOW_SEC]
        window = sum_of([piece for _, piece in recent])
        return DeltaVStatus(
            value=account.total.value,
            since=rfc3339_ms(account.since),
            samples=account.total.samples,
            refused=account.total.refused,
            window_sec=WINDOW_SEC,
            window_value=window if recent else None,
            spark=self._sparks(recent, now),
            source=self._source(recent),
            confidence=self._confidence(recent),
            reason=self._reason(account),
        )

    def _sparks(self, recent: list[tuple[float, Slice]], now: float) -> list[float]:
        """Rates per hour of the window's parts, oldest first; no more parts than samples fit."""
        parts = max(1, min(SPARKS, int(WINDOW_SEC / self.interval)))
        width = WINDOW_SEC / parts
        values, seconds = [0.0] * parts, [0.0] * parts
        for ended, piece in recent:
            place = min(parts - 1, max(0, int((WINDOW_SEC - (now - ended)) / width)))
            values[place] += piece.value
            seconds[place] += piece.seconds
        rates = [
            value / span * 3600 if span > 0 else 0.0 for value, span in zip(values, seconds, strict=True)
        ]
        return [rate if rate < float("inf") else 0.0 for rate in rates]

    def _source(self, recent: list[tuple[float, Slice]]) -> str | None:
        if self.inputs is not None:
            return self.inputs.power.source
        return recent[-1][1].source if recent else None

    def _confidence(self, recent: list[tuple[float, Slice]]) -> str | None:
        if self.inputs is not None:
            return self.inputs.confidence.value
        return recent[-1][1].confidence.value if recent else None

    def _reason(self, account: Account) -> str | None:
        if account.total.overflowed:
            return (
                f"{account.total.overflowed} samples were too large to be added; lower delta_v.alpha or isp"
            )
        if self.inputs is None:
            return account.reason
        inputs = self.inputs
        reasons = (inputs.power.reason, inputs.load.reason, inputs.velocity.reason, inputs.inertia.reason)
        return next((reason for reason in reasons if reason), account.reason)
