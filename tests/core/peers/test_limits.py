"""What a hostile peer with a trusted key costs, and what ends its link (FAULTS P1-P10, P13)."""

import random

import pytest

from ambientd.core.peerlink import State
from ambientd.core.peers.effects import Outcome
from ambientd.core.peers.frames import (
    LISTED_AT_ONCE,
    Answer,
    Bye,
    CloseReason,
    Compare,
    Digest,
    Items,
    Listing,
    Message,
    More,
    Offer,
    Want,
)
from ambientd.core.peers.limits import MESSAGES, Bucket, Rate, Recent, penalty
from ambientd.core.peers.pull import DECLINED_MAX, VAIN_MAX, WANTS_MAX
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import Moment, Reason
from tests.core.peers.kit import AT_MS, ISSUER, Liar, Node, item, key_of, seed_of

ALL = b"\xff" * 32
HERE = Answer.HERE


def nodes() -> tuple[Node, Node]:
    return Node("liar", trusts=["node", "third"]), Node("node", trusts=["liar", "third"])


def liar() -> Liar:
    made = Liar(*nodes()).greet()
    made.heard()
    return made


def asking() -> tuple[Liar, int]:
    """A node that has asked the liar for a listing, and the number of its request."""
    one = liar()
    (compare,) = one.say(Digest(seed_of("root"), 5, gives=True, asks=False)).heard()
    assert isinstance(compare, Compare)
    return one, compare.request


def wanting(*ids: bytes) -> tuple[Liar, int]:
    """A node that has asked the liar for items."""
    one, request = asking()
    (want,) = one.say(Listing(request, HERE, ALL, b"".join(sorted(ids)), last=True)).heard()
    assert isinstance(want, Want)
    return one, want.request


def reason(one: Liar) -> CloseReason | None:
    return one.end.closed.reason if one.end.closed else None


def ids(many: int, start: int = 0) -> list[bytes]:
    return sorted(seed_of(f"id {start + number}") for number in range(many))


BROKEN: dict[str, Message] = {
    "a listing nobody asked for": Listing(9, HERE, ALL, b"", last=True),
    "items nobody asked for": Items(9, HERE, b"x", last=True),
    "an empty answer nobody asked for": Items(9, HERE, b"", last=True),
    "a page without a beginning": More(1, ALL, b""),
    "a page that begins in the middle": More(1, ALL, b"x"),
    "half an id wanted": Want(1, bytes(33)),
    "half an id offered": Offer(bytes(33)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_message_out_of_place_ends_the_link(name: str) -> None:
    assert reason(liar().say(BROKEN[name])) is CloseReason.PROTOCOL


@pytest.mark.parametrize(
    ("listed", "buckets", "last"),
    [
        (b"x", ALL, True),
        (b"", ALL, False),
        (b"".join(reversed(ids(3))), ALL, True),
        (ids(1)[0] * 2, ALL, True),
        (b"".join(ids(3)), bytes(32), True),
    ],
)
def test_a_listing_out_of_order_ends_the_link(listed: bytes, buckets: bytes, last: bool) -> None:
    one, request = asking()
    assert reason(one.say(Listing(request, HERE, buckets, listed, last))) is CloseReason.PROTOCOL


def test_the_next_page_must_go_on_in_the_same_buckets() -> None:
    one, request = asking()
    first, second = ids(2)
    (want,) = one.say(Listing(request, HERE, ALL, first, last=False)).heard()
    assert isinstance(want, Want)
    (more,) = one.say(Items(want.request, HERE, b"", last=True)).heard()
    assert isinstance(more, More)
    assert (more.buckets, more.after) == (ALL, first)
    one.say(Listing(more.request, HERE, b"\x7f" + ALL[1:], second, last=True))
    assert reason(one) is CloseReason.PROTOCOL


def test_a_listing_without_end_ends_the_link() -> None:
    one, request = asking()
    for number in range(400):
        page = [number.to_bytes(4) + bytes(24) + at.to_bytes(4) for at in range(LISTED_AT_ONCE)]
        one.say(Listing(request, HERE, ALL, b"".join(page), last=False))
        said = one.heard()
        while said and isinstance(said[-1], Want):
            said = one.say(Items(said[-1].request, HERE, b"", last=True)).heard()
        if one.end.rounds or one.end.closed:
            break
        assert isinstance(said[-1], More)
        request = said[-1].request
    # It is given up when so many were listed and none was sent.
    assert one.end.rounds[0].outcome is Outcome.FAILED
    assert one.end.rounds[0].missing <= VAIN_MAX + 256


def test_more_ids_than_a_node_may_hold_end_the_link() -> None:
    one = liar()
    held = [number.to_bytes(4) + bytes(24) + at.to_bytes(4) for number in range(300) for at in range(1024)]
    one.victim.have.replace(held)
    (compare,) = one.say(Digest(seed_of("root"), 10**6, gives=True, asks=False)).heard()
    assert isinstance(compare, Compare)
    request = compare.request
    for number in range(300):
        page = b"".join(held[number * 1024 : (number + 1) * 1024])
        said = one.say(Listing(request, HERE, ALL, page, last=False)).heard()
        if reason(one):
            break
        assert isinstance(said[-1], More)
        request = said[-1].request
    assert reason(one) is CloseReason.PROTOCOL


def test_other_items_than_were_asked_for_end_the_link() -> None:
    one, request = wanting(item(1).item_id)
    one.say(Items(request, HERE, one.snapshot(item(2)), last=True))
    assert reason(one) is CloseReason.PROTOCOL
    assert one.victim.items == {}
    one, request = wanting(item(1).item_id)
    one.say(Items(request, HERE, b"", last=False))
    assert reason(one) is CloseReason.PROTOCOL
    one, request = wanting(item(1).item_id)
    one.say(Items(request, HERE, one.snapshot(), last=True))
    assert reason(one) is CloseReason.PROTOCOL


def test_the_same_item_twice_in_one_answer_ends_the_link() -> None:
    one, request = wanting(item(1).item_id, item(2).item_id)
    one.say(Items(request, HERE, one.snapshot(item(1)), last=False))
    assert set(one.victim.items) == {item(1).item_id}
    one.say(Items(request, HERE, one.snapshot(item(1)), last=True))
    assert reason(one) is CloseReason.PROTOCOL


def test_an_item_under_two_signatures_is_no_two_items() -> None:
    one = liar()
    one.push(item(1), SignedItem(item(1).body, ISSUER, bytes(64)))
    assert reason(one) is CloseReason.PROTOCOL
    assert one.victim.taken == []


def test_a_request_before_the_last_was_answered_ends_the_link() -> None:
    one = liar()
    one.victim.put(item(1))
    exchange = one.end.link
    effects = exchange.received(one.out.wrap(Want(1, item(1).item_id)), Moment(0.0, AT_MS))
    assert len(effects) == 1  # Load, not yet answered
    one.say(Want(2, item(1).item_id))
    assert reason(one) is CloseReason.PROTOCOL


def test_digests_in_a_flood_end_the_link() -> None:
    one = liar()
    for number in range(2 * int(MESSAGES.burst)):
        one.say(Digest(seed_of(str(number % 7)), number, gives=False, asks=True))
        if reason(one):
            break
    assert reason(one) is CloseReason.FLOOD
    assert number == int(MESSAGES.burst)


def test_pushes_in_a_flood_end_the_link() -> None:
    one = liar()
    raw = bytes(256 * 1024)
    tried = 0
    while reason(one) is None:
        tried += 1
        one.say(Items(0, HERE, raw, last=True))
    assert reason(one) is CloseReason.REFUSALS
    assert tried == 4


def test_offers_in_a_flood_are_kept_to_a_bound() -> None:
    one, _ = wanting(item(1).item_id)
    for number in range(200):
        one.say(Offer(b"".join(ids(60, start=number * 60))))
    assert reason(one) is None
    assert len(one.end.link._exchange._pull._wants) == WANTS_MAX  # type: ignore[union-attr]


def test_a_push_of_what_is_known_is_not_merged_again() -> None:
    one = liar()
    one.victim.put(item(1))
    one.push(item(1))
    assert one.victim.taken == []
    one.push(item(1), item(2))
    assert len(one.victim.taken) == 1


def test_pushes_at_an_honest_pace_are_fine_for_ever() -> None:
    one = liar()
    for number in range(300):
        one.now = number * 0.1
        one.push(item(number))
    assert reason(one) is None
    assert len(one.victim.items) == 300


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"network": "fleet-2"}, Reason.NETWORK),
        ({"audience": key_of("third")}, Reason.AUDIENCE),
        ({"sender": key_of("third")}, Reason.UNKNOWN_SIGNER),
        ({"challenge": seed_of("another link")}, Reason.REPLAYED),
        ({"challenge": b""}, Reason.REPLAYED),
        ({"sequence": 2**62}, Reason.JUMP),
        ({"issued_at": 1, "not_after": 1000}, Reason.EXPIRED),
        ({"version": 2}, Reason.VERSION),
    ],
)
def test_a_refused_snapshot_is_told_and_nothing_of_it_used(changes: dict[str, object], code: Reason) -> None:
    one = liar()
    one.push(item(1), **changes)
    assert [rejected.refused.code for rejected in one.end.rejected] == [code]
    assert one.victim.items == {}
    assert one.victim.taken == []
    assert one.end.link.state is State.OPEN
    one.push(item(1))
    assert len(one.victim.items) == 1


def test_another_trusted_node_cannot_speak_on_this_link() -> None:
    one = liar()
    third = Node("third")
    one.push(item(1), by=third, sender=third.key)
    assert [rejected.refused.code for rejected in one.end.rejected] == [Reason.UNKNOWN_SIGNER]


def test_a_snapshot_again_is_refused_on_the_same_link_and_on_the_next() -> None:
    one = liar()
    raw = one.snapshot(item(1))
    one.say(Items(0, HERE, raw, last=True), Items(0, HERE, raw, last=True))
    assert [rejected.refused.code for rejected in one.end.rejected] == [Reason.REPLAYED]
    again = Liar(one.node, one.victim, nonce="again").greet()
    again.say(Items(0, HERE, raw, last=True))
    assert [rejected.refused.code for rejected in again.end.rejected] == [Reason.REPLAYED]


def test_three_forgeries_are_enough() -> None:
    one = liar()
    for _ in range(4):
        one.push(item(1), by=Node("third"))
    assert [rejected.refused.code for rejected in one.end.rejected] == [Reason.BAD_SIGNATURE] * 4
    assert reason(one) is CloseReason.REFUSALS
    assert one.end.link.refusals == 4


def test_an_honest_mistake_now_and_then_is_forgiven() -> None:
    one = liar()
    for number in range(50):
        one.now = number * 15.0
        one.say(Digest(seed_of("x"), 1, gives=False, asks=False))
        one.push(item(1), challenge=b"")
    assert reason(one) is None
    assert penalty(Reason.REPLAYED) < penalty(Reason.BAD_SIGNATURE)


def test_a_refused_part_fails_the_round_and_its_rest_is_still_read() -> None:
    one, request = wanting(item(1).item_id, item(2).item_id)
    one.say(Items(request, HERE, one.snapshot(item(1), challenge=b""), last=False))
    assert one.end.rounds == []
    one.say(Items(request, HERE, one.snapshot(item(2)), last=True))
    assert [report.outcome for report in one.end.rounds] == [Outcome.FAILED]
    assert set(one.victim.items) == {item(2).item_id}


def test_a_snapshot_of_items_nobody_issued_ends_the_link() -> None:
    one = liar()
    strange = [SignedItem(b'{"id":"%d"}' % number, ISSUER, bytes(64)) for number in range(700)]
    one.push(*strange)
    assert reason(one) is CloseReason.REFUSALS
    assert one.victim.items == {}
    few = liar()
    few.push(*strange[:60])
    assert reason(few) is None


def test_a_peer_that_has_nothing_but_worthless_items_is_asked_for_a_bounded_number() -> None:
    one, request = asking()
    every = sorted(
        (SignedItem(b'{"id":"%d"}' % number, ISSUER, bytes(64)) for number in range(6_000)),
        key=lambda strange: strange.item_id,
    )
    by_id = {strange.item_id: strange for strange in every}
    listed = list(by_id)
    at, delivered = 0, 0
    said: list[Message] = [Compare(request, bytes(2048))]
    while not one.end.rounds:
        message = said[-1]
        if isinstance(message, Want):
            chosen = [by_id[message.ids[n : n + 32]] for n in range(0, len(message.ids), 32)]
            delivered += len(chosen)
            said = one.say(Items(message.request, HERE, one.snapshot(*chosen), last=True)).heard()
        else:
            assert isinstance(message, Compare | More)
            page, at = listed[at : at + 1024], at + 1024
            last = at >= len(listed)
            said = one.say(Listing(message.request, HERE, ALL, b"".join(page), last)).heard()
    assert one.end.rounds[0].outcome is Outcome.FAILED
    assert delivered <= VAIN_MAX + 256
    assert reason(one) is None


def test_the_memory_of_what_was_not_taken_is_bounded() -> None:
    pull = liar().end.link._exchange._pull  # type: ignore[union-attr]
    pull.declined(ids(DECLINED_MAX + 100))
    assert pull._declined is not None
    assert len(pull._declined) == 100


def test_what_a_peer_makes_this_node_send_is_paced() -> None:
    one = liar()
    one.victim.put(item(1))
    answers = []
    for number in range(1, 6_000):
        (answer,) = one.say(Compare(number, bytes(2048))).heard()
        assert isinstance(answer, Listing)
        answers.append(answer.answer)
        if answer.answer is Answer.NOT_NOW:
            break
    assert answers[-1] is Answer.NOT_NOW
    assert len(answers) > 1_000
    assert reason(one) is None


def test_rounds_follow_each_other_slowly_whatever_the_peer_says() -> None:
    one = liar()
    rounds = 0
    for number in range(100):
        one.now = number * 0.01
        for message in one.say(Digest(seed_of(str(number)), 1, gives=True, asks=False)).heard():
            if isinstance(message, Compare):
                rounds += 1
                one.say(Listing(message.request, HERE, bytes(32), b"", last=True)).heard()
    assert rounds == 1


def test_a_frame_too_long_ends_the_link() -> None:
    one = liar().raw(bytes(256 * 1024 + 257))
    assert reason(one) is CloseReason.TOO_LARGE


def test_the_end_says_why_and_never_in_the_words_of_the_peer() -> None:
    one = liar().say(Bye("\x1b[31m<script>"))
    assert one.end.closed is not None
    assert one.end.closed.text == "the peer ended the link"
    assert liar().say(Bye("flood")).end.closed.text == "the peer ended the link: flood"  # type: ignore[union-attr]


def test_random_messages_never_raise_and_never_bring_anything() -> None:
    source = random.Random(5)
    for _ in range(300):
        one = liar()
        one.raw(one.out._tag + one.out._next.to_bytes(8) + source.randbytes(source.randrange(80)))
        assert one.victim.items == {}
        assert reason(one) is CloseReason.PROTOCOL


def test_a_bucket_gives_what_is_in_it_and_fills_again() -> None:
    bucket = Bucket(Rate(burst=10, refill=2), 100.0)
    assert bucket.take(10, 100.0)
    assert not bucket.take(1, 100.0)
    assert bucket.take(1, 100.5)
    assert not bucket.take(11, 1e9)
    assert bucket.take(10, 1e9)
    assert not bucket.take(1, 0.0)  # a clock that goes back gives nothing


def test_the_recent_ids_are_the_last_ones() -> None:
    recent = Recent(3)
    recent.add(bytes([n]) for n in range(5))
    recent.add([b"\x02"])
    recent.add([b"\x09"])
    assert [bytes([n]) in recent for n in (2, 3, 4, 9)] == [True, False, True, True]
    assert len(recent) == 3
