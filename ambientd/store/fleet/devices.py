"""Join tokens, and the credentials of joined nodes."""

from collections.abc import Sequence
from datetime import datetime

from ambientd.core.fleet.records import Device, DeviceCredential, JoinTokenRecord
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Row, Sql, at, is_in, marks, ms, one
from ambientd.wire.fleet_enums import NodeStatus

_JOIN = "token_id, token_hash, owner_id, created_at, expires_at, uses_left, node_id, revoked_at"
_ADD_JOIN = f"INSERT INTO join_tokens ({_JOIN}) VALUES ({marks(_JOIN)})"
_JOINS = f"SELECT {_JOIN} FROM join_tokens WHERE owner_id = ? ORDER BY created_at DESC, token_id DESC"
_GET_JOIN = f"SELECT {_JOIN} FROM join_tokens WHERE token_hash = ?"
_SPEND = (
    "UPDATE join_tokens SET uses_left = uses_left - 1 WHERE token_hash = ? AND uses_left > 0"
    " AND revoked_at IS NULL AND expires_at > ? AND (node_id IS NULL OR node_id = ?) RETURNING " + _JOIN
)
_REVOKE_JOIN = (
    "UPDATE join_tokens SET revoked_at = ? WHERE token_id = ? AND owner_id = ? AND revoked_at IS NULL"
)
_CREDENTIAL = "credential_id, node_id, token_hash, public_key, created_at, rotated_from, revoked_at, last_seq"
_ADD = f"INSERT INTO device_credentials ({_CREDENTIAL}) VALUES ({marks(_CREDENTIAL)})"
_OF_NODE = (
    f"SELECT {_CREDENTIAL} FROM device_credentials WHERE node_id = ?"
    " ORDER BY created_at DESC, credential_id DESC"
)
_DEVICES = (
    "SELECT "
    + ", ".join(f"c.{name}" for name in _CREDENTIAL.split(", "))
    + ", n.owner_id, n.status, n.deleted_at FROM device_credentials AS c"
    " JOIN nodes AS n ON n.node_id = c.node_id WHERE c.token_hash"
)
# The keys that count, or the one that counted last. A key of before was another node's for a while.
_KEYS = "SELECT public_key FROM device_credentials WHERE node_id = ? AND revoked_at IS NULL"
_LAST_KEY = (
    "SELECT public_key FROM device_credentials WHERE node_id = ? ORDER BY revoked_at DESC, created_at DESC"
    " LIMIT 1"
)
_BEGIN_ANEW = (
    "UPDATE nodes SET incarnation = incarnation + 1, report_seq = 0, audit_head_seq = NULL,"
    " audit_head_hash = NULL WHERE node_id = ?"
)
_ADVANCE = (
    "UPDATE device_credentials SET last_seq = ? WHERE credential_id = ? AND last_seq < ?"
    " AND revoked_at IS NULL"
)
_REVOKE = (
    "UPDATE device_credentials SET revoked_at = ?"
    " WHERE node_id = ? AND revoked_at IS NULL AND credential_id <> ?"
)

_KEYS_OF_OWNERS = (
    "SELECT n.owner_id, n.node_id, c.public_key FROM nodes AS n"
    " JOIN device_credentials AS c ON c.node_id = n.node_id"
    " WHERE n.deleted_at IS NULL AND n.status <> 'rejected' AND c.revoked_at IS NULL"
)


class Devices:
    """`ports.fleet.store.DeviceRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def add_join(self, token: JoinTokenRecord) -> None:
        """Adds a join token."""
        row = (
            token.token_id,
            token.token_hash,
            token.owner_id,
            ms(token.created_at),
            ms(token.expires_at),
            token.uses_left,
            token.node_id,
            ms(token.revoked_at),
        )
        self._sql.run(_ADD_JOIN, row)

    def joins(self, owner_id: str) -> list[JoinTokenRecord]:
        """An owner's join tokens, newest first."""
        return [_join(row) for row in self._sql.rows(_JOINS, (owner_id,))]

    def join(self, token_hash: bytes) -> JoinTokenRecord | None:
        """A join token as it stands."""
        row = one(self._sql.rows(_GET_JOIN, (token_hash,)))
        return None if row is None else _join(row)

    def spend_join(self, token_hash: bytes, node_id: str, at: datetime) -> JoinTokenRecord | None:
        """Takes one use of a token that is good at that instant for that node; None when it is not."""
        row = one(self._sql.rows(_SPEND, (token_hash, ms(at), node_id)))
        return None if row is None else _join(row)

    def revoke_join(self, owner_id: str, token_id: str, at: datetime) -> bool:
        """False when the owner has no such token that is still good."""
        return self._sql.run(_REVOKE_JOIN, (ms(at), token_id, owner_id)) == 1

    def add(self, credential: DeviceCredential) -> None:
        """Adds a credential. With another key than the node had until now, its streams begin anew (a new
        incarnation)."""
        node_id = credential.node_id
        self._sql.locked("SELECT node_id FROM nodes WHERE node_id = ?", (node_id,))
        keys = self._sql.rows(_KEYS, (node_id,)) or self._sql.rows(_LAST_KEY, (node_id,))
        if keys and all(bytes(row[0]) != credential.public_key for row in keys):
            self._sql.run(_BEGIN_ANEW, (node_id,))
        row = (
            credential.credential_id,
            node_id,
            credential.token_hash,
            credential.public_key,
            ms(credential.created_at),
            credential.rotated_from,
            ms(credential.revoked_at),
            credential.last_seq,
        )
        self._sql.run(_ADD, row)

    def device(self, token_hash: bytes) -> Device | None:
        """A credential with its node, also when it is revoked."""
        return self.devices((token_hash,)).get(token_hash)

    def devices(self, token_hashes: Sequence[bytes]) -> dict[bytes, Device]:
        """Credentials with their nodes, also revoked ones, by their hashes; those that there are."""
        wanted = list(dict.fromkeys(token_hashes))
        if not wanted:
            return {}
        # Filled up to a power of two: statements of few lengths are prepared once.
        wanted += wanted[-1:] * ((1 << (len(wanted) - 1).bit_length()) - len(wanted))
        rows = self._sql.rows(f"{_DEVICES} {is_in(wanted)}", wanted)
        return {bytes(row[2]): _device(row) for row in rows}

    def credentials(self, node_id: str) -> list[DeviceCredential]:
        """A node's credentials, newest first."""
        return [_credential(row) for row in self._sql.rows(_OF_NODE, (node_id,))]

    def keys_of_owners(self) -> list[tuple[str, str, bytes]]:
        """Owner, node and key of every credential that is good, of nodes that are in use."""
        return [(row[0], row[1], bytes(row[2])) for row in self._sql.rows(_KEYS_OF_OWNERS)]

    def advance(self, credential_id: str, seq: int) -> int | None:
        """Takes a request's number. None when it was taken; else the last one taken, which is not lower.

        A revoked credential takes none: -1.
        """
        if self._sql.run(_ADVANCE, (seq, credential_id, seq)) == 1:
            return None
        sql = "SELECT last_seq, revoked_at FROM device_credentials WHERE credential_id = ?"
        row = one(self._sql.rows(sql, (credential_id,)))
        return -1 if row is None or row[1] is not None else int(row[0])

    def remove(self, credential_id: str) -> None:
        """Removes a credential that was never used; nothing reminds of it."""
        self._sql.run("DELETE FROM device_credentials WHERE credential_id = ?", (credential_id,))

    def revoke(self, node_id: str, at: datetime, *, keep: str | None = None) -> int:
        """Revokes all credentials of a node but one; how many."""
        return self._sql.run(_REVOKE, (ms(at), node_id, keep or ""))


def _join(row: Row) -> JoinTokenRecord:
    return JoinTokenRecord(
        token_id=row[0],
        token_hash=bytes(row[1]),
        owner_id=row[2],
        created_at=from_ms(row[3]),
        expires_at=from_ms(row[4]),
        uses_left=row[5],
        node_id=row[6],
        revoked_at=at(row[7]),
    )


def _device(row: Row) -> Device:
    return Device(
        credential=_credential(row),
        owner_id=row[8],
        node_status=NodeStatus(row[9]),
        node_deleted=row[10] is not None,
    )


def _credential(row: Row) -> DeviceCredential:
    return DeviceCredential(
        credential_id=row[0],
        node_id=row[1],
        token_hash=bytes(row[2]),
        public_key=bytes(row[3]),
        created_at=from_ms(row[4]),
        rotated_from=row[5],
        revoked_at=at(row[6]),
        last_seq=row[7],
    )
