"""Alerting over a real database on virtual time, with sessions that end when a test says so."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio

from ambientd.core.records import NewSession, SessionChange, UsageRecord
from ambientd.core.rejection import Rejected
from ambientd.flows import alerts as flow
from ambientd.flows.alerts import Alerting
from ambientd.host.threads import run_inline
from ambientd.ports.notifier import Undelivered
from ambientd.ports.store import Transaction
from ambientd.services.bell import Bell
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.alert_messages import AlertNotification, AlertRuleRequest, AlertRuleView
from ambientd.wire.enums import AlertMetric, CostConfidence, CostSource, SessionStatus
from tests.fakes.clock import TrioWallClock
from tests.fakes.store import TroubledStore

ENDINGS = {"success", "failed", "killed", "cancelled"}


def request(**fields: Any) -> AlertRuleRequest:
    """A rule that warns at a failure rate of 25 % and is critical at 50 %."""
    facts: dict[str, Any] = {
        "metric": "failure_rate",
        "scopeType": "global",
        "warnThreshold": 0.25,
        "criticalThreshold": 0.5,
        "window": "1h",
        "comparison": "gte",
    }
    return msgspec.convert(facts | fields, AlertRuleRequest)


class ListNotifier:
    """Implements `ports.notifier.Notifier`: keeps what it is told, or fails as `failures` says.

    Each of `failures` answers one attempt: None delivers, a float sleeps that long and then delivers.
    """

    kind = "list"

    def __init__(self, *, timeout: float = 10.0, attempts: int = 3) -> None:
        self.timeout = timeout
        self.attempts = attempts
        self.told: list[AlertNotification] = []
        self.tried_at: list[float] = []
        self.failures: list[Undelivered | float | None] = []

    async def send(self, notification: AlertNotification) -> Undelivered | None:
        await trio.lowlevel.checkpoint()
        self.tried_at.append(trio.current_time())
        answer = self.failures.pop(0) if self.failures else None
        if isinstance(answer, float):
            await trio.sleep(answer)
        elif answer is not None:
            return answer
        self.told.append(notification)
        return None

    @property
    def reasons(self) -> list[str]:
        return [told.reason.value for told in self.told]


class AlertRig:
    """The parts around the flow. `gauges` may be filled before the first rule."""

    def __init__(self, store: SqliteStore, clock: TrioWallClock, notifiers: tuple[str, ...]) -> None:
        self.real_store = store
        self.store = TroubledStore(store)
        self.clock = clock
        self.gauges: dict[AlertMetric, Callable[[], float | None]] = {}
        self.wakes = 0
        self.bell = Bell()
        self._ids = 0
        self._sessions = 0
        self.alerting = Alerting(
            store=self.store,
            clock=clock,
            gauges=self.gauges,
            notifiers=notifiers,
            node="edge-07",
            new_id=self._new_id,
            woken=self._woken,
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:08x}-0000-4000-8000-{self._ids:012x}"

    def _woken(self) -> None:
        self.wakes += 1
        self.bell.ring()

    async def add(self, **fields: Any) -> AlertRuleView:
        """A rule that must be taken."""
        answer = await flow.add_rule(self.alerting, request(**fields), "uid:0")
        assert not isinstance(answer, Rejected), answer
        return answer

    async def end(
        self,
        status: str = "success",
        *,
        agent: str = "tony",
        model: str = "opus-5",
        cost: float | None = None,
        runtime_ms: int | None = 1000,
        ago: float = 0.0,
        count: int = 1,
    ) -> None:
        """Sessions that ended `ago` seconds before now, in one transaction."""
        at = self.clock.now() - timedelta(seconds=ago)

        def work(tx: Transaction) -> None:
            for _ in range(count):
                self._sessions += 1
                name = f"ses_{self._sessions:026d}"
                tx.ledger.add(
                    NewSession(
                        session_id=name,
                        agent_id=agent,
                        agent_label=agent,
                        model_id=model,
                        status=SessionStatus.QUEUED,
                        started_at=at - timedelta(milliseconds=runtime_ms or 0),
                    )
                )
                if cost is not None:
                    tx.usage.put(
                        UsageRecord(
                            session_id=name,
                            cost_usd=cost,
                            cost_confidence=CostConfidence.EXACT,
                            cost_source=CostSource.PROVIDER_REPORTED,
                            pricing_version="provider_native",
                            computed_at=at,
                        )
                    )
                change = SessionChange(status=SessionStatus(status), ended_at=at, runtime_ms=runtime_ms)
                tx.ledger.change(name, change)

        await self.store.write(work)

    async def sweep(self) -> flow.Swept:
        return await flow.sweep(self.alerting)

    async def outbox(self, notifier: str = "ops") -> list[str]:
        """Reasons of what waits for a notifier, and takes it out."""

        def work(tx: Transaction) -> list[bytes]:
            found = tx.alerts.pending(notifier, 1000)
            for item in found:
                tx.alerts.done(item.key)
            return [item.payload for item in found]

        payloads = await self.store.write(work)
        return [msgspec.json.decode(payload, type=AlertNotification).reason.value for payload in payloads]


@asynccontextmanager
async def alerting(
    tmp_path: Path, *, notifiers: tuple[str, ...] = ("ops",), clock: TrioWallClock | None = None
) -> AsyncIterator[AlertRig]:
    """A rig over a database that may have been used before; everything runs inline, on trio's clock."""
    clock = clock or TrioWallClock()
    store = SqliteStore(tmp_path / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        yield AlertRig(store, clock, notifiers)
        await store.close()
