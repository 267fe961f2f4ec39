"""Retention once a day and when it is asked for, one run at a time."""

from datetime import timedelta

import msgspec
import trio

from ambientd.core.retention import Plan
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.upkeep import Upkeep, known_plan, new_plan, preview, run
from ambientd.ports.errors import Rejected, StoreError, UnavailableError
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log
from ambientd.wire.messages import RetentionAnswer
from ambientd.wire.routes import SCHEMA_RETENTION

FIRST_AFTER_SEC = 600.0
EVERY_SEC = 86_400.0
AGAIN_AFTER_SEC = 3600.0
# Between two writes of a run: long enough for what waits to be written, short enough to come to an end.
REST_SEC = 0.02

FAILURES = (OSError, StoreError, UnavailableError)


async def rest() -> None:
    """Lets others write."""
    await trio.sleep(REST_SEC)


class _Order(msgspec.Struct):
    """A run that was asked for, and what became of it."""

    plan: Plan | None
    actor: str
    ended: trio.Event = msgspec.field(default_factory=trio.Event)
    answer: RetentionAnswer | None = None
    failure: Exception | None = None


class UpkeepService:
    """Runs retention daily; a daily run that fails is told and tried again within the hour."""

    def __init__(self, *, upkeep: Upkeep, log: Log) -> None:
        self._upkeep = upkeep
        self._log = log
        self._bell = Bell()
        self._order: _Order | None = None  # asked for or under way
        self._last: _Order | None = None

    # --- `ports.retention.RetentionControl`

    async def preview(self, actor: str) -> RetentionAnswer:
        """A plan and what it would remove; changes nothing but the audit."""
        return await preview(self._upkeep, actor=actor)

    async def start(self, plan_id: str | None, actor: str, *, wait: float) -> RetentionAnswer | Rejected:
        """Starts a run and waits a while for its end; Rejected while another runs."""
        plan = None if plan_id is None else known_plan(self._upkeep, plan_id)
        if isinstance(plan, Rejected):
            return plan
        if self._order is not None:
            return Rejected("RETENTION_RUNS", "retention already runs; see GET on the same path")
        order = self._order = _Order(plan or new_plan(self._upkeep), actor)
        self._bell.ring()
        with trio.move_on_after(wait):
            await order.ended.wait()
        if order.failure is not None:
            raise order.failure
        return order.answer or self._begun(order)

    async def latest(self, *, wait: float) -> RetentionAnswer | None:
        """The run under way or the last one."""
        order = self._order or self._last
        if order is None:
            return None
        with trio.move_on_after(wait):
            await order.ended.wait()
        return order.answer or self._begun(order)

    def _begun(self, order: _Order) -> RetentionAnswer:
        """What is known of a run before its first step."""
        plan = order.plan or new_plan(self._upkeep)
        return RetentionAnswer(
            schema=SCHEMA_RETENTION,
            dry_run=False,
            plan_id=plan.plan_id,
            started_at=rfc3339_ms(self._upkeep.clock.now()),
            used_bytes=0,
            tables=[],
            running=True,
        )

    # --- its life

    async def run(self) -> None:
        """Runs until cancelled."""
        due = trio.current_time() + self._first_after()
        while True:
            if self._order is None:
                await self._bell.wait(due)
            if self._order is None and trio.current_time() >= due:
                self._order = _Order(None, "node")
            if self._order is None:
                continue
            daily = self._order.plan is None
            good = await self._carry_out(self._order)
            if daily:
                due = trio.current_time() + (self._next_after() if good else AGAIN_AFTER_SEC)

    def _first_after(self) -> float:
        return FIRST_AFTER_SEC if self._upkeep.ledger_bounds().hour is None else self._until_hour()

    def _next_after(self) -> float:
        return EVERY_SEC if self._upkeep.ledger_bounds().hour is None else self._until_hour()

    def _until_hour(self) -> float:
        """Seconds to the next beginning of the configured hour."""
        now = self._upkeep.clock.now()
        hour = self._upkeep.ledger_bounds().hour or 0
        at = now.replace(hour=hour, minute=0, second=0, microsecond=0)
        if at <= now:
            at += timedelta(days=1)
        return (at - now).total_seconds()

    async def _carry_out(self, order: _Order) -> bool:
        plan = order.plan or new_plan(self._upkeep)

        def tell(answer: RetentionAnswer) -> None:
            order.answer = answer

        try:
            order.answer = await run(self._upkeep, plan, actor=order.actor, tell=tell)
        except FAILURES as error:
            self._failed(order, error)
            return False
        finally:
            self._order, self._last = None, order
            if order.answer is not None:
                order.answer.running = False
            order.ended.set()
        removed = {row.name: row.rows for row in order.answer.tables if row.rows}
        if removed:
            self._log.info("retention.done", plan=plan.plan_id, actor=order.actor, **removed)
        return True

    def _failed(self, order: _Order, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._log.warning("retention.failed", reason=reason, actor=order.actor)
        order.failure = error
        if order.answer is not None:
            order.answer.running = False
            order.answer.error = reason
            order.answer.ended_at = rfc3339_ms(self._upkeep.clock.now())
