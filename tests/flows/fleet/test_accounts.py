"""Accounts on a real store: what is issued, what it opens, and how it ends."""

import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.tokens import TokenHashes
from ambientd.flows.fleet.accounts import Accounts, Issued, Lifetimes, NewKey
from ambientd.ports.errors import Rejected
from ambientd.wire.fleet_enums import Role
from tests.store.fleet.kit import SqlitePlace, opened

PASSWORD = "correct horse"


class MovingClock:
    def __init__(self) -> None:
        self.at = datetime(2026, 11, 20, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


class PlainPasswords:
    """Fast stand-in; `tests/host/test_passwords.py` tries the real ones."""

    async def hash(self, password: str) -> str:
        return "hash of " + password

    async def matches(self, password: str, stored: str | None) -> bool:
        return stored == "hash of " + password


class Bench:
    def __init__(self, accounts: Accounts, clock: MovingClock, path: Path) -> None:
        self.accounts = accounts
        self.clock = clock
        self.path = path

    async def issued(self) -> Issued:
        found = await self.accounts.log_in("ann", PASSWORD)
        assert isinstance(found, Issued)
        return found

    async def next_of(self, token: str) -> Issued | Rejected:
        self.clock.at += timedelta(seconds=1)
        return await self.accounts.refresh(token)


@asynccontextmanager
async def bench(folder: Path, *, registration: bool = True) -> AsyncIterator[Bench]:
    place, clock = SqlitePlace(folder), MovingClock()
    async with opened(place) as store:
        accounts = Accounts(
            store=store,
            clock=clock,
            passwords=PlainPasswords(),
            hashes=TokenHashes({name: name.value.encode() for name in SecretName}),
            randomness=os.urandom,
            new_id=lambda: str(uuid.uuid4()),
            lifetimes=Lifetimes(),
            open_registration=registration,
        )
        yield Bench(accounts, clock, place.path)


def on_bench(folder: Path, body: Callable[[Bench], Awaitable[None]], *, registered: bool = True) -> None:
    async def main() -> None:
        async with bench(folder) as rig:
            if registered:
                assert not isinstance(await rig.accounts.register("ann", PASSWORD, None), Rejected)
            await body(rig)

    trio.run(main)


def test_a_token_opens_until_it_expires(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        token = (await rig.issued()).access_token
        caller = await rig.accounts.caller(token)
        assert caller is not None
        assert (caller.username, caller.role) == ("ann", Role.USER)
        rig.clock.at += timedelta(minutes=15)
        assert await rig.accounts.caller(token) is None

    on_bench(tmp_path, body)


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "wrong"), ("bob", PASSWORD), ("ann", ""), ("ann", "x" * 5000)]
)
def test_a_wrong_password_and_no_such_user_are_one_answer(tmp_path: Path, name: str, password: str) -> None:
    async def body(rig: Bench) -> None:
        found = await rig.accounts.log_in(name, password)
        assert isinstance(found, Rejected)
        assert (found.code, found.message) == ("NOT_AUTHENTICATED", "the user name or the password is wrong")

    on_bench(tmp_path, body)


def test_a_lost_answer_locks_nobody_out(tmp_path: Path) -> None:
    """The client shows the old refresh token again and again; the last answer arrives."""

    async def body(rig: Bench) -> None:
        first = await rig.issued()
        answers = [await rig.next_of(first.refresh_token) for _ in range(5)]
        assert all(isinstance(answer, Issued) for answer in answers)
        last = answers[-1]
        assert isinstance(last, Issued)
        assert isinstance(await rig.next_of(last.refresh_token), Issued)
        lost = answers[0]
        assert isinstance(lost, Issued)
        assert isinstance(await rig.next_of(lost.refresh_token), Rejected)  # was revoked, and stays so

    on_bench(tmp_path, body)


def test_a_stolen_token_ends_the_whole_family(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        first = await rig.issued()
        second = await rig.next_of(first.refresh_token)
        assert isinstance(second, Issued)
        third = await rig.next_of(second.refresh_token)
        assert isinstance(third, Issued)
        thief = await rig.next_of(first.refresh_token)
        assert isinstance(thief, Rejected)
        assert "used before" in thief.message
        assert isinstance(await rig.next_of(third.refresh_token), Rejected)
        assert await rig.accounts.caller(third.access_token) is None
        assert isinstance(await rig.issued(), Issued)  # the password still opens

    on_bench(tmp_path, body)


def test_a_thief_who_comes_before_the_next_rotation_is_found_by_it(tmp_path: Path) -> None:
    """The token before is shown while its successor lies unused in the owner's hands."""

    async def body(rig: Bench) -> None:
        first = await rig.issued()
        owners = await rig.next_of(first.refresh_token)
        rig.clock.at += timedelta(minutes=10)
        thiefs = await rig.next_of(first.refresh_token)
        assert isinstance(owners, Issued)
        assert isinstance(thiefs, Issued)
        rig.clock.at += timedelta(minutes=3)
        found = await rig.next_of(owners.refresh_token)
        assert isinstance(found, Rejected)
        assert "used before" in found.message
        assert await rig.accounts.caller(thiefs.access_token) is None
        assert isinstance(await rig.next_of(thiefs.refresh_token), Rejected)

    on_bench(tmp_path, body)


def test_two_at_once_with_one_token_leave_one_good_chain(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        first = await rig.issued()
        found: list[Issued | Rejected] = []

        async def ask() -> None:
            found.append(await rig.accounts.refresh(first.refresh_token))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
        good = [one for one in found if isinstance(one, Issued)]
        assert len(good) == 4
        still = [one for one in good if isinstance(await rig.accounts.refresh(one.refresh_token), Issued)]
        assert len(still) == 1

    on_bench(tmp_path, body)


def test_a_changed_password_ends_every_token(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        issued = await rig.issued()
        caller = await rig.accounts.caller(issued.access_token)
        assert caller is not None
        assert isinstance(
            await rig.accounts.change_password(caller.user_id, "wrong", "another one"), Rejected
        )
        assert await rig.accounts.change_password(caller.user_id, PASSWORD, "another one") == 0
        assert await rig.accounts.caller(issued.access_token) is None
        assert isinstance(await rig.accounts.refresh(issued.refresh_token), Rejected)
        assert isinstance(await rig.accounts.log_in("ann", PASSWORD), Rejected)
        assert isinstance(await rig.accounts.log_in("ann", "another one"), Issued)

    on_bench(tmp_path, body)


def test_keys_open_until_revoked_and_are_stored_as_hashes(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        registered = await rig.accounts.register("bob", PASSWORD, None)
        assert not isinstance(registered, Rejected)
        user, key = registered
        caller = await rig.accounts.caller(key.api_key)
        assert caller is not None
        assert caller.user_id == user.user_id
        dump = "\n".join(sqlite3.connect(rig.path).iterdump())
        assert user.user_id in dump
        assert key.api_key not in dump
        assert key.api_key[8:] not in dump
        assert await rig.accounts.revoke_key(user.user_id, key.record.key_id)
        assert not await rig.accounts.revoke_key(user.user_id, key.record.key_id)
        assert await rig.accounts.caller(key.api_key) is None

    on_bench(tmp_path, body)


def test_the_use_of_keys_is_written_together_and_in_its_own_time(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        caller = await rig.accounts.caller((await rig.issued()).access_token)
        assert caller is not None
        used = await rig.accounts.add_key(caller.user_id, "used", ("tasks:read",), None)
        idle = await rig.accounts.add_key(caller.user_id, "idle", ("tasks:read",), None)
        assert isinstance(used, NewKey)
        assert isinstance(idle, NewKey)

        async def last_used(key: NewKey) -> datetime | None:
            [row] = [k for k in await rig.accounts.keys(caller.user_id) if k.key_id == key.record.key_id]
            return row.last_used_at

        for _ in range(3):
            rig.clock.at += timedelta(seconds=10)
            assert await rig.accounts.caller(used.api_key) is not None
        assert await last_used(used) is None  # no request waits for it
        assert await rig.accounts.write_used() == 1
        assert (await last_used(used), await last_used(idle)) == (rig.clock.at, None)
        assert await rig.accounts.write_used() == 0
        await rig.accounts.revoke_key(caller.user_id, idle.record.key_id)
        assert await rig.accounts.caller(idle.api_key) is None
        assert await rig.accounts.write_used() == 0

    on_bench(tmp_path, body)


@pytest.mark.parametrize("revoke", [False, True])
def test_a_changed_password_ends_keys_only_when_that_is_asked_for(tmp_path: Path, revoke: bool) -> None:
    async def body(rig: Bench) -> None:
        caller = await rig.accounts.caller((await rig.issued()).access_token)
        assert caller is not None
        key = await rig.accounts.add_key(caller.user_id, "one", ("tasks:read",), None)
        assert isinstance(key, NewKey)
        revoked = await rig.accounts.change_password(
            caller.user_id, PASSWORD, "another good one", revoke_keys=revoke
        )
        assert revoked == (2 if revoke else 0)  # with the one that came with the account
        assert (await rig.accounts.caller(key.api_key) is None) is revoke

    on_bench(tmp_path, body)


def test_names_are_taken_once_and_roles_are_not_chosen(tmp_path: Path) -> None:
    async def body(rig: Bench) -> None:
        again = await rig.accounts.register("ann", "another one", None)
        assert isinstance(again, Rejected)
        assert again.code == "CONFLICT"
        own = await rig.accounts.register("eve", PASSWORD, None, role=Role.ADMIN)
        assert not isinstance(own, Rejected)
        assert own[0].role is Role.USER

    on_bench(tmp_path, body)


@pytest.mark.parametrize(
    ("name", "password", "email", "fields"),
    [
        ("a", PASSWORD, None, ["username"]),
        ("a b", "short", None, ["username", "password"]),
        ("x" * 33, PASSWORD, "nobody", ["username", "email"]),
        ("ann-bob", PASSWORD, None, ["username"]),
        ("ann", PASSWORD, "a@b\r\nc", ["email"]),
    ],
)
def test_all_faults_of_a_registration_are_told_at_once(
    tmp_path: Path, name: str, password: str, email: str | None, fields: list[str]
) -> None:
    async def body(rig: Bench) -> None:
        found = await rig.accounts.register(name, password, email)
        assert isinstance(found, Rejected)
        assert [detail.field for detail in found.details] == fields

    on_bench(tmp_path, body, registered=False)


def test_closed_registration_is_for_administrators(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path, registration=False) as rig:
            found = await rig.accounts.register("ann", PASSWORD, None)
            assert isinstance(found, Rejected)
            assert found.code == "NOT_AUTHORIZED"

    trio.run(main)
