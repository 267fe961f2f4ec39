"""What the tests of the control plane's store share: the same suite on both databases."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import apsw
import trio

from ambientd.core.fleet.records import (
    Away,
    Capabilities,
    ConnectSession,
    DeviceCredential,
    NewNode,
    NewTask,
    NodeReport,
    Requirements,
    UserRecord,
)
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.store.fleet.postgresql import PostgresqlFleetStore
from ambientd.store.fleet.sqlite import SqliteFleetStore
from ambientd.wire.fleet_enums import EgressProfile, NodeType
from tests.pgkit import PgServer
from tests.store.kit import StillClock

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
T = TypeVar("T")


def later(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


class SqlitePlace:
    """A database file; every `opened` is another process's turn."""

    engine = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fleet.db"

    def store(self) -> SqliteFleetStore:
        return SqliteFleetStore(self.path, clock=StillClock(), ballast=0)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(5_000)
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


class PostgresqlPlace:
    """A database of the server."""

    engine = "postgresql"

    def __init__(self, server: PgServer, database: str) -> None:
        self.server = server
        self.database = database

    def store(self, **settings: Any) -> PostgresqlFleetStore:
        facts: dict[str, Any] = {"clock": StillClock(), "pool_size": 4}
        return PostgresqlFleetStore(self.server.address(self.database), **(facts | settings))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.server.run(self.database, sql)


Place = SqlitePlace | PostgresqlPlace


@asynccontextmanager
async def running(store: SqliteFleetStore | PostgresqlFleetStore) -> AsyncIterator[FleetStore]:
    """A store after its first attempt to open; closed at the end."""
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        yield store
        await store.close()


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[FleetStore]:
    """A running store on a place that is ready."""
    async with running(place.store()) as store:
        assert store.facts().ready, store.facts().reason
        yield store


def add_user(tx: FleetTransaction, user_id: str, **fields: Any) -> None:
    facts: dict[str, Any] = {"username": user_id, "created_at": AT}
    assert tx.users.add(UserRecord(user_id=user_id, **(facts | fields)), None)


def new_node(node_id: str, owner_id: str = "ann", **fields: Any) -> NewNode:
    facts: dict[str, Any] = {
        "region": "eu",
        "node_type": NodeType.COMPUTE,
        "capabilities": Capabilities(bandwidth_mbps=1000, cpu_cores=16, memory_gb=64, gpu_available=False),
    }
    return NewNode(node_id=node_id, owner_id=owner_id, **(facts | fields))


def add_node(
    tx: FleetTransaction, node_id: str, owner_id: str = "ann", at: datetime = AT, **fields: Any
) -> None:
    assert tx.nodes.register(new_node(node_id, owner_id, **fields), at) is not None


def new_task(task_id: str, creator_id: str = "ann", *, at: datetime = AT, **fields: Any) -> NewTask:
    facts: dict[str, Any] = {"task_type": "computation", "inputs": {"n": 1}, "requirements": Requirements()}
    return NewTask(task_id=task_id, creator_id=creator_id, at=at, **(facts | fields))


def away(**fields: Any) -> Away:
    return Away(**fields)


def report(node_id: str, second: float = 0, owner_id: str = "ann", **fields: Any) -> NodeReport:
    return NodeReport(node_id=node_id, owner_id=owner_id, at=later(second), **fields)


def new_hash() -> bytes:
    return secrets.token_bytes(32)


def credential(credential_id: str, node_id: str, **fields: Any) -> DeviceCredential:
    facts: dict[str, Any] = {"token_hash": new_hash(), "public_key": bytes(32), "created_at": AT}
    return DeviceCredential(credential_id=credential_id, node_id=node_id, **(facts | fields))


def connect_session(session_id: str, requester_id: str = "ann", **fields: Any) -> ConnectSession:
    facts: dict[str, Any] = {
        "task_id": "t1",
        "node_id": "n1",
        "token_hash": new_hash(),
        "egress_profile": EgressProfile.ALLOWLIST_DOMAINS,
        "destination_policy_id": "p1",
        "bandwidth_limit_mbps": 10.0,
        "created_at": AT,
        "updated_at": AT,
        "expires_at": later(600),
    }
    return ConnectSession(session_id=session_id, requester_id=requester_id, **(facts | fields))


def scene(tx: FleetTransaction) -> None:
    """Two owners, three nodes of the first and one of the second."""
    for user in ("ann", "bob"):
        add_user(tx, user)
    for n, node in enumerate(("n1", "n2", "n3")):
        add_node(tx, node, at=later(n))
    add_node(tx, "b1", "bob", at=later(10))
