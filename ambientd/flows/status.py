"""Puts together what `status` says, from parts that each know their own truth."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from ambientd.core.agentstatus import RECENT, by_precedence, view_agents
from ambientd.core.alertviews import alert_problems, count_alerts
from ambientd.core.gatewaytext import NO_GATEWAY, GatewaySnapshot, gateway_problems
from ambientd.core.health import health_of, http_problems, problems_of
from ambientd.core.records import SessionRecord, TaskOutcome
from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.flows.alerts import active_alerts
from ambientd.flows.sessions import Agents
from ambientd.ports.clock import Clock
from ambientd.ports.feed import FeedSink
from ambientd.ports.store import Store, StoreFacts, Transaction
from ambientd.wire.alert_messages import AlertView
from ambientd.wire.autonomy_messages import (
    AuditStatus,
    ControlStatus,
    DeltaVStatus,
    LeasesStatus,
    OutboxStatus,
    PeersStatus,
    PolicyStatus,
    StateStatus,
)
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import (
    ContractRejection,
    HeartbeatStatus,
    HttpStatus,
    IntakeStatus,
    LedgerStatus,
    NodeStatus,
    Problem,
    SessionsStatus,
    StatusDocument,
)
from ambientd.wire.routes import SCHEMA_STATUS

ENDED_SHOWN_MAX = 500


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while the process lives."""

    name: str
    host_id: str
    host_id_source: str
    version: str
    pid: int
    mode: str
    started_at: datetime


class LoopFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The dispatcher's own counters. `interval` in seconds."""

    interval: float
    seq: int
    cycles: int
    last_cycle_at: datetime | None
    file_error: str | None = None


class IntakeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the intake saw at its last sweep."""

    waiting: int
    odd: int
    failing: str | None
    breakers_open: Mapping[str, str]


class AutonomyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts that work without a control plane say of themselves; absent parts are None."""

    state: StateStatus | None = None
    control: ControlStatus | None = None
    outbox: OutboxStatus | None = None
    policy: PolicyStatus | None = None
    peers: PeersStatus | None = None
    leases: LeasesStatus | None = None
    audit: AuditStatus | None = None
    delta_v: DeltaVStatus | None = None
    problems: tuple[Problem, ...] = ()


class StatusSources(msgspec.Struct, frozen=True, kw_only=True):
    """Where each part of the status comes from."""

    node: NodeFacts
    store: Store
    feed: FeedSink
    clock: Clock
    agents: Callable[[], Agents]
    loop: Callable[[], LoopFacts]
    intake: Callable[[], IntakeFacts]
    notifiers_failing: Callable[[], Mapping[str, str]] = dict
    rejections: Callable[[], Mapping[tuple[str, str], int]] = dict
    http: Callable[[], HttpStatus | None] = lambda: None
    gateway: Callable[[], GatewaySnapshot] = lambda: NO_GATEWAY
    autonomy: Callable[[], AutonomyStatus] = AutonomyStatus


class _Stored(msgspec.Struct, frozen=True):
    sessions: int
    active: list[SessionRecord]
    ended: list[SessionRecord]
    counters: Mapping[str, int]
    latest: TaskOutcome | None
    alerts: list[AlertView] | None


async def gather(sources: StatusSources) -> StatusDocument:
    """The status document of this moment; raises StoreError when the store is not ready."""
    now = sources.clock.now()

    def work(tx: Transaction) -> _Stored:
        return _Stored(
            sessions=tx.ledger.count(),
            active=tx.ledger.active(),
            ended=tx.ledger.ended_since(now - RECENT, ENDED_SHOWN_MAX),
            counters=tx.tasks.counters(),
            latest=tx.tasks.latest(),
            alerts=active_alerts(tx),
        )

    stored = await sources.store.read(work)
    gateway = sources.gateway()
    intake_facts = sources.intake()
    heartbeat = _heartbeat(sources.feed, sources.loop())
    ledger = _ledger(sources.store.facts(), stored)
    intake = _intake(intake_facts, stored)
    http = sources.http()
    autonomy = sources.autonomy()
    by_status = Counter(row.status for row in stored.active)
    problems = problems_of(
        heartbeat=heartbeat,
        ledger=ledger,
        intake=intake,
        intake_failing=intake_facts.failing,
        now=now,
        others=[
            *gateway_problems(gateway.status),
            *alert_problems(stored.alerts or (), sources.notifiers_failing()),
            *http_problems(http),
            *autonomy.problems,
        ],
    )
    return StatusDocument(
        schema=SCHEMA_STATUS,
        generated_at=rfc3339_ms(gateway.as_of or now),
        health=health_of(problems),
        node=_node(sources.node, now),
        heartbeat=heartbeat,
        ledger=ledger,
        sessions=SessionsStatus(
            running=by_status[SessionStatus.RUNNING], queued=by_status[SessionStatus.QUEUED]
        ),
        intake=intake,
        gateway=gateway.status,
        agents=by_precedence(
            [*view_agents(sources.agents(), stored.active, stored.ended, now), *gateway.agents]
        ),
        problems=problems,
        contract_rejections=[
            ContractRejection(code, version, count) for (code, version), count in sources.rejections().items()
        ],
        alerts=None if stored.alerts is None else count_alerts(stored.alerts),
        http=http,
        state=autonomy.state,
        control=autonomy.control,
        outbox=autonomy.outbox,
        policy=autonomy.policy,
        peers=autonomy.peers,
        leases=autonomy.leases,
        audit=autonomy.audit,
        delta_v=autonomy.delta_v,
    )


def _node(facts: NodeFacts, now: datetime) -> NodeStatus:
    return NodeStatus(
        name=facts.name,
        host_id=facts.host_id,
        host_id_source=facts.host_id_source,
        version=facts.version,
        pid=facts.pid,
        mode=facts.mode,
        started_at=rfc3339_ms(facts.started_at),
        uptime_sec=max(0, int((now - facts.started_at).total_seconds())),
    )


def _heartbeat(feed: FeedSink, loop: LoopFacts) -> HeartbeatStatus:
    snapshot = feed.snapshot()
    written = snapshot.last_written_at_ms
    return HeartbeatStatus(
        enabled=snapshot.enabled,
        seq=loop.seq,
        interval_sec=loop.interval,
        lost=snapshot.lost,
        cycles=loop.cycles,
        feed=snapshot.path,
        last_at=rfc3339_ms(from_ms(written)) if written is not None else None,
        last_cycle_at=rfc3339_ms(loop.last_cycle_at) if loop.last_cycle_at else None,
        last_error=snapshot.last_error,
        failing=feed.lost_since_written() > 0,
        refused=snapshot.refused,
        clock_clamped_sec=snapshot.clamped_ms / 1000 if snapshot.clamped_ms else None,
        note=snapshot.note,
        quarantined=snapshot.quarantined,
        file_error=loop.file_error,
    )


def _ledger(facts: StoreFacts, stored: _Stored) -> LedgerStatus:
    return LedgerStatus(
        ready=facts.ready,
        sessions=stored.sessions,
        bytes=facts.size_bytes,
        schema_version=facts.schema_version,
        degraded=facts.degraded,
        reason=facts.reason,
    )


def _intake(facts: IntakeFacts, stored: _Stored) -> IntakeStatus:
    counters = stored.counters
    latest = stored.latest
    return IntakeStatus(
        dispatched=counters.get("dispatched", 0),
        committed=counters.get("committed", 0),
        rejected=counters.get("rejected", 0),
        error=counters.get("error", 0),
        skipped=counters.get("skipped", 0),
        blocked=counters.get("blocked", 0),
        waiting=facts.waiting,
        unknown_files=facts.odd,
        rejected_by=_with_prefix(counters, "rejected."),
        blocked_by=_with_prefix(counters, "blocked."),
        breakers_open=list(facts.breakers_open),
        breaker_reasons=dict(facts.breakers_open),
        latest={
            "taskId": latest.task_id,
            "outcome": latest.outcome,
            "sessionId": latest.session_id,
            "at": rfc3339_ms(latest.at),
        }
        if latest
        else msgspec.UNSET,
    )


def _with_prefix(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counters.items() if name.startswith(prefix)}
