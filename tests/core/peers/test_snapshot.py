"""What a snapshot says is what was signed, for whom, and once; everything else is refused (R1.57-R1.67)."""

import hashlib
import tracemalloc
from typing import Any

import msgspec
import pytest

from ambientd.core.canonical import canonical, framed, unframed
from ambientd.core.ed25519 import show_key, sign
from ambientd.core.peers.floors import JUMP_MAX, Floors, SignerFloor
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import (
    DAY_MS,
    DOMAIN,
    MAX_BYTES,
    MAX_ITEMS,
    SEAL_DOMAIN,
    Checked,
    Moment,
    Reader,
    Reason,
    Refused,
    Snapshot,
    Trust,
    build,
    check,
    pack,
    size_of,
)
from tests.core.peers.kit import AT_MS, ISSUER, NETWORK, item, key_of, seed_of, unsigned_item

SENDER, RECEIVER, OTHER = key_of("sender"), key_of("receiver"), key_of("other")
CHALLENGE = seed_of("challenge")
LINE = "00112233445566aa"
NOW = Moment(0.0, AT_MS)
READER = Reader(
    key=RECEIVER,
    network=NETWORK,
    trust=Trust(
        peers=frozenset({SENDER, OTHER}),
        revoked=frozenset({key_of("revoked")}),
        other_roles=frozenset({ISSUER}),
    ),
)
EMPTY = Floors(since=AT_MS - 30 * DAY_MS)


def snapshot(**changes: Any) -> Snapshot:
    """A good one, but for the changes."""
    good = Snapshot(
        network=NETWORK,
        sender=SENDER,
        label="edge-03",
        audience=RECEIVER,
        line=LINE,
        sequence=7,
        issued_at=AT_MS - 1_000,
        not_after=AT_MS - 1_000 + DAY_MS,
        challenge=CHALLENGE,
        items=(item(1), item(2)),
    )
    return msgspec.structs.replace(good, **changes)


def signed(one: Snapshot, by: str = "sender") -> bytes:
    return build(one, lambda message: sign(seed_of(by), message))


def checked(
    raw: bytes,
    *,
    reader: Reader = READER,
    floors: Floors = EMPTY,
    moment: Moment = NOW,
    challenge: bytes = CHALLENGE,
) -> Checked | Refused:
    return check(raw, reader=reader, floors=floors, moment=moment, challenge=challenge)


def refusal(raw: bytes, **more: Any) -> Reason | None:
    """The code; None when it is taken."""
    result = checked(raw, **more)
    return result.code if isinstance(result, Refused) else None


def sealed(head: bytes, body: bytes, by: str = "sender") -> bytes:
    """Signed as it is, whatever head and body are."""
    content = framed(DOMAIN, head, body)
    digest = hashlib.sha3_256(content).digest()
    return content + framed(digest + sign(seed_of(by), framed(SEAL_DOMAIN, digest)))


def head_of(one: Snapshot) -> dict[str, Any]:
    parts = unframed(signed(one), 4)
    assert parts is not None
    head: dict[str, Any] = msgspec.json.decode(parts[1])
    return head


def with_head(changes: dict[str, Any], drop: tuple[str, ...] = ()) -> bytes:
    """A good snapshot whose head was changed before it was signed."""
    one = snapshot()
    parts = unframed(signed(one), 4)
    assert parts is not None
    head = {name: value for name, value in {**head_of(one), **changes}.items() if name not in drop}
    return sealed(msgspec.json.encode(head, order="sorted"), parts[2])


def test_what_was_sent_is_what_is_read() -> None:
    result = checked(signed(snapshot()))
    assert isinstance(result, Checked)
    assert result.snapshot == snapshot(items=tuple(sorted((item(1), item(2)))))
    assert not result.time_unverified
    known = result.floor.line(LINE)
    assert known is not None
    assert (known.sequence, known.issued_at, result.floor.version) == (7, AT_MS - 1_000, 1)


def test_the_head_is_canonical_and_the_digest_covers_everything() -> None:
    raw = signed(snapshot())
    parts = unframed(raw, 4)
    assert parts is not None
    domain, head, body, seal = parts
    assert head == canonical(msgspec.json.decode(head))
    assert seal[:32] == hashlib.sha3_256(framed(domain, head, body)).digest()
    result = checked(raw)
    assert isinstance(result, Checked)
    assert result.digest == seal[:32]


def test_an_empty_snapshot_and_one_without_a_link_are_fine() -> None:
    assert refusal(signed(snapshot(items=()))) is None
    assert refusal(signed(snapshot(challenge=b"")), challenge=b"") is None


REFUSED: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.MALFORMED),
    "another domain": (framed(b"ambient-audit-v1", b"", b"", b""), Reason.MALFORMED),
    "a part too many": (signed(snapshot()) + framed(b""), Reason.MALFORMED),
    "a byte too many": (signed(snapshot()) + b"\0", Reason.MALFORMED),
    "a version to come": (with_head({"version": 2}), Reason.VERSION),
    "a version before": (with_head({"version": 0}), Reason.VERSION),
    "a version as text": (with_head({"version": "1"}), Reason.MALFORMED),
    "a version as truth": (with_head({"version": True}), Reason.MALFORMED),
    "a version as fraction": (with_head({"version": 1.0}), Reason.MALFORMED),
    "no version": (with_head({}, ("version",)), Reason.MALFORMED),
    "another network": (signed(snapshot(network="fleet-2")), Reason.NETWORK),
    "another audience": (signed(snapshot(audience=OTHER)), Reason.AUDIENCE),
    "an unknown signer": (signed(snapshot(sender=key_of("stranger")), "stranger"), Reason.UNKNOWN_SIGNER),
    "a revoked signer": (signed(snapshot(sender=key_of("revoked")), "revoked"), Reason.UNKNOWN_SIGNER),
    "an issuer as signer": (signed(snapshot(sender=ISSUER), "issuer"), Reason.KEY_ROLE),
    "the own key": (signed(snapshot(sender=RECEIVER), "receiver"), Reason.KEY_ROLE),
    "another trusted key than that of the signature": (signed(snapshot(), "other"), Reason.BAD_SIGNATURE),
    "the name of another trusted node": (signed(snapshot(sender=OTHER), "sender"), Reason.BAD_SIGNATURE),
    "no signature": (signed(snapshot())[:-64] + bytes(64), Reason.BAD_SIGNATURE),
    "a signature cut off": (signed(snapshot())[:-1], Reason.MALFORMED),
    "made for another link": (signed(snapshot(challenge=seed_of("earlier"))), Reason.REPLAYED),
    "made for no link": (signed(snapshot(challenge=b"")), Reason.REPLAYED),
    "number 0": (with_head({"sequence": 0}), Reason.MALFORMED),
    "number 2**63": (with_head({"sequence": 2**63}), Reason.MALFORMED),
    "the highest number": (signed(snapshot(sequence=2**63 - 1)), Reason.JUMP),
    "a jump": (signed(snapshot(sequence=JUMP_MAX + 1)), Reason.JUMP),
    "expired": (signed(snapshot(issued_at=AT_MS - 5_000, not_after=AT_MS)), Reason.EXPIRED),
    "no expiry": (with_head({}, ("not_after",)), Reason.MALFORMED),
    "expiry null": (with_head({"not_after": None}), Reason.MALFORMED),
    "expiry before its making": (signed(snapshot(not_after=AT_MS - 2_000)), Reason.MALFORMED),
    "expiry in eight days": (
        signed(snapshot(issued_at=AT_MS, not_after=AT_MS + 7 * DAY_MS + 1)),
        Reason.MALFORMED,
    ),
    "a day old": (
        signed(snapshot(issued_at=AT_MS - DAY_MS - 1, not_after=AT_MS + DAY_MS)),
        Reason.TOO_OLD,
    ),
    "a year old": (
        signed(snapshot(issued_at=AT_MS - 365 * DAY_MS, not_after=AT_MS - 358 * DAY_MS)),
        Reason.EXPIRED,
    ),
    "6 minutes ahead": (
        signed(snapshot(issued_at=AT_MS + 360_000, not_after=AT_MS + DAY_MS)),
        Reason.FROM_FUTURE,
    ),
    "a year ahead": (
        signed(snapshot(issued_at=AT_MS + 365 * DAY_MS, not_after=AT_MS + 366 * DAY_MS)),
        Reason.FROM_FUTURE,
    ),
    "a key brought along": (with_head({"verification_keys": {"k": show_key(OTHER)}}), Reason.MALFORMED),
    "an anchor of its own": (with_head({"trust": [show_key(OTHER)]}), Reason.MALFORMED),
    "a label with an escape": (with_head({"label": "\x1b[31mred"}), Reason.MALFORMED),
    "a label from right to left": (with_head({"label": "\u202eabc"}), Reason.MALFORMED),
    "a label too long": (with_head({"label": "x" * 65}), Reason.MALFORMED),
    "a label with a line break at its end": (with_head({"label": "edge\n"}), Reason.MALFORMED),
    "a head too long": (with_head({"label": "x" * 2000}), Reason.MALFORMED),
    "a head that is no object": (sealed(b"[1]", b"\x90"), Reason.MALFORMED),
    "a head nested deeply": (sealed(b"[" * 1000, b"\x90"), Reason.MALFORMED),
    "a head nested deeply in a field": (sealed(b'{"version":1,"x":' + b"[" * 900, b"\x90"), Reason.MALFORMED),
    "a head that is no text": (sealed(b"\xff\xfe", b"\x90"), Reason.MALFORMED),
    "fewer items than announced": (with_head({"items": 3}), Reason.MALFORMED),
    "more items than announced": (with_head({"items": 1}), Reason.MALFORMED),
    "more items than can be": (with_head({"items": MAX_ITEMS + 1}), Reason.MALFORMED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    raw, code = REFUSED[name]
    assert refusal(raw) is code


@pytest.mark.parametrize("code", sorted(Reason))
def test_every_reason_has_its_case(code: Reason) -> None:
    elsewhere = {Reason.TOO_LARGE, Reason.DOWNGRADE, Reason.UNPROVEN, Reason.BAD_DIGEST}
    assert code in {code for _, code in REFUSED.values()} | elsewhere


def with_body(items: list[Any], count: int | None = None) -> bytes:
    """A good snapshot whose body was changed before it was signed."""
    head = {**head_of(snapshot()), "items": len(items) if count is None else count}
    return sealed(msgspec.json.encode(head, order="sorted"), msgspec.msgpack.encode(items))


ONE = [item(1).body, item(1).issuer, item(1).signature]
TWO = [item(2).body, item(2).issuer, item(2).signature]


@pytest.mark.parametrize(
    "items",
    [
        [TWO, ONE],
        [ONE, ONE],
        [ONE[:2]],
        [[*ONE, b"a key"]],
        [[b"", *ONE[1:]]],
        [[bytes(16 * 1024 + 1), *ONE[1:]]],
        [[ONE[0], ONE[1][:-1], ONE[2]]],
        [[ONE[0], ONE[1], ONE[2] + b"\0"]],
        [["text", *ONE[1:]]],
        [None],
        [{"body": ONE[0]}],
    ],
)
def test_a_body_that_is_not_exactly_rising_items_is_refused(items: list[Any]) -> None:
    assert refusal(with_body(items)) is Reason.MALFORMED


def test_bytes_after_the_items_are_refused() -> None:
    parts = unframed(signed(snapshot()), 4)
    assert parts is not None
    assert refusal(sealed(parts[1], parts[2])) is None
    assert refusal(sealed(parts[1], parts[2] + b"\xc0")) is Reason.MALFORMED


def test_a_head_in_another_form_is_refused() -> None:
    parts = unframed(signed(snapshot()), 4)
    assert parts is not None
    head = parts[1]
    for other in (b" " + head, head.replace(b'"version":1', b'"version":1,"version":1'), head + b"\n"):
        assert refusal(sealed(other, parts[2])) is Reason.MALFORMED


def test_a_declared_million_of_items_is_refused_by_its_head() -> None:
    head = {**head_of(snapshot()), "items": 1}
    body = b"\xdd" + (10**6).to_bytes(4) + b"\x93" * 200_000
    assert refusal(sealed(msgspec.json.encode(head, order="sorted"), body)) is Reason.MALFORMED


def test_size_is_looked_at_before_anything_else() -> None:
    assert refusal(bytes(MAX_BYTES + 1)) is Reason.TOO_LARGE
    assert refusal(bytes(MAX_BYTES)) is Reason.MALFORMED
    small = msgspec.structs.replace(READER, max_bytes=4096)
    assert refusal(bytes(4097), reader=small) is Reason.TOO_LARGE
    few = msgspec.structs.replace(READER, max_items=1)
    assert refusal(signed(snapshot()), reader=few) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "raw",
    [
        bytes(MAX_BYTES + 1),
        bytes(10_000_000),
        framed(DOMAIN) + (4 * 2**30).to_bytes(8) + b"{}",
        sealed(b"{}", b"\xdd" + (10**6).to_bytes(4) + b"\x93" * 200_000),
    ],
    ids=["257 KiB", "10 MB", "a frame of 4 GB", "a million of items"],
)
def test_what_is_too_much_is_refused_without_memory_for_it(raw: bytes) -> None:
    """FAULTS P3."""
    assert refusal(raw) is not None
    tracemalloc.start()
    assert refusal(raw) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_limits_of_time_are_exact() -> None:
    ahead = signed(snapshot(issued_at=AT_MS + 300_000, not_after=AT_MS + DAY_MS))
    assert refusal(ahead) is None
    old = signed(snapshot(issued_at=AT_MS - DAY_MS, not_after=AT_MS + 1))
    assert refusal(old) is None
    assert refusal(old, moment=Moment(0, AT_MS + 1)) is Reason.EXPIRED
    week = msgspec.structs.replace(READER, max_age_ms=7 * DAY_MS)
    longest = signed(snapshot(issued_at=AT_MS - 6 * DAY_MS, not_after=AT_MS + DAY_MS))
    assert refusal(longest, reader=week) is None
    assert refusal(longest) is Reason.TOO_OLD


def test_with_the_clock_in_doubt_the_counter_decides_and_the_result_says_so() -> None:
    doubt = Moment(0.0, AT_MS - 365 * DAY_MS, "the clock is before the day this program was built")
    result = checked(signed(snapshot()), moment=doubt)
    assert isinstance(result, Checked)
    assert result.time_unverified
    floors = Floors(EMPTY.since, {SENDER: result.floor})
    assert refusal(signed(snapshot()), moment=doubt, floors=floors) is Reason.REPLAYED
    assert refusal(signed(snapshot(sequence=8)), moment=doubt, floors=floors) is None
    # Without a link's challenge only a line that is known counts then.
    file = signed(snapshot(challenge=b"", line="f" * 16))
    assert refusal(file, moment=doubt, floors=floors, challenge=b"") is Reason.UNPROVEN
    still_a_week = with_head({"not_after": AT_MS + 8 * DAY_MS})
    assert refusal(still_a_week, moment=doubt) is Reason.MALFORMED


def test_a_snapshot_counts_once_and_the_counter_only_grows() -> None:
    floors = EMPTY
    for sequence, expected in [(7, "taken"), (7, "replayed"), (6, "replayed"), (9, "taken"), (8, "replayed")]:
        result = checked(signed(snapshot(sequence=sequence)), floors=floors)
        assert (result.code if isinstance(result, Refused) else "taken") == expected
        if isinstance(result, Checked):
            floors = Floors(EMPTY.since, {SENDER: result.floor})


def test_the_jump_cap_goes_with_the_line() -> None:
    result = checked(signed(snapshot(sequence=JUMP_MAX)))
    assert isinstance(result, Checked)
    floors = Floors(EMPTY.since, {SENDER: result.floor})
    assert refusal(signed(snapshot(sequence=2 * JUMP_MAX)), floors=floors) is None
    assert refusal(signed(snapshot(sequence=2 * JUMP_MAX + 1)), floors=floors) is Reason.JUMP


def test_a_new_key_is_a_new_line_even_after_a_fast_forward() -> None:
    """FAULTS P10: who has been made to count to the end goes on with another key."""
    floor = SignerFloor().raised(version=1, line=LINE, sequence=2**63 - 1, issued_at=AT_MS)
    floors = Floors(EMPTY.since, {SENDER: floor})
    assert refusal(signed(snapshot(sequence=8)), floors=floors) is Reason.REPLAYED
    rotated = snapshot(sender=OTHER, sequence=1)
    assert refusal(signed(rotated, "other"), floors=floors) is None


def test_a_lost_memory_cannot_be_used_for_replays() -> None:
    """FAULTS P1: neither on a new link, whose challenge is another, nor by a file from before the loss."""
    recorded = signed(snapshot())
    assert refusal(recorded, floors=Floors(since=AT_MS), challenge=seed_of("new link")) is Reason.REPLAYED
    assert refusal(recorded, floors=Floors(since=AT_MS), challenge=b"") is Reason.REPLAYED
    file = signed(snapshot(challenge=b""))
    assert refusal(file, floors=EMPTY, challenge=b"") is None
    assert refusal(file, floors=Floors(since=AT_MS), challenge=b"") is Reason.UNPROVEN
    # A sender's clock may be five minutes ahead, so as long it is not believed.
    later = snapshot(challenge=b"", issued_at=AT_MS + 300_000, not_after=AT_MS + DAY_MS)
    assert refusal(signed(later), floors=Floors(since=AT_MS), challenge=b"") is Reason.UNPROVEN
    later = msgspec.structs.replace(later, issued_at=AT_MS + 300_001)
    moment = Moment(0, AT_MS + 10_000)
    assert refusal(signed(later), floors=Floors(since=AT_MS), challenge=b"", moment=moment) is None


def test_a_version_once_used_is_the_least_from_then_on() -> None:
    floors = Floors(EMPTY.since, {SENDER: SignerFloor(version=2)})
    assert refusal(signed(snapshot()), floors=floors) is Reason.DOWNGRADE
    assert refusal(signed(snapshot(sender=OTHER), "other"), floors=floors) is None


def test_trust_comes_from_the_reader_alone() -> None:
    """R1.67: what a snapshot holds, keys among it, makes nobody a peer."""
    stranger = key_of("stranger")
    body = canonical({"kind": "key", "key": show_key(stranger)})
    carrier = SignedItem(body, SENDER, bytes(64))
    assert isinstance(checked(signed(snapshot(items=(carrier,)))), Checked)
    assert refusal(signed(snapshot(sender=stranger), "stranger")) is Reason.UNKNOWN_SIGNER


def test_content_is_covered_to_the_last_field() -> None:
    """R1.58: a destination, a key byte, the sender, a time, a policy id: each change is seen."""
    raw = signed(snapshot())
    one = item(1)
    for part in (
        b"https://host-1.example",
        b"policy-000001",
        ISSUER,
        one.signature,
        show_key(SENDER).encode(),
        b"edge-03",
        str(AT_MS - 1_000).encode(),
        LINE.encode(),
    ):
        at = raw.index(part) + len(part) // 2
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert refusal(changed) is not None


def test_the_seal_of_another_snapshot_does_not_fit() -> None:
    """A signed digest on other content: the signature holds, the digest does not."""
    raw, other = signed(snapshot()), signed(snapshot(sequence=8))
    assert refusal(raw[:-96] + other[-96:]) is Reason.BAD_DIGEST


def test_who_signs_must_be_sound_even_when_somebody_trusts_it() -> None:
    """FAULTS P7: under keys of small order anybody can sign; those that are not canonical are aliases."""
    for key in WEAK_KEYS:
        reader = msgspec.structs.replace(READER, trust=Trust(peers=frozenset({key})))
        for signature in (bytes(64), key + bytes(32), b"\x01" + bytes(63)):
            raw = build(snapshot(sender=key), lambda _message, made=signature: made)  # type: ignore[misc]
            assert refusal(raw, reader=reader) is Reason.BAD_SIGNATURE


# The six y-coordinates of points of small order, and some of their spellings above the prime.
WEAK_KEYS = [
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
]


def test_a_signature_has_one_form() -> None:
    """S + L verifies by the bare equation; it is not taken."""
    order = 2**252 + 27742317777372353535851937790883648493
    raw = signed(snapshot())
    response = int.from_bytes(raw[-32:], "little") + order
    assert response < 2**256
    assert refusal(raw[:-32] + response.to_bytes(32, "little")) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("count", [0, 1, 20, 500, 2_000])
def test_packing_never_makes_more_than_fits(count: int) -> None:
    items = [unsigned_item(number) for number in range(count)]
    for limit in (4096, 20_000, MAX_BYTES):
        many = pack(items, max_bytes=limit)
        raw = build(snapshot(items=tuple(items[:many])), lambda _message: bytes(64))
        assert len(raw) <= size_of(items[:many]) <= limit
        if many < min(count, MAX_ITEMS):
            assert size_of(items[: many + 1]) > limit


def test_the_longest_item_fits_into_the_usual_size_and_not_into_the_least() -> None:
    long = SignedItem(bytes(16 * 1024), ISSUER, bytes(64))
    assert pack([long] * 20, max_bytes=MAX_BYTES) == 15
    assert pack([long], max_bytes=4096) == 0
    assert pack([unsigned_item(n) for n in range(3)], max_bytes=MAX_BYTES, max_items=2) == 2
