"""Accounts: registration, log-in, tokens that follow each other, API keys.

Every answer is the same for "no such user" and "wrong password". What is issued is shown once; the store has
keyed hashes only.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from ambientd.core.fleet.accounts import check_password, check_registration
from ambientd.core.fleet.records import (
    AccessTokenRecord,
    ApiKeyRecord,
    Caller,
    RefreshTokenRecord,
    UserRecord,
)
from ambientd.core.fleet.tokens import (
    ANSWER_LOST,
    RANDOM_BYTES,
    Refresh,
    TokenHashes,
    TokenKind,
    build_token,
    decide_refresh,
    kind_of,
    sentence_of,
)
from ambientd.core.records import AuditEntry
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.passwords import Passwords, Randomness
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import Role

DEFAULT_SCOPES = ("tasks:read", "tasks:write")
KEYS_MAX = 50  # of one user, still good
USED_MAX = 10_000  # keys whose use is kept in mind until it is written; more are not noted
USED_STEP = 500  # rows of one transaction
_WRONG = Rejected("NOT_AUTHENTICATED", "the user name or the password is wrong")


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long tokens are good for."""

    access: timedelta = timedelta(minutes=15)
    refresh: timedelta = timedelta(days=30)


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh pair of tokens, in the clear for the one answer that carries it."""

    access_token: str
    refresh_token: str
    expires_in: int  # seconds


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh API key, in the clear for the one answer that carries it."""

    record: ApiKeyRecord
    api_key: str


class Accounts:
    """The use cases of accounts."""

    def __init__(
        self,
        *,
        store: FleetStore,
        clock: Clock,
        passwords: Passwords,
        hashes: TokenHashes,
        randomness: Randomness,
        new_id: Callable[[], str],
        lifetimes: Lifetimes,
        open_registration: bool,
    ) -> None:
        """`new_id` gives fresh UUIDs. Without `open_registration` only an administrator adds accounts."""
        self._store = store
        self._clock = clock
        self._passwords = passwords
        self._hashes = hashes
        self._random = randomness
        self._new_id = new_id
        self._lifetimes = lifetimes
        self._open = open_registration
        self._used: dict[str, datetime] = {}

    # --- people

    async def register(
        self,
        username: str,
        password: str,
        email: str | None,
        *,
        by: Caller | None = None,
        role: Role = Role.USER,
    ) -> tuple[UserRecord, NewKey] | Rejected:
        """Adds an account with one API key."""
        may_choose = by is not None and by.role is Role.ADMIN
        if not self._open and not may_choose:
            return Rejected(
                "NOT_AUTHORIZED",
                "registration is closed (server.registration); administrators add accounts",
            )
        problems = check_registration(username, password, email)
        if problems:
            return Rejected("VALIDATION_ERROR", "the registration is not valid", problems)
        user = UserRecord(
            user_id=self._new_id(),
            username=username,
            role=role if may_choose else Role.USER,
            email=email,
            created_at=self._clock.now(),
        )
        stored = await self._passwords.hash(password)
        key = self._key(user.user_id, "default", DEFAULT_SCOPES, None)

        def work(tx: FleetTransaction) -> bool:
            if not tx.users.add(user, stored):
                return False
            tx.users.add_key(key.record, self._hashes.of(TokenKind.API_KEY, key.api_key))
            actor = f"user:{user.user_id if by is None else by.user_id}"
            tx.audit.append(
                AuditEntry(kind="user_added", at=user.created_at, actor=actor, subject=user.user_id)
            )
            return True

        if not await self._store.write(work):
            return Rejected("CONFLICT", "that user name is taken")
        return user, key

    async def add_owner(self, username: str, password: str) -> UserRecord | Rejected | None:
        """Adds an administrator when set up; None, and nothing changed, when the name is taken."""
        problems = check_registration(username, password, None)
        if problems:
            return Rejected("VALIDATION_ERROR", "the owner is not valid", problems)
        now = self._clock.now()
        user = UserRecord(user_id=self._new_id(), username=username, role=Role.ADMIN, created_at=now)
        stored = await self._passwords.hash(password)

        def work(tx: FleetTransaction) -> bool:
            if not tx.users.add(user, stored):
                return False
            tx.audit.append(AuditEntry(kind="user_added", at=now, actor="init", subject=user.user_id))
            return True

        return user if await self._store.write(work) else None

    async def log_in(self, username: str, password: str) -> Issued | Rejected:
        """A new family of tokens for who knows the password."""
        if len(password) > 1024 or len(username) > 64:
            return _WRONG

        def find(tx: FleetTransaction) -> tuple[UserRecord | None, str | None]:
            user = tx.users.by_name(username)
            return user, None if user is None else tx.users.password_hash(user.user_id)

        user, stored = await self._store.read(find)
        if not await self._passwords.matches(password, stored) or user is None:
            return _WRONG
        user_id, family, now = user.user_id, self._new_id(), self._clock.now()

        def work(tx: FleetTransaction) -> Issued | Rejected:
            if tx.users.password_hash(user_id) != stored:
                return _WRONG  # changed meanwhile
            tx.users.note_login(user_id, now)
            return self._issue(tx, user_id, family, now, parent=None)

        return await self._store.write(work)

    async def change_password(
        self, user_id: str, old: str, new: str, *, revoke_keys: bool = False
    ) -> int | Rejected:
        """Sets a new password and revokes every token of the account, and its API keys if that is asked for;
        how many of those."""
        problems = tuple(check_password(new))
        if problems:
            return Rejected("VALIDATION_ERROR", "the new password is not valid", problems)
        stored = await self._store.read(lambda tx: tx.users.password_hash(user_id))
        if not await self._passwords.matches(old, stored):
            return _WRONG
        fresh = await self._passwords.hash(new)
        now = self._clock.now()

        def work(tx: FleetTransaction) -> int | Rejected:
            if tx.users.password_hash(user_id) != stored:
                return _WRONG
            tx.users.set_password(user_id, fresh)
            tx.tokens.revoke_user(user_id, now, "password changed")
            return tx.users.revoke_keys(user_id, now) if revoke_keys else 0

        return await self._store.write(work)

    # --- tokens

    async def refresh(self, token: str) -> Issued | Rejected:
        """The next pair of a family."""
        if kind_of(token) is not TokenKind.REFRESH:
            return Rejected("NOT_AUTHENTICATED", sentence_of(Refresh.UNKNOWN))
        shown_hash, now = self._hashes.of(TokenKind.REFRESH, token), self._clock.now()

        def work(tx: FleetTransaction) -> Issued | Rejected:
            shown = tx.tokens.refresh(shown_hash)
            after = None
            if shown is not None and shown.successor_hash is not None:
                after = tx.tokens.refresh(shown.successor_hash)
            verdict = decide_refresh(shown, after, now)
            if shown is None or verdict not in (Refresh.ROTATE, Refresh.REISSUE):
                if shown is not None and verdict is Refresh.REUSE:
                    tx.tokens.revoke_family(shown.family_id, now, "reused")
                return Rejected("NOT_AUTHENTICATED", sentence_of(verdict))
            if verdict is Refresh.REISSUE and after is not None:
                tx.tokens.revoke_refresh(after.token_hash, now, ANSWER_LOST)
            return self._issue(tx, shown.user_id, shown.family_id, now, parent=shown_hash)

        return await self._store.write(work)

    async def log_out(self, token: str) -> bool:
        """Revokes the family of a refresh token; False when there is no such token."""
        token_hash, now = self._hashes.of(TokenKind.REFRESH, token), self._clock.now()

        def work(tx: FleetTransaction) -> bool:
            shown = tx.tokens.refresh(token_hash)
            if shown is None:
                return False
            tx.tokens.revoke_family(shown.family_id, now, "logged out")
            return True

        return await self._store.write(work)

    def _issue(
        self, tx: FleetTransaction, user_id: str, family: str, now: datetime, *, parent: bytes | None
    ) -> Issued:
        access = build_token(TokenKind.ACCESS, self._random(RANDOM_BYTES))
        refresh = build_token(TokenKind.REFRESH, self._random(RANDOM_BYTES))
        refresh_hash = self._hashes.of(TokenKind.REFRESH, refresh)
        tx.tokens.add_access(
            AccessTokenRecord(
                token_hash=self._hashes.of(TokenKind.ACCESS, access),
                user_id=user_id,
                family_id=family,
                issued_at=now,
                expires_at=now + self._lifetimes.access,
            )
        )
        tx.tokens.add_refresh(
            RefreshTokenRecord(
                token_hash=refresh_hash,
                family_id=family,
                user_id=user_id,
                parent_hash=parent,
                issued_at=now,
                expires_at=now + self._lifetimes.refresh,
            )
        )
        if parent is not None:
            tx.tokens.succeed(parent, refresh_hash, now)
        return Issued(
            access_token=access,
            refresh_token=refresh,
            expires_in=int(self._lifetimes.access.total_seconds()),
        )

    async def caller(self, token: str) -> Caller | None:
        """Who an access token or an API key stands for at this moment; None when it opens nothing."""
        kind = kind_of(token)
        if kind not in (TokenKind.ACCESS, TokenKind.API_KEY):
            return None
        token_hash = self._hashes.of(kind, token)

        def find(tx: FleetTransaction) -> tuple[str | None, Caller | None]:
            if kind is TokenKind.ACCESS:
                return None, tx.tokens.caller_of_access(token_hash)
            return tx.users.caller_of_key(token_hash) or (None, None)

        key_id, caller = await self._store.read(find)
        if caller is None or caller.revoked_at is not None:
            return None
        now = self._clock.now()
        if caller.expires_at is not None and now >= caller.expires_at:
            return None
        if key_id is not None and (key_id in self._used or len(self._used) < USED_MAX):
            self._used[key_id] = now
        return caller

    # --- API keys

    async def add_key(
        self, user_id: str, name: str, scopes: tuple[str, ...], lifetime: timedelta | None
    ) -> NewKey | Rejected:
        """A further key of an account."""
        key = self._key(user_id, name, scopes, lifetime)

        def work(tx: FleetTransaction) -> NewKey | Rejected:
            good = [one for one in tx.users.keys(user_id) if one.revoked_at is None]
            if len(good) >= KEYS_MAX:
                return Rejected("CONFLICT", f"this account has {KEYS_MAX} keys; revoke one first")
            tx.users.add_key(key.record, self._hashes.of(TokenKind.API_KEY, key.api_key))
            return key

        return await self._store.write(work)

    async def keys(self, user_id: str) -> list[ApiKeyRecord]:
        """The keys of an account, without their secrets."""
        return await self._store.read(lambda tx: tx.users.keys(user_id))

    async def write_used(self) -> int:
        """Writes when keys were used since the last time, for all of them together: no request waits for it.
        How many keys. Raises as `FleetStore` does; nothing is forgotten then."""
        used = sorted(self._used.items())  # in one order, so that two processes never wait crosswise
        for first in range(0, len(used), USED_STEP):
            some = used[first : first + USED_STEP]

            def work(tx: FleetTransaction, some: list[tuple[str, datetime]] = some) -> None:
                for key_id, at in some:
                    tx.users.note_key_used(key_id, at)

            await self._store.write(work)
            for key_id, at in some:
                if self._used.get(key_id) == at:
                    del self._used[key_id]
        return len(used)

    async def revoke_key(self, user_id: str, key_id: str) -> bool:
        """False when the account has no such key that is still good."""
        now = self._clock.now()
        return await self._store.write(lambda tx: tx.users.revoke_key(user_id, key_id, now))

    def _key(self, user_id: str, name: str, scopes: tuple[str, ...], lifetime: timedelta | None) -> NewKey:
        text, now = build_token(TokenKind.API_KEY, self._random(RANDOM_BYTES)), self._clock.now()
        record = ApiKeyRecord(
            key_id=self._new_id(),
            user_id=user_id,
            name=name,
            prefix=text[:8],
            scopes=scopes,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        return NewKey(record=record, api_key=text)
