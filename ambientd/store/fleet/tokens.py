"""Access and refresh tokens, by their keyed hashes."""

from datetime import datetime

from ambientd.core.fleet.records import AccessTokenRecord, Caller, RefreshTokenRecord
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Sql, at, digest, marks, ms, one
from ambientd.wire.fleet_enums import Role

_ACCESS = "token_hash, user_id, family_id, issued_at, expires_at"
_ADD_ACCESS = f"INSERT INTO access_tokens ({_ACCESS}) VALUES ({marks(_ACCESS)})"
_CALLER = (
    "SELECT u.user_id, u.username, u.role, t.expires_at FROM access_tokens AS t"
    " JOIN users AS u ON u.user_id = t.user_id WHERE t.token_hash = ?"
)
_REFRESH = (
    "token_hash, family_id, user_id, parent_hash, issued_at, expires_at, used_at, successor_hash,"
    " revoked_at, revoked_reason"
)
_ADD_REFRESH = f"INSERT INTO refresh_tokens ({_REFRESH}) VALUES ({marks(_REFRESH)})"
_GET_REFRESH = f"SELECT {_REFRESH} FROM refresh_tokens WHERE token_hash = ?"
_SUCCEED = "UPDATE refresh_tokens SET used_at = coalesce(used_at, ?), successor_hash = ? WHERE token_hash = ?"
_REVOKE = "UPDATE refresh_tokens SET revoked_at = ?, revoked_reason = ? WHERE revoked_at IS NULL"
_REMOVE = (
    "DELETE FROM {table} WHERE token_hash IN"
    " (SELECT token_hash FROM {table} WHERE expires_at < ? ORDER BY expires_at LIMIT ?)"
)


class Tokens:
    """`ports.fleet.store.TokenRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def add_access(self, token: AccessTokenRecord) -> None:
        """Adds an access token."""
        row = (
            token.token_hash,
            token.user_id,
            token.family_id,
            ms(token.issued_at),
            ms(token.expires_at),
        )
        self._sql.run(_ADD_ACCESS, row)

    def caller_of_access(self, token_hash: bytes) -> Caller | None:
        """Who an access token stands for, also when it has expired; None when unknown or revoked."""
        row = one(self._sql.rows(_CALLER, (token_hash,)))
        if row is None:
            return None
        return Caller(user_id=row[0], username=row[1], role=Role(row[2]), expires_at=at(row[3]))

    def add_refresh(self, token: RefreshTokenRecord) -> None:
        """Adds a refresh token; with a parent, `succeed` is to be called as well."""
        row = (
            token.token_hash,
            token.family_id,
            token.user_id,
            token.parent_hash,
            ms(token.issued_at),
            ms(token.expires_at),
            ms(token.used_at),
            token.successor_hash,
            ms(token.revoked_at),
            token.revoked_reason,
        )
        self._sql.run(_ADD_REFRESH, row)

    def refresh(self, token_hash: bytes) -> RefreshTokenRecord | None:
        """A refresh token as it stands. In a write its row is locked until the end of the transaction."""
        row = one(self._sql.locked(_GET_REFRESH, (token_hash,)))
        if row is None:
            return None
        return RefreshTokenRecord(
            token_hash=bytes(row[0]),
            family_id=row[1],
            user_id=row[2],
            parent_hash=digest(row[3]),
            issued_at=from_ms(row[4]),
            expires_at=from_ms(row[5]),
            used_at=at(row[6]),
            successor_hash=digest(row[7]),
            revoked_at=at(row[8]),
            revoked_reason=row[9],
        )

    def succeed(self, token_hash: bytes, successor_hash: bytes, at: datetime) -> None:
        """Marks a token as used (the first use stands) and names its latest successor."""
        self._sql.run(_SUCCEED, (ms(at), successor_hash, token_hash))

    def revoke_refresh(self, token_hash: bytes, at: datetime, reason: str) -> bool:
        """False when it is unknown or was revoked before."""
        return self._sql.run(f"{_REVOKE} AND token_hash = ?", (ms(at), reason, token_hash)) == 1

    def revoke_family(self, family_id: str, at: datetime, reason: str) -> int:
        """Revokes all refresh tokens of a family and removes its access tokens; how many refresh tokens."""
        self._sql.run("DELETE FROM access_tokens WHERE family_id = ?", (family_id,))
        return self._sql.run(f"{_REVOKE} AND family_id = ?", (ms(at), reason, family_id))

    def revoke_user(self, user_id: str, at: datetime, reason: str) -> int:
        """The same for all families of a user."""
        self._sql.run("DELETE FROM access_tokens WHERE user_id = ?", (user_id,))
        return self._sql.run(f"{_REVOKE} AND user_id = ?", (ms(at), reason, user_id))

    def remove_expired(self, before: datetime, limit: int) -> int:
        """Removes tokens that expired before an instant, at most `limit` of each kind; how many went."""
        return sum(
            self._sql.run(_REMOVE.format(table=table), (ms(before), limit))
            for table in ("access_tokens", "refresh_tokens")
        )
