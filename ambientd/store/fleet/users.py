"""Accounts and API keys."""

from datetime import datetime

from ambientd.core.fleet.records import ApiKeyRecord, Caller, UserRecord
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Row, Sql, at, json_text, json_value, marks, ms, one
from ambientd.wire.fleet_enums import Role

_USER = "user_id, username, role, email, created_at, last_login"
_ADD = (
    f"INSERT INTO users ({_USER}, password_hash) VALUES ({marks(_USER)}, ?) ON CONFLICT (username) DO NOTHING"
)
_SELECT = f"SELECT {_USER} FROM users"
_KEY = "key_id, user_id, name, key_prefix, scopes, created_at, expires_at, last_used_at, revoked_at"
_ADD_KEY = f"INSERT INTO api_keys ({_KEY}, key_hash) VALUES ({marks(_KEY)}, ?)"
_KEYS = f"SELECT {_KEY} FROM api_keys WHERE user_id = ? ORDER BY created_at, key_id"
_CALLER_OF_KEY = (
    "SELECT k.key_id, u.user_id, u.username, u.role, k.expires_at, k.revoked_at, k.scopes"
    " FROM api_keys AS k JOIN users AS u ON u.user_id = k.user_id WHERE k.key_hash = ?"
)


class Users:
    """`ports.fleet.store.UserRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def add(self, user: UserRecord, password_hash: str | None) -> bool:
        """False, and nothing written, when the user name is taken."""
        row = (user.user_id, user.username, user.role, user.email, ms(user.created_at), ms(user.last_login))
        return self._sql.run(_ADD, (*row, password_hash)) == 1

    def get(self, user_id: str) -> UserRecord | None:
        """One account by its id."""
        return _user(one(self._sql.rows(f"{_SELECT} WHERE user_id = ?", (user_id,))))

    def by_name(self, username: str) -> UserRecord | None:
        """One account by its name, exactly."""
        return _user(one(self._sql.rows(f"{_SELECT} WHERE username = ?", (username,))))

    def page(self, limit: int, after: str | None = None) -> list[UserRecord]:
        """Accounts by user name."""
        sql = f"{_SELECT} WHERE username > ? ORDER BY username LIMIT ?"
        return [_known(row) for row in self._sql.rows(sql, (after or "", limit))]

    def password_hash(self, user_id: str) -> str | None:
        """The stored hash; None for an account without a password, or no account."""
        found = one(self._sql.rows("SELECT password_hash FROM users WHERE user_id = ?", (user_id,)))
        return None if found is None else found[0]

    def set_password(self, user_id: str, password_hash: str) -> bool:
        """False when there is no such account."""
        sql = "UPDATE users SET password_hash = ? WHERE user_id = ?"
        return self._sql.run(sql, (password_hash, user_id)) == 1

    def set_role(self, user_id: str, role: Role) -> bool:
        """False when there is no such account."""
        return self._sql.run("UPDATE users SET role = ? WHERE user_id = ?", (role, user_id)) == 1

    def note_login(self, user_id: str, at: datetime) -> None:
        """Remembers when somebody last logged in with a password."""
        self._sql.run("UPDATE users SET last_login = ? WHERE user_id = ?", (ms(at), user_id))

    def add_key(self, key: ApiKeyRecord, key_hash: bytes) -> None:
        """Adds an API key."""
        row = (
            key.key_id,
            key.user_id,
            key.name,
            key.prefix,
            json_text(key.scopes),
            ms(key.created_at),
            ms(key.expires_at),
            ms(key.last_used_at),
            ms(key.revoked_at),
            key_hash,
        )
        self._sql.run(_ADD_KEY, row)

    def keys(self, user_id: str) -> list[ApiKeyRecord]:
        """A user's keys, oldest first, revoked ones too."""
        return [
            ApiKeyRecord(
                key_id=row[0],
                user_id=row[1],
                name=row[2],
                prefix=row[3],
                scopes=tuple(json_value(row[4])),
                created_at=from_ms(row[5]),
                expires_at=at(row[6]),
                last_used_at=at(row[7]),
                revoked_at=at(row[8]),
            )
            for row in self._sql.rows(_KEYS, (user_id,))
        ]

    def caller_of_key(self, key_hash: bytes) -> tuple[str, Caller] | None:
        """The key's id and who it stands for, also when it is revoked or has expired."""
        row = one(self._sql.rows(_CALLER_OF_KEY, (key_hash,)))
        if row is None:
            return None
        return row[0], Caller(
            user_id=row[1],
            username=row[2],
            role=Role(row[3]),
            expires_at=at(row[4]),
            revoked_at=at(row[5]),
            scopes=tuple(json_value(row[6])),
        )

    def note_key_used(self, key_id: str, at: datetime) -> None:
        """Remembers the use of a key; never an earlier one than is known."""
        sql = (
            "UPDATE api_keys SET last_used_at = ? WHERE key_id = ?"
            " AND (last_used_at IS NULL OR last_used_at < ?)"
        )
        self._sql.run(sql, (ms(at), key_id, ms(at)))

    def revoke_key(self, user_id: str, key_id: str, at: datetime) -> bool:
        """False when the user has no such key that is still good."""
        sql = "UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND user_id = ? AND revoked_at IS NULL"
        return self._sql.run(sql, (ms(at), key_id, user_id)) == 1

    def revoke_keys(self, user_id: str, at: datetime) -> int:
        """Revokes all of a user's keys that were not; how many."""
        sql = "UPDATE api_keys SET revoked_at = ? WHERE user_id = ? AND revoked_at IS NULL"
        return self._sql.run(sql, (ms(at), user_id))


def _known(row: Row) -> UserRecord:
    return UserRecord(
        user_id=row[0],
        username=row[1],
        role=Role(row[2]),
        email=row[3],
        created_at=from_ms(row[4]),
        last_login=at(row[5]),
    )


def _user(row: Row | None) -> UserRecord | None:
    return None if row is None else _known(row)
