"""Nodes as devices: join tokens, enrolment, rotation, revocation, and who signs a request."""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from ambientd.core.ed25519 import is_sound, show_key
from ambientd.core.fleet.records import Device, DeviceCredential, JoinTokenRecord, NewNode, NodeRecord
from ambientd.core.fleet.signing import enrol_bytes, is_signed
from ambientd.core.fleet.tokens import RANDOM_BYTES, TokenHashes, TokenKind, build_token, kind_of
from ambientd.core.records import AuditEntry
from ambientd.flows.fleet.reach import Signed, take_number
from ambientd.flows.fleet.work import WorkRules, offer_to_node
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.lookups import Check, DeviceLookups
from ambientd.ports.fleet.passwords import Randomness
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import NodeStatus

JOIN_LIFETIME = timedelta(hours=24)
JOIN_USES_MAX = 10_000
UNCONFIRMED_MAX = 4  # credentials of one node that wait for `confirm`
_NO_TOKEN = Rejected("NOT_AUTHENTICATED", "the join token is not good (any more); ask for a new one")
_NO_PROOF = Rejected("NOT_AUTHENTICATED", "the signature does not prove that the key is this node's")


class NewJoin(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh join token, in the clear for the one answer that carries it."""

    record: JoinTokenRecord
    join_token: str


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """A node with its fresh device token."""

    node: NodeRecord
    credential: DeviceCredential
    device_token: str


class Devices:
    """The use cases of devices."""

    def __init__(
        self,
        *,
        store: FleetStore,
        clock: Clock,
        hashes: TokenHashes,
        randomness: Randomness,
        new_id: Callable[[], str],
        rules: WorkRules,
        lookups: DeviceLookups,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hashes = hashes
        self._random = randomness
        self._new_id = new_id
        self._rules = rules
        self._lookups = lookups

    async def add_join(
        self, owner_id: str, *, uses: int = 1, lifetime: timedelta = JOIN_LIFETIME, node_id: str | None = None
    ) -> NewJoin:
        """A token that enrols nodes for an owner."""
        text, now = build_token(TokenKind.JOIN, self._random(RANDOM_BYTES)), self._clock.now()
        record = JoinTokenRecord(
            token_id=self._new_id(),
            token_hash=self._hashes.of(TokenKind.JOIN, text),
            owner_id=owner_id,
            created_at=now,
            expires_at=now + lifetime,
            uses_left=uses,
            node_id=node_id,
        )
        entry = AuditEntry(
            kind="join_token_made",
            at=now,
            actor=f"user:{owner_id}",
            subject=record.token_id,
            detail={"uses": uses, "node": node_id},
        )

        def work(tx: FleetTransaction) -> None:
            tx.devices.add_join(record)
            tx.audit.append(entry)

        await self._store.write(work)
        return NewJoin(record=record, join_token=text)

    async def joins(self, owner_id: str) -> list[JoinTokenRecord]:
        """An owner's join tokens, without their secrets."""
        return await self._store.read(lambda tx: tx.devices.joins(owner_id))

    async def revoke_join(self, owner_id: str, token_id: str) -> bool:
        """False when the owner has no such token that is still good."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> bool:
            done = tx.devices.revoke_join(owner_id, token_id, at)
            if done:
                actor = f"user:{owner_id}"
                tx.audit.append(AuditEntry(kind="join_token_revoked", at=at, actor=actor, subject=token_id))
            return done

        return await self._store.write(work)

    async def enrol(
        self,
        join_token: str,
        build: Callable[[str], NewNode],
        *,
        node_id: str,
        public_key: bytes,
        proof: bytes,
    ) -> Enrolled | Rejected:
        """Registers a node for the token's owner and gives it a credential bound to its key.

        `build` makes the registration for the owner's id. The use of the token, the node and its credential
        are one transaction. An older credential of the node is revoked: whoever enrols it anew is the node.
        While a node reports, another key takes its place only by a token that was made for its id.
        """
        if kind_of(join_token) is not TokenKind.JOIN:
            return _NO_TOKEN
        message = enrol_bytes(node_id=node_id, public_key=public_key, join_token=join_token)
        if not is_sound(public_key) or not is_signed(public_key, message, proof):
            return _NO_PROOF
        token_hash = self._hashes.of(TokenKind.JOIN, join_token)

        now = self._clock.now()

        def work(tx: FleetTransaction) -> Enrolled | Rejected:
            tx.assignments.lock()
            join = tx.devices.join(token_hash)
            if join is None or join.revoked_at is not None or now >= join.expires_at:
                return _NO_TOKEN
            if join.node_id is not None and join.node_id != node_id:
                return _NO_TOKEN
            # The answer to an enrolment may have been lost: the same key may ask for it once more.
            again = _has_key(tx, node_id, join, public_key)
            if join.node_id is None and _is_anothers(tx, node_id, join.owner_id, public_key):
                text = f"{node_id} is online with another key; join as another id, or by a token for this one"
                return Rejected("CONFLICT", text)
            node = tx.nodes.register(build(join.owner_id), now)
            if node is None:
                return Rejected("CONFLICT", f"the node id {node_id} is another owner's; choose another one")
            if not again and tx.devices.spend_join(token_hash, node_id, now) is None:
                return _NO_TOKEN
            enrolled = self._credential(tx, node, public_key, at=now)
            tx.devices.revoke(node_id, now, keep=enrolled.credential.credential_id)
            offer_to_node(tx, node_id, now, self._rules)
            tx.audit.append(
                AuditEntry(
                    kind="node_enrolled",
                    at=now,
                    actor=f"join:{join.token_id}",
                    subject=node_id,
                    detail={"owner": join.owner_id, "key": show_key(public_key)},
                )
            )
            return enrolled

        return await self._whole(work)

    async def rotate(
        self, device: Device, *, public_key: bytes, proof: bytes, signed: Signed | None = None
    ) -> Enrolled | Rejected:
        """A new token, and a new key if another one is brought.

        The old credential stays good until `confirm`: an answer that was lost must not lock the node out.

        `proof` is the new key's signature over `enrol_bytes` with the credential's id as its token.
        """
        old = device.credential
        message = enrol_bytes(node_id=old.node_id, public_key=public_key, join_token=old.credential_id)
        if not is_sound(public_key) or not is_signed(public_key, message, proof):
            return _NO_PROOF
        now = self._clock.now()

        def work(tx: FleetTransaction) -> Enrolled | Rejected:
            refused = take_number(tx, signed)
            if refused is not None:
                return refused
            node = tx.nodes.get(old.node_id, owner_id=device.owner_id)
            good = [one for one in tx.devices.credentials(old.node_id) if one.revoked_at is None]
            if node is None or old.credential_id not in {one.credential_id for one in good}:
                return Rejected("NOT_AUTHENTICATED", "this credential is revoked; join again")
            # Newest first. Answers may have been lost; beyond that nobody needs what was never confirmed.
            for one in good[UNCONFIRMED_MAX:]:
                if one.last_seq == 0 and one.credential_id != old.credential_id:
                    tx.devices.remove(one.credential_id)
            return self._credential(tx, node, public_key, at=now, rotated_from=old.credential_id)

        return await self._whole(work)

    async def confirm(self, device: Device, *, signed: Signed | None = None) -> Rejected | None:
        """The node has kept this credential and uses it: all others of it are revoked."""
        credential, at = device.credential, self._clock.now()

        def work(tx: FleetTransaction) -> Rejected | None:
            refused = take_number(tx, signed)
            if refused is None:
                tx.devices.revoke(credential.node_id, at, keep=credential.credential_id)
            return refused

        return await self._store.write(work)

    async def revoke(self, owner_id: str, node_id: str) -> int | None:
        """Revokes the credentials of an owner's node; how many, None when the owner has no such node."""
        at = self._clock.now()

        def work(tx: FleetTransaction) -> int | None:
            if tx.nodes.get(node_id, owner_id=owner_id) is None:
                return None
            count = tx.devices.revoke(node_id, at)
            actor = f"user:{owner_id}"
            tx.audit.append(AuditEntry(kind="credentials_revoked", at=at, actor=actor, subject=node_id))
            return count

        return await self._store.write(work)

    async def device(self, token: str, check: Check = lambda _device: None) -> Device | Rejected | None:
        """Whose token it is; None when it opens nothing, or what `check` says of the device."""
        if kind_of(token) is not TokenKind.DEVICE:
            return None
        device = await self._lookups.find(self._hashes.of(TokenKind.DEVICE, token), check)
        if isinstance(device, Device) and (device.credential.revoked_at is not None or device.node_deleted):
            return None
        return device

    def _credential(
        self,
        tx: FleetTransaction,
        node: NodeRecord,
        public_key: bytes,
        *,
        at: datetime,
        rotated_from: str | None = None,
    ) -> Enrolled:
        token = build_token(TokenKind.DEVICE, self._random(RANDOM_BYTES))
        credential = DeviceCredential(
            credential_id=self._new_id(),
            node_id=node.node_id,
            token_hash=self._hashes.of(TokenKind.DEVICE, token),
            public_key=public_key,
            created_at=at,
            rotated_from=rotated_from,
        )
        tx.devices.add(credential)
        fresh = tx.nodes.get(node.node_id)  # its incarnation may have grown with the key
        return Enrolled(node=fresh or node, credential=credential, device_token=token)

    async def _whole(self, work: Callable[[FleetTransaction], Enrolled | Rejected]) -> Enrolled | Rejected:
        """A refusal leaves nothing behind: what was written before it is given up."""

        def guarded(tx: FleetTransaction) -> Enrolled:
            outcome = work(tx)
            if isinstance(outcome, Rejected):
                raise _GivenUpError(outcome)
            return outcome

        try:
            return await self._store.write(guarded)
        except _GivenUpError as error:
            return error.rejected


def _has_key(tx: FleetTransaction, node_id: str, join: JoinTokenRecord, public_key: bytes) -> bool:
    """Whether the node was enrolled with this key since the token was made, for the token's owner."""
    if tx.nodes.get(node_id, owner_id=join.owner_id) is None:
        return False
    return any(
        one.public_key == public_key and one.revoked_at is None and one.created_at >= join.created_at
        for one in tx.devices.credentials(node_id)
    )


def _is_anothers(tx: FleetTransaction, node_id: str, owner_id: str, public_key: bytes) -> bool:
    """Whether another machine of the owner reports as this node: two would drive each other out."""
    node = tx.nodes.get(node_id, owner_id=owner_id)
    if node is None or node.status is not NodeStatus.ONLINE or node.last_heartbeat is None:
        return False
    keys = {one.public_key for one in tx.devices.credentials(node_id) if one.revoked_at is None}
    return bool(keys) and public_key not in keys


class _GivenUpError(Exception):
    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.message)
        self.rejected = rejected
