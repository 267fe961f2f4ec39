"""The earlier system's message is understood, and its collisions are none here (R1.59, FAULTS P8)."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.canonical import canonical
from ambientd.core.earlier_sync import Fault, Message, Policy, content_hash, hashed_bytes, read
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import Snapshot, build
from tests.core.peers.kit import AT_MS, ISSUER, NETWORK, key_of

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[2] / "data" / "vectors" / "peer_sync.json").read_text()
)["vectors"]
COLLIDING = [vector for vector in VECTORS if vector["name"].startswith("collision_")]
PAIRS = 10_000


def message_of(vector: dict[str, Any], *, later: bool) -> dict[str, Any]:
    more = {
        "signature": list(bytes.fromhex(vector["signature_hex"])),
        "signer_public_key": list(bytes.fromhex(vector["signer_public_key_hex"])),
    }
    return {**vector["message_v13"], **(more if later else {})}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_every_vector_is_read(vector: dict[str, Any], later: bool) -> None:
    message = read(json.dumps(message_of(vector, later=later)).encode())
    assert isinstance(message, Message)
    assert hashed_bytes(message).hex() == vector["preimage_hex"]
    assert content_hash(message) == vector["content_hash"]


def test_all_nine_are_there() -> None:
    assert len(VECTORS) == 9
    assert len(COLLIDING) == 4


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("content_hash", "0" * 64, Fault.HASH),
        ("snapshot_at", 1, Fault.HASH),
        ("sender_node_id", "node-B", Fault.HASH),
        ("signature", [0] * 64, Fault.SIGNATURE),
        ("signature", None, Fault.SIGNATURE),
        ("signer_public_key", [0] * 32, Fault.SIGNATURE),
        ("signer_public_key", None, Fault.SIGNATURE),
        ("snapshot_at", -1, Fault.MALFORMED),
        ("snapshot_at", 2**64, Fault.MALFORMED),
        ("verification_keys", {"k": [256]}, Fault.MALFORMED),
        ("egress_policies", [{"id": "p"}], Fault.MALFORMED),
    ],
)
def test_what_was_changed_is_refused(field: str, value: object, fault: Fault) -> None:
    changed = {**message_of(VECTORS[1], later=True), field: value}
    assert read(json.dumps(changed).encode()) is fault


def ours(message: Message) -> bytes:
    """The digest of the snapshot that says the same; keys have no place in one, so they go as an item."""
    items = [
        SignedItem(
            canonical({"id": policy.id, "destinations": policy.allowed_destinations}), ISSUER, bytes(64)
        )
        for policy in message.egress_policies
    ]
    items += [
        SignedItem(canonical({"name": name, "key": bytes(key).hex()}), ISSUER, bytes(64))
        for name, key in message.verification_keys.items()
    ]
    one = Snapshot(
        network=NETWORK,
        sender=key_of("sender"),
        label=message.sender_node_id,
        audience=key_of("receiver"),
        line="0" * 16,
        sequence=1,
        issued_at=AT_MS + message.snapshot_at,
        not_after=AT_MS + message.snapshot_at + 1,
        items=tuple({(item.issuer, item.body): item for item in items}.values()),
    )
    return build(one, lambda _message: bytes(64))[-96:-64]


def test_the_collisions_collide_there_and_not_here() -> None:
    messages = [read(json.dumps(vector["message_v13"]).encode()) for vector in COLLIDING]
    assert len({content_hash(one) for one in messages if isinstance(one, Message)}) == 1
    assert len({ours(one) for one in messages if isinstance(one, Message)}) == 4


def moved(source: random.Random) -> tuple[Message, Message]:
    """Two different messages whose fields in a row are the same bytes."""
    text = "".join(source.choices("abcdefgh._-0123456789", k=source.randint(4, 40)))
    cuts = sorted(source.sample(range(1, len(text)), 2))
    other = sorted(source.sample(range(1, len(text)), 2))
    key = list(source.randbytes(source.randint(1, 32)))

    def parts(at: list[int]) -> tuple[str, str, str]:
        return text[: at[0]], text[at[0] : at[1]], text[at[1] :]

    def between_destinations(at: list[int]) -> Message:
        return _message("node-A", "p", list(parts(at)), {"k": key})

    def sender_and_policy(at: list[int]) -> Message:
        sender, policy, destination = parts(at)
        return _message("n" + sender, policy, [destination], {"k": key})

    def destination_and_key_name(at: list[int]) -> Message:
        policy, destination, name = parts(at)
        return _message("node-A", policy, [destination], {name: key})

    def key_name_and_key(at: list[int]) -> Message:
        name = text[: at[0]]
        return _message("node-A", "p", ["d"], {name: [*text[at[0] :].encode(), *key]})

    def empty_destinations(at: list[int]) -> Message:
        return _message("node-A", "p", ["", *parts(at), ""][at[0] % 2 : 5 - at[1] % 2], {})

    shapes = (
        between_destinations,
        sender_and_policy,
        destination_and_key_name,
        key_name_and_key,
        empty_destinations,
    )
    shape = source.choice(shapes)
    return shape(cuts), shape(other)


def _message(sender: str, policy: str, destinations: list[str], keys: dict[str, list[int]]) -> Message:
    return Message(
        sender_node_id=sender,
        egress_policies=[Policy(policy, destinations)],
        verification_keys=keys,
        snapshot_at=1_000,
        content_hash="",
    )


def test_bytes_moved_between_neighbours_change_our_digest_always_and_theirs_never() -> None:
    source, pairs = random.Random(11), 0
    while pairs < PAIRS:
        one, other = moved(source)
        if one == other:
            continue
        pairs += 1
        assert content_hash(one) == content_hash(other)
        assert ours(one) != ours(other)
