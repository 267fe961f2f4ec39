"""Connect sessions."""

from collections.abc import Iterable
from datetime import datetime

from ambientd.core.fleet.records import ConnectSession
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Row, Sql, at, marks, ms, one
from ambientd.wire.fleet_enums import ConnectStatus, EgressProfile, TunnelProtocol

_COLUMNS = (
    "requester_id, session_id, task_id, node_id, token_hash, tunnel_protocol, egress_profile,"
    " destination_policy_id, bandwidth_limit_mbps, status, created_at, updated_at, expires_at,"
    " last_heartbeat_at, ended_at, end_reason"
)
_RENEWED = [name for name in _COLUMNS.split(", ") if name not in ("requester_id", "session_id")]
_START = (
    f"INSERT INTO connect_sessions ({_COLUMNS}) VALUES ({marks(_COLUMNS)})"
    " ON CONFLICT (requester_id, session_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _RENEWED)
    + " WHERE connect_sessions.status <> 'active'"
)
_SELECT = f"SELECT {_COLUMNS} FROM connect_sessions"
_MINE = "requester_id = ? AND session_id = ?"
_BEAT = (
    "UPDATE connect_sessions SET last_heartbeat_at = ?, updated_at = ?, node_id = coalesce(?, node_id)"
    f" WHERE {_MINE} AND status = 'active'"
)
_END = (
    "UPDATE connect_sessions SET status = ?, ended_at = ?, updated_at = ?, end_reason = ?"
    f" WHERE {_MINE} AND status = 'active'"
)
_DUE = (
    "SELECT "
    + ", ".join(f"s.{name}" for name in _COLUMNS.split(", "))
    + " FROM connect_sessions AS s JOIN nodes AS n ON n.node_id = s.node_id WHERE s.status = 'active'"
    " AND (s.expires_at <= ? OR n.deleted_at IS NOT NULL OR n.status IN ('offline', 'rejected'))"
    " ORDER BY s.expires_at, s.requester_id, s.session_id LIMIT ?"
)


class ConnectSessions:
    """`ports.fleet.store.ConnectRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def start(self, session: ConnectSession) -> bool:
        """Adds a session, or begins the requester's own ended one of that id anew. False, and nothing
        written, when it is active, or its node has another active session."""
        # A node's row stands for its one active session: whoever starts one waits here.
        self._sql.locked("SELECT node_id FROM nodes WHERE node_id = ?", (session.node_id,))
        if self.active_of_node(session.node_id) is not None:
            return False
        row = (
            session.requester_id,
            session.session_id,
            session.task_id,
            session.node_id,
            session.token_hash,
            session.tunnel_protocol,
            session.egress_profile,
            session.destination_policy_id,
            float(session.bandwidth_limit_mbps),
            session.status,
            ms(session.created_at),
            ms(session.updated_at),
            ms(session.expires_at),
            ms(session.last_heartbeat_at),
            ms(session.ended_at),
            session.end_reason,
        )
        return self._sql.run(_START, row) == 1

    def get(self, requester_id: str, session_id: str) -> ConnectSession | None:
        """A requester's session."""
        row = one(self._sql.rows(f"{_SELECT} WHERE {_MINE}", (requester_id, session_id)))
        return None if row is None else _session(row)

    def by_token(self, token_hash: bytes) -> ConnectSession | None:
        """The session of a token."""
        row = one(self._sql.rows(f"{_SELECT} WHERE token_hash = ?", (token_hash,)))
        return None if row is None else _session(row)

    def active_of_node(self, node_id: str) -> ConnectSession | None:
        """The active session of a node."""
        row = one(self._sql.rows(f"{_SELECT} WHERE node_id = ? AND status = 'active'", (node_id,)))
        return None if row is None else _session(row)

    def active_of_task(self, task_id: str) -> list[ConnectSession]:
        """The active sessions of a task."""
        sql = f"{_SELECT} WHERE task_id = ? AND status = 'active' ORDER BY created_at, session_id"
        return _sessions(self._sql.rows(sql, (task_id,)))

    def beat(self, requester_id: str, session_id: str, at: datetime, *, node_id: str | None = None) -> bool:
        """Notes a sign of life, and another node when it was moved; False when it is not active.

        Raises ValueError when the other node has an active session.
        """
        if node_id is not None:
            self._sql.locked("SELECT node_id FROM nodes WHERE node_id = ?", (node_id,))
            other = self.active_of_node(node_id)
            if other is not None and (other.requester_id, other.session_id) != (requester_id, session_id):
                raise ValueError(f"node {node_id} has another active session")
        return self._sql.run(_BEAT, (ms(at), ms(at), node_id, requester_id, session_id)) == 1

    def end(
        self, requester_id: str, session_id: str, status: ConnectStatus, at: datetime, reason: str
    ) -> bool:
        """Ends an active session; False when it is not active."""
        row = (status, ms(at), ms(at), reason, requester_id, session_id)
        return self._sql.run(_END, row) == 1

    def due(self, now: datetime, limit: int) -> list[ConnectSession]:
        """Active sessions past their time, or whose node is deleted, rejected or offline."""
        return _sessions(self._sql.rows(_DUE, (ms(now), limit)))


def _sessions(rows: Iterable[Row]) -> list[ConnectSession]:
    return [_session(row) for row in rows]


def _session(row: Row) -> ConnectSession:
    return ConnectSession(
        requester_id=row[0],
        session_id=row[1],
        task_id=row[2],
        node_id=row[3],
        token_hash=bytes(row[4]),
        tunnel_protocol=TunnelProtocol(row[5]),
        egress_profile=EgressProfile(row[6]),
        destination_policy_id=row[7],
        bandwidth_limit_mbps=row[8],
        status=ConnectStatus(row[9]),
        created_at=from_ms(row[10]),
        updated_at=from_ms(row[11]),
        expires_at=from_ms(row[12]),
        last_heartbeat_at=at(row[13]),
        ended_at=at(row[14]),
        end_reason=row[15],
    )
