"""Who may open a link, and how a frame counts on its own link only (R1.63, FAULTS P4, P6, P7)."""

import msgspec
import pytest

from ambientd.core.ed25519 import sign
from ambientd.core.peerlink import HANDSHAKE_WITHIN, State
from ambientd.core.peers.effects import Opened, Send
from ambientd.core.peers.frames import (
    HELLO_MAX_BYTES,
    Bye,
    CloseReason,
    Digest,
    Hello,
    Proof,
    decode_hello,
    encode_hello,
    link_id,
    version_of,
)
from ambientd.core.peers.handshake import keeps, own_hello, prove
from ambientd.core.snapshot import Moment, Trust
from tests.core.peers.kit import AT_MS, NETWORK, End, Liar, Node, Wire, item, key_of, seed_of


def pair() -> tuple[Node, Node]:
    return Node("one", trusts=["other"]), Node("other", trusts=["one"])


def reason(end: End) -> CloseReason:
    assert end.closed is not None
    assert end.link.state is State.CLOSED
    assert end.link.deadline is None
    return end.closed.reason


def test_both_ends_prove_their_keys() -> None:
    wire = Wire(*pair()).open()
    assert wire.left.opened == [Opened(key_of("other"), "other", 1)]
    assert wire.right.opened == [Opened(key_of("one"), "one", 1)]
    sent = [effect for effect in wire.left.seen if isinstance(effect, Send)]
    assert [effect.sealed for effect in sent[:2]] == [False, True]


HELLOS: dict[str, tuple[Hello, CloseReason]] = {
    "another network": (Hello((1,), "fleet-2", key_of("one"), seed_of("n")), CloseReason.NETWORK),
    "a version to come": (Hello((2,), NETWORK, key_of("one"), seed_of("n")), CloseReason.VERSION),
    "a stranger": (Hello((1,), NETWORK, key_of("stranger"), seed_of("n")), CloseReason.NOT_TRUSTED),
    "a revoked key": (Hello((1,), NETWORK, key_of("revoked"), seed_of("n")), CloseReason.NOT_TRUSTED),
    "an issuer": (Hello((1,), NETWORK, key_of("issuer"), seed_of("n")), CloseReason.NOT_TRUSTED),
    "the own key": (Hello((1,), NETWORK, key_of("other"), seed_of("n")), CloseReason.OWN_KEY),
}


@pytest.mark.parametrize("name", HELLOS)
def test_a_hello_that_does_not_fit_ends_the_link_before_any_signature(name: str) -> None:
    hello, expected = HELLOS[name]
    node = pair()[1]
    end = End(node, node.link(seed_of("x"), 0.0))
    trust = Trust(
        peers=frozenset({key_of("one"), key_of("revoked"), key_of("other")}),
        revoked=frozenset({key_of("revoked")}),
        other_roles=frozenset({key_of("issuer")}),
    )
    end.link._reader = msgspec.structs.replace(end.link._reader, trust=trust)
    end.do(end.link.open())
    end.do(end.link.received(encode_hello(hello), Moment(0.0, AT_MS)))
    assert reason(end) is expected
    assert len(end.outbox) == 1  # nothing was said but the hello


@pytest.mark.parametrize("raw", [b"", b"GET / HTTP/1.1\r\n", bytes(HELLO_MAX_BYTES + 1), encode_hello(
    Hello((1,), NETWORK, key_of("one"), seed_of("n"))) + b"\0"])  # fmt: skip
def test_what_is_no_hello_ends_the_link(raw: bytes) -> None:
    node = pair()[1]
    end = End(node, node.link(seed_of("x"), 0.0))
    end.do(end.link.received(raw, Moment(0.0, AT_MS)))
    assert reason(end) is CloseReason.PROTOCOL


@pytest.mark.parametrize(
    "hello",
    [
        Hello((), NETWORK, key_of("one"), seed_of("n")),
        Hello((1,) * 9, NETWORK, key_of("one"), seed_of("n")),
        Hello((0,), NETWORK, key_of("one"), seed_of("n")),
        Hello((1,), "", key_of("one"), seed_of("n")),
        Hello((1,), "a b", key_of("one"), seed_of("n")),
        Hello((1,), NETWORK, key_of("one")[1:], seed_of("n")),
        Hello((1,), NETWORK, key_of("one"), seed_of("n") + b"\0"),
    ],
)
def test_a_hello_has_its_lengths(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) is None


def test_the_highest_common_version_counts() -> None:
    assert version_of((1, 2, 3), (4, 3, 1)) == 3
    assert version_of((1,), (2,)) is None


def proofs() -> dict[str, tuple[Liar, Proof]]:
    """Proofs that prove nothing."""
    one, other = pair()
    made: dict[str, tuple[Liar, Proof]] = {}

    def fresh() -> Liar:
        return Liar(one, other).raw(own_hello(one.reader(), seed_of("liar" + "one")))

    liar = fresh()
    good = prove(liar.met, reader=one.reader(), label="one", sign=one.sign)
    made["no signature"] = (liar, msgspec.structs.replace(good, signature=bytes(64)))
    liar = fresh()
    by_another = prove(liar.met, reader=one.reader(), label="one", sign=lambda m: sign(seed_of("eve"), m))
    made["another's signature"] = (liar, by_another)
    liar = fresh()
    elsewhere = Liar(one, other, nonce="elsewhere")
    made["of another link"] = (liar, prove(elsewhere.met, reader=one.reader(), label="one", sign=one.sign))
    liar = fresh()
    own = next(message for message in liar.heard() if isinstance(message, Proof))
    made["sent back"] = (liar, own)
    return made


@pytest.mark.parametrize("name", ["no signature", "another's signature", "of another link", "sent back"])
def test_a_proof_that_proves_nothing_ends_the_link(name: str) -> None:
    liar, proof = proofs()[name]
    liar.say(proof)
    assert reason(liar.end) is CloseReason.BAD_PROOF
    assert liar.end.opened == []


def test_a_touched_hello_makes_the_proofs_fail() -> None:
    """Who changes versions or nonces on the way breaks the link, and gains nothing."""
    one, other = pair()
    wire = Wire(one, other)
    wire.left.do(wire.left.link.open())
    wire.right.do(wire.right.link.open())
    hello = decode_hello(wire.left.outbox[0])
    assert hello is not None
    wire.left.outbox[0] = encode_hello(msgspec.structs.replace(hello, versions=(1, 2)))
    wire.run()
    assert wire.left.opened == wire.right.opened == []
    assert reason(wire.left) is CloseReason.OUT_OF_ORDER
    assert reason(wire.right) in {CloseReason.OUT_OF_ORDER, CloseReason.PEER_LEFT}


def test_another_message_than_the_proof_comes_too_early() -> None:
    one, other = pair()
    for message in (Digest(seed_of("x"), 1, True, False), Bye("leaving")):
        liar = Liar(one, other)
        liar.raw(liar.hello).say(message)
        assert reason(liar.end) is CloseReason.BAD_PROOF


def test_a_second_proof_is_refused() -> None:
    one, other = pair()
    liar = Liar(one, other).greet()
    liar.say(prove(liar.met, reader=one.reader(), label="one", sign=one.sign))
    assert reason(liar.end) is CloseReason.PROTOCOL


def test_a_box_that_does_not_open_ends_the_link() -> None:
    one, other = pair()
    liar = Liar(one, other).greet().raw(None)
    assert reason(liar.end) is CloseReason.BAD_PROOF


def frames_of_a_link() -> tuple[Liar, list[bytes]]:
    one, other = pair()
    liar = Liar(one, other).greet()
    messages = [Digest(seed_of(str(n)), n, False, False) for n in range(4)]
    return liar, [liar.out.wrap(message) for message in messages]


@pytest.mark.parametrize("order", [(1,), (0, 0), (0, 2), (1, 0), (0, 1, 3)])
def test_a_frame_missing_doubled_or_moved_ends_the_link(order: tuple[int, ...]) -> None:
    liar, frames = frames_of_a_link()
    for number in order[:-1]:
        if liar.end.closed is None:
            liar.raw(frames[number])
    liar.raw(frames[order[-1]])
    assert reason(liar.end) is CloseReason.OUT_OF_ORDER


def test_frames_in_their_order_are_fine() -> None:
    liar, frames = frames_of_a_link()
    for frame in frames:
        liar.raw(frame)
    assert liar.end.closed is None
    assert liar.end.link.peer_count == 3


def test_a_frame_sent_back_or_from_another_link_ends_the_link() -> None:
    liar, _ = frames_of_a_link()
    reflected = [frame for frame in liar.end.outbox if frame]
    assert reason(liar.raw(reflected[-1]).end) is CloseReason.OUT_OF_ORDER
    liar, _ = frames_of_a_link()
    one, other = pair()
    elsewhere = Liar(one, other, nonce="elsewhere").greet()
    foreign = elsewhere.out.wrap(Digest(seed_of("x"), 1, True, False))
    assert reason(liar.raw(foreign).end) is CloseReason.OUT_OF_ORDER


def test_every_bit_of_a_frame_counts_on_its_link() -> None:
    frame = frames_of_a_link()[1][0]
    for at in range(24):
        liar, _ = frames_of_a_link()
        liar.raw(frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :])
        assert reason(liar.end) is CloseReason.OUT_OF_ORDER


def test_no_two_links_share_a_name() -> None:
    hellos = [encode_hello(Hello((1,), NETWORK, key_of(name), seed_of(name))) for name in "abc"]
    assert link_id(hellos[0], hellos[1]) == link_id(hellos[1], hellos[0])
    assert len({link_id(one, other) for one in hellos for other in hellos if one < other}) == 3


def test_who_does_not_greet_in_time_is_left() -> None:
    one, other = pair()
    liar = Liar(one, other)
    assert liar.end.link.deadline == HANDSHAKE_WITHIN
    liar.end.do(liar.end.link.tick(HANDSHAKE_WITHIN - 0.01))
    assert liar.end.closed is None
    liar.end.do(liar.end.link.tick(HANDSHAKE_WITHIN))
    assert reason(liar.end) is CloseReason.SILENT
    proving = Liar(one, other)
    proving.raw(proving.hello)
    proving.end.do(proving.end.link.tick(HANDSHAKE_WITHIN))
    assert reason(proving.end) is CloseReason.SILENT


def test_a_closed_link_does_nothing_more() -> None:
    wire = Wire(*pair()).open()
    link = wire.left.link
    assert link.close()
    assert link.close() == link.lost() == link.tick(1e9) == link.changed(0.0, added=[bytes(32)]) == ()
    assert link.received(b"x", Moment(0.0, AT_MS)) == link.allow(0.0, send=False, receive=False) == ()
    assert link.loaded([item(1)], wire.left.node.stamp(), 0.0) == ()
    assert link.deadline is None


def test_both_ends_keep_the_same_of_two_links() -> None:
    low, high = sorted((key_of("one"), key_of("other")))
    for dialled_by_low in (True, False):
        at_low = keeps(own=low, peer=high, dialled=dialled_by_low)
        at_high = keeps(own=high, peer=low, dialled=not dialled_by_low)
        assert at_low == at_high == dialled_by_low
