"""Accounts, tokens and device credentials, on both databases."""

from typing import Any

import pytest

from ambientd.core.fleet.records import (
    AccessTokenRecord,
    ApiKeyRecord,
    JoinTokenRecord,
    RefreshTokenRecord,
    UserRecord,
)
from ambientd.wire.fleet_enums import NodeStatus, Role
from tests.store.fleet.kit import AT, Place, add_user, credential, later, new_hash, opened, scene

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


def refresh(token: bytes, **fields: Any) -> RefreshTokenRecord:
    facts: dict[str, Any] = {"family_id": "f1", "user_id": "ann", "issued_at": AT, "expires_at": later(100)}
    return RefreshTokenRecord(token_hash=token, **(facts | fields))


def access(token: bytes, **fields: Any) -> AccessTokenRecord:
    facts: dict[str, Any] = {"family_id": "f1", "user_id": "ann", "issued_at": AT, "expires_at": later(9)}
    return AccessTokenRecord(token_hash=token, **(facts | fields))


def join(token: bytes, **fields: Any) -> JoinTokenRecord:
    facts: dict[str, Any] = {"owner_id": "ann", "created_at": AT, "expires_at": later(60), "uses_left": 1}
    return JoinTokenRecord(token_id=f"j{token[0]}", token_hash=token, **(facts | fields))


async def test_a_user_name_is_taken_once(place: Place) -> None:
    user = UserRecord(user_id="u1", username="ann", email="a@b", created_at=AT, role=Role.ADMIN)
    async with opened(place) as store:
        assert await store.write(lambda tx: tx.users.add(user, "hash")) is True
        twin = UserRecord(user_id="u2", username="ann", created_at=AT)
        assert await store.write(lambda tx: tx.users.add(twin, None)) is False
        assert await store.read(lambda tx: tx.users.by_name("ann")) == user
        assert await store.read(lambda tx: tx.users.get("u2")) is None
        assert await store.read(lambda tx: tx.users.password_hash("u1")) == "hash"
        await store.write(lambda tx: tx.users.note_login("u1", later(5)))
        assert await store.write(lambda tx: tx.users.set_password("u1", "other")) is True
        assert await store.write(lambda tx: tx.users.set_role("nobody", Role.USER)) is False
        found = await store.read(lambda tx: tx.users.get("u1"))
        assert found is not None
        assert found.last_login == later(5)
        assert "other" not in repr(found)


async def test_users_are_listed_by_name_byte_by_byte(place: Place) -> None:
    async with opened(place) as store:
        for name in ("b", "a", "B", "ä", "a_b", "ab"):
            await store.write(lambda tx, name=name: add_user(tx, f"id-{name}", username=name))  # type: ignore[misc]
        first = await store.read(lambda tx: tx.users.page(3))
        rest = await store.read(lambda tx: tx.users.page(9, first[-1].username))
    assert [user.username for user in first + rest] == ["B", "a", "a_b", "ab", "b", "ä"]


async def test_a_key_stands_for_its_user_until_it_is_revoked(place: Place) -> None:
    key = ApiKeyRecord(
        key_id="k1", user_id="ann", name="default", prefix="vcp_abcd", scopes=("tasks:read",), created_at=AT
    )
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.users.add_key(key, A))
        assert await store.read(lambda tx: tx.users.caller_of_key(B)) is None
        found = await store.read(lambda tx: tx.users.caller_of_key(A))
        assert found is not None
        assert (found[0], found[1].user_id, found[1].scopes, found[1].revoked_at) == (
            "k1",
            "ann",
            ("tasks:read",),
            None,
        )
        await store.write(lambda tx: tx.users.note_key_used("k1", later(1)))
        assert await store.write(lambda tx: tx.users.revoke_key("bob", "k1", later(2))) is False
        assert await store.write(lambda tx: tx.users.revoke_key("ann", "k1", later(2))) is True
        assert await store.write(lambda tx: tx.users.revoke_key("ann", "k1", later(3))) is False
        (kept,) = await store.read(lambda tx: tx.users.keys("ann"))
    assert (kept.last_used_at, kept.revoked_at) == (later(1), later(2))


async def test_a_chain_of_refresh_tokens(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.tokens.add_refresh(refresh(A)))
        await store.write(lambda tx: tx.tokens.add_access(access(C)))
        await store.write(lambda tx: tx.tokens.add_refresh(refresh(B, parent_hash=A)))
        await store.write(lambda tx: tx.tokens.succeed(A, B, later(1)))
        await store.write(lambda tx: tx.tokens.succeed(A, C, later(2)))
        used = await store.read(lambda tx: tx.tokens.refresh(A))
        assert used == refresh(A, used_at=later(1), successor_hash=C)
        assert await store.read(lambda tx: tx.tokens.refresh(new_hash())) is None
        assert await store.write(lambda tx: tx.tokens.revoke_refresh(B, later(3), "unused")) is True
        assert await store.write(lambda tx: tx.tokens.revoke_refresh(B, later(4), "again")) is False
        caller = await store.read(lambda tx: tx.tokens.caller_of_access(C))
        assert caller is not None
        assert (caller.username, caller.expires_at, caller.scopes) == ("ann", later(9), None)
        assert await store.write(lambda tx: tx.tokens.revoke_family("f1", later(5), "reuse")) == 1
        assert await store.read(lambda tx: tx.tokens.caller_of_access(C)) is None
        assert await store.read(lambda tx: tx.tokens.refresh(B)) == refresh(
            B, parent_hash=A, revoked_at=later(3), revoked_reason="unused"
        )


async def test_expired_tokens_go_a_few_at_a_time(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        for n in range(5):
            token = bytes([n]) * 32
            await store.write(
                lambda tx, t=token, n=n: tx.tokens.add_access(access(t, expires_at=later(n)))  # type: ignore[misc]
            )
        await store.write(lambda tx: tx.tokens.add_refresh(refresh(A, expires_at=later(1))))
        assert await store.write(lambda tx: tx.tokens.remove_expired(later(4), 3)) == 4
        assert await store.write(lambda tx: tx.tokens.remove_expired(later(4), 3)) == 1
        assert await store.write(lambda tx: tx.tokens.remove_expired(later(4), 3)) == 0
        await store.write(lambda tx: tx.tokens.add_refresh(refresh(B)))
        assert await store.write(lambda tx: tx.tokens.revoke_user("ann", later(9), "password")) == 1


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"node_id": "n1"}, True),
        ({"node_id": "n2"}, False),
        ({"uses_left": 0}, False),
        ({"expires_at": later(5)}, False),
        ({"revoked_at": AT}, False),
    ],
)
async def test_a_join_token_is_spent_only_while_it_is_good(
    place: Place, change: dict[str, Any], good: bool
) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.devices.add_join(join(A, **change)))
        spent = await store.write(lambda tx: tx.devices.spend_join(A, "n1", later(5)))
        assert (spent is not None) is good
        if spent is not None:
            assert (spent.owner_id, spent.uses_left) == ("ann", 0)
            assert await store.write(lambda tx: tx.devices.spend_join(A, "n1", later(5))) is None
        assert await store.read(lambda tx: tx.devices.join(B)) is None
        assert len(await store.read(lambda tx: tx.devices.joins("ann"))) == 1
        assert await store.write(lambda tx: tx.devices.revoke_join("bob", "j1", later(6))) is False


async def test_a_credential_takes_each_number_once_until_it_is_revoked(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.devices.add(credential("c1", "n1", token_hash=A)))
        await store.write(lambda tx: tx.devices.add(credential("c2", "n1", token_hash=B, rotated_from="c1")))
        assert [await store.write(lambda tx, n=n: tx.devices.advance("c1", n)) for n in (3, 3, 2, 4)] == [  # type: ignore[misc]
            None,
            3,
            3,
            None,
        ]
        device = await store.read(lambda tx: tx.devices.device(A))
        assert device is not None
        assert (device.owner_id, device.node_status, device.node_deleted) == ("ann", NodeStatus.ONLINE, False)
        assert (device.credential.last_seq, device.credential.public_key) == (4, bytes(32))
        assert await store.write(lambda tx: tx.devices.revoke("n1", later(1), keep="c2")) == 1
        assert await store.write(lambda tx: tx.devices.advance("c1", 9)) == -1
        assert await store.write(lambda tx: tx.devices.advance("c2", 1)) is None
        await store.write(lambda tx: tx.nodes.delete("n1", "ann", later(2)))
        device = await store.read(lambda tx: tx.devices.device(B))
        assert device is not None
        assert device.node_deleted is True
        listed = await store.read(lambda tx: tx.devices.credentials("n1"))
    assert [c.credential_id for c in listed] == ["c2", "c1"]
    assert listed[1].revoked_at == later(1)
