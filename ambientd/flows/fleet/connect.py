"""Connect sessions: a requester's relay through a node, with a token of its own that is stored as a hash."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from ambientd.core.fleet.records import ConnectSession, NodeEvent, TaskRecord
from ambientd.core.fleet.tasktypes import CONNECT_ONLY
from ambientd.core.fleet.tokens import RANDOM_BYTES, TokenHashes, TokenKind, build_token
from ambientd.flows.fleet.leases import LeaseDesk
from ambientd.flows.fleet.tasks import NO_TASK
from ambientd.flows.fleet.work import WorkRules, end_session, finish, offer_to_freed
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.passwords import Randomness
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import (
    TASK_ENDED,
    ConnectStatus,
    EgressProfile,
    NodeEventKind,
    TaskStatus,
    TunnelProtocol,
)

NO_SESSION = Rejected("NOT_FOUND", "there is no such connect session")


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A session with its token, in the clear for the one answer that carries it."""

    session: ConnectSession
    session_token: str


class Connect:
    """The use cases of connect sessions."""

    def __init__(
        self,
        *,
        store: FleetStore,
        clock: Clock,
        hashes: TokenHashes,
        randomness: Randomness,
        rules: WorkRules,
        desk: LeaseDesk,
    ) -> None:
        self._store = store
        self._clock = clock
        self._rules = rules
        self._desk = desk
        self._hashes = hashes
        self._random = randomness

    async def start(self, requester_id: str, task_id: str, tunnel: TunnelProtocol) -> Started | Rejected:
        """Begins the session that a running `connect_only` task describes, at the node that has it."""
        token, now = build_token(TokenKind.CONNECT, self._random(RANDOM_BYTES)), self._clock.now()

        def work(tx: FleetTransaction) -> Started | Rejected:
            task = tx.tasks.get(task_id, creator_id=requester_id)
            wanted = None if task is None else tx.tasks.work(task_id)
            if task is None or wanted is None:
                return NO_TASK
            if task.task_type != CONNECT_ONLY:
                return Rejected("VALIDATION_ERROR", f"a {task.task_type} task has no connect session")
            if task.status in TASK_ENDED:
                return Rejected("VALIDATION_ERROR", f"the task has already {task.status.value}")
            if task.status is not TaskStatus.RUNNING or not task.assigned_nodes:
                return Rejected("NO_NODE_FREE", "no node that can connect is free; the task waits for one")
            inputs: dict[str, Any] = wanted.inputs
            session = ConnectSession(
                session_id=inputs["session_id"],
                requester_id=requester_id,
                task_id=task_id,
                node_id=task.assigned_nodes[0],
                token_hash=self._hashes.of(TokenKind.CONNECT, token),
                tunnel_protocol=tunnel,
                egress_profile=EgressProfile(inputs["egress_profile"]),
                destination_policy_id=inputs["destination_policy_id"],
                bandwidth_limit_mbps=float(inputs["bandwidth_limit_mbps"]),
                created_at=now,
                updated_at=now,
                expires_at=now + timedelta(seconds=inputs["duration_seconds"]),
            )
            if not tx.sessions.start(session):
                return Rejected("CONFLICT", "this session, or another one of its node, is active")
            tx.history.add_events([_connected(session, task)])
            self._desk.grant(tx, session, now)
            return Started(session=session, session_token=token)

        return await self._store.write(work)

    async def get(self, requester_id: str, session_id: str) -> ConnectSession | Rejected:
        """A requester's own session."""
        found = await self._store.read(lambda tx: tx.sessions.get(requester_id, session_id))
        return found or NO_SESSION

    async def beat(self, requester_id: str, session_id: str) -> ConnectSession | Rejected:
        """A sign of life. When the node has lost the task meanwhile, the session moves with the task."""
        now = self._clock.now()

        def work(tx: FleetTransaction) -> ConnectSession | Rejected:
            session = tx.sessions.get(requester_id, session_id)
            if session is None or session.status is not ConnectStatus.ACTIVE:
                return NO_SESSION
            if now >= session.expires_at:
                end_session(tx, requester_id, session_id, ConnectStatus.EXPIRED, "expired", now)
            else:
                self._beat(tx, session, now)
            return tx.sessions.get(requester_id, session_id) or NO_SESSION

        return await self._store.write(work)

    def _beat(self, tx: FleetTransaction, session: ConnectSession, now: datetime) -> None:
        moved = _moved(tx, session)
        tx.sessions.beat(session.requester_id, session.session_id, now, node_id=moved)
        if moved is not None:
            self._desk.revoke(tx, (session,), now)
            self._desk.grant(tx, msgspec.structs.replace(session, node_id=moved), now)

    async def stop(self, requester_id: str, session_id: str) -> ConnectSession | Rejected:
        """Ends a session, and its task with it; stopping one that has ended changes nothing."""
        now = self._clock.now()

        def work(tx: FleetTransaction) -> ConnectSession | Rejected:
            session = tx.sessions.get(requester_id, session_id)
            if session is None:
                return NO_SESSION
            if end_session(tx, requester_id, session_id, ConnectStatus.ENDED, "stopped", now):
                self._desk.revoke(tx, (session,), now)
                finish(tx, session.task_id, TaskStatus.COMPLETED, now)
                offer_to_freed(tx, (session.node_id,), now, self._rules)
            return tx.sessions.get(requester_id, session_id) or NO_SESSION

        return await self._store.write(work)


def _connected(session: ConnectSession, task: TaskRecord) -> NodeEvent:
    """The event that a session began at its node."""
    return NodeEvent(
        node_id=session.node_id,
        kind=NodeEventKind.TASK_CONNECTED,
        task_id=task.task_id,
        task_type=task.task_type,
        at=session.created_at,
        session_id=session.session_id,
    )


def _moved(tx: FleetTransaction, session: ConnectSession) -> str | None:
    task: TaskRecord | None = tx.tasks.get(session.task_id)
    if task is None or not task.assigned_nodes or session.node_id in task.assigned_nodes:
        return None
    return task.assigned_nodes[0]
