"""What two nodes tell each other on an open link (R1.57, R1.60, R1.61)."""

import pytest

from ambientd.core.peerlink import SILENT_AT_LEAST, State
from ambientd.core.peers.effects import Deliver, Load, Outcome
from ambientd.core.peers.exchange import ANSWER_WITHIN, RETRY_AFTER, SETTLE
from ambientd.core.peers.frames import Answer, CloseReason, Compare, Digest, Items, Listing, Offer, Want
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import Moment
from tests.core.peers.kit import (
    AT_MS,
    ISSUER,
    Liar,
    Node,
    Wire,
    item,
    key_of,
    seed_of,
    unsigned_item,
)
from tests.core.peers.net import Net


def pair(**more: object) -> tuple[Node, Node]:
    one, other = Node("one", trusts=["other"]), Node("other", trusts=["one"])
    for node in (one, other):
        for name, value in more.items():
            setattr(node, name, value)
    return one, other


def test_two_nodes_come_to_hold_the_union_and_agree() -> None:
    one, other = pair()
    one.put(*(item(number) for number in range(300)))
    other.put(*(item(number) for number in range(280, 320)))
    wire = Wire(one, other).open()
    assert wire.left.link.state is wire.right.link.state is State.OPEN
    assert one.have.root == other.have.root
    assert len(one.items) == len(other.items) == 320
    assert wire.left.link.agrees
    assert wire.right.link.agrees
    assert wire.left.link.agreed_at == 0.0
    assert [report.added for report in (*wire.left.rounds, *wire.right.rounds)] == [20, 280]


def test_equal_nodes_say_one_digest_each_whatever_they_hold() -> None:
    sizes = []
    for many in (1, 2_000):
        one, other = pair()
        items = [unsigned_item(number) for number in range(many)]
        one.put(*items)
        other.put(*items)
        wire = Wire(one, other).open()
        assert wire.left.rounds == []
        before = wire.left.wire_bytes + wire.right.wire_bytes
        wire.left.do(wire.left.link.sync(0.0))
        wire.run()
        assert [report.outcome for report in wire.left.rounds] == [Outcome.EQUAL]
        sizes.append(wire.left.wire_bytes + wire.right.wire_bytes - before)
    assert max(sizes) < 160
    assert max(sizes) - min(sizes) < 10


def test_one_change_among_many_costs_little() -> None:
    one, other = pair(genuine_only=False)
    items = [unsigned_item(number) for number in range(2_000)]
    one.put(*items)
    other.put(*items[:-1])
    wire = Wire(one, other).open()
    assert one.have.root == other.have.root
    assert wire.left.wire_bytes + wire.right.wire_bytes < 8_000


def test_a_change_is_pushed_at_once() -> None:
    wire = Wire(*pair()).open()
    ids = wire.left.node.put(item(1))
    wire.left.do(wire.left.link.changed(wire.now, added=ids))
    assert wire.step(wire.left, wire.right)
    assert list(wire.right.node.items) == ids
    assert wire.right.node.taken[0].pushed
    wire.run()
    # Nothing comes back, and a second later both say that they agree.
    assert wire.left.node.taken == []
    wire.later(2 * SETTLE)
    assert wire.left.link.agrees
    assert wire.right.link.agrees
    assert wire.left.rounds == wire.right.rounds == []


def test_a_change_passes_through_a_line_of_nodes_and_nowhere_twice() -> None:
    names = ["a", "b", "c", "d"]
    nodes = [Node(name, trusts=[other for other in names if other != name]) for name in names]
    net = Net(nodes)
    for one, other in [("a", "b"), ("b", "c"), ("c", "d")]:
        net.dial(one, other)
    net.run()
    net.changed("a", nodes[0].put(item(1)))
    net.run()
    assert all(len(node.items) == 1 for node in nodes)
    assert [len(node.taken) for node in nodes] == [0, 1, 1, 1]
    net.later(5.0)
    assert all(side.link.agrees for side in net.sides.values())
    assert [len(node.taken) for node in nodes] == [0, 1, 1, 1]


def test_in_a_full_mesh_an_item_is_sent_once_to_each() -> None:
    names = [f"n{number}" for number in range(6)]
    nodes = [Node(name, trusts=[other for other in names if other != name]) for name in names]
    net = Net(nodes)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            net.dial(one, other)
    net.run()
    net.changed("n0", nodes[0].put(item(1)))
    net.run()
    net.later(5.0)
    assert all(len(node.items) == 1 for node in nodes)
    assert [len(node.taken) for node in nodes] == [0, 1, 1, 1, 1, 1]


def test_many_changes_at_once_are_left_to_comparing() -> None:
    wire = Wire(*pair()).open()
    ids = wire.left.node.put(*(item(number) for number in range(200)))
    wire.left.do(wire.left.link.changed(wire.now, added=ids))
    wire.run()
    assert wire.right.node.items == {}
    wire.later(2 * SETTLE)
    assert len(wire.right.node.items) == 200
    assert not any(one.pushed for one in wire.right.node.taken)


def test_changes_faster_than_the_push_rate_arrive_all() -> None:
    wire = Wire(*pair()).open()
    for number in range(300):
        wire.left.do(wire.left.link.changed(wire.now, added=wire.left.node.put(item(number))), wire.now)
        wire.run()
    assert 100 <= len(wire.right.node.items) < 300
    wire.later(2 * SETTLE)
    assert len(wire.right.node.items) == 300
    assert wire.right.closed is None


def test_an_item_that_went_is_told_with_the_digest() -> None:
    one, other = pair()
    one.put(item(1), item(2))
    wire = Wire(one, other).open()
    gone = item(2).item_id
    for node in (one, other):
        node.items.pop(gone)
        node.have.discard(gone)
    wire.left.do(wire.left.link.changed(wire.now), wire.now)
    wire.right.do(wire.right.link.changed(wire.now), wire.now)
    wire.later(2 * SETTLE)
    assert wire.left.link.agrees
    assert len(one.items) == len(other.items) == 1


def test_without_upstream_a_node_receives_and_sends_nothing() -> None:
    """R1.52, ruling 16."""
    one, other = pair()
    one.put(item(1))
    other.put(item(2))
    wire = Wire(one, other)
    wire.left.do(wire.left.link.allow(0.0, send=False, receive=True))
    wire.open()
    assert set(one.items) == {item(1).item_id, item(2).item_id}
    assert set(other.items) == {item(2).item_id}
    assert wire.right.link.agrees is False
    wire.left.do(wire.left.link.changed(wire.now, added=one.put(item(3))))
    wire.later(300.0)
    assert len(other.items) == 1
    wire.right.do(wire.right.link.sync(wire.now), wire.now)
    wire.run()
    assert wire.right.rounds[-1].outcome is Outcome.NOT_NOW
    wire.left.do(wire.left.link.allow(wire.now, send=True, receive=True), wire.now)
    wire.run()
    wire.later(2.0)
    assert len(other.items) == 3
    assert wire.right.link.agrees


def test_requests_to_a_node_that_may_not_send_are_answered_not_now() -> None:
    one, other = pair()
    other.put(item(1))
    liar = Liar(one, other)
    liar.end.do(liar.end.link.allow(0.0, send=False, receive=True))
    liar.greet().heard()
    liar.say(Compare(1, bytes(256 * 8)), Want(2, item(1).item_id))
    listing, items = liar.heard()
    assert isinstance(listing, Listing)
    assert (listing.answer, listing.ids, listing.last) == (Answer.NOT_NOW, b"", True)
    assert items == Items(2, Answer.NOT_NOW, b"", last=True)


def test_losing_the_upstream_in_the_middle_of_an_answer_ends_it() -> None:
    one, other = pair(max_bytes=4096)
    other.put(*(item(number) for number in range(50)))
    liar = Liar(one, other).greet()
    liar.heard()
    link = liar.end.link
    effects = link.received(liar.out.wrap(Want(1, b"".join(other.items))), Moment(0.0, AT_MS))
    assert len(effects) == 1  # the first load; then the upstream goes
    liar.end.do(link.allow(0.0, send=False, receive=True))
    liar.end.do(link.loaded(list(other.items.values()), other.stamp(), 0.0))
    said = liar.heard()
    assert Items(1, Answer.NOT_NOW, b"", last=True) in said
    assert not any(isinstance(message, Items) and message.snapshot for message in said)


def test_a_node_that_may_not_receive_asks_for_nothing_and_drops_what_comes() -> None:
    one, other = pair()
    one.put(item(1))
    wire = Wire(one, other)
    wire.right.do(wire.right.link.allow(0.0, send=True, receive=False))
    wire.open()
    wire.left.do(wire.left.link.changed(0.0, added=one.put(item(2))))
    wire.run()
    assert other.items == {}
    wire.right.do(wire.right.link.sync(0.0))
    wire.run()
    assert wire.right.rounds[-1].outcome is Outcome.NOT_NOW
    wire.right.do(wire.right.link.allow(0.0, send=True, receive=True))
    wire.run()
    assert len(other.items) == 2


def test_a_dry_run_says_what_would_come_and_keeps_nothing() -> None:
    one, other = pair()
    wire = Wire(one, other).open()
    one.put(*(item(number) for number in range(30)))
    one.put(SignedItem(b'{"id":"bad"}', ISSUER, bytes(64)))
    wire.right.do(wire.right.link.sync(0.0, dry_run=True))
    wire.run()
    report = wire.right.rounds[-1]
    assert (report.dry_run, report.forced, report.outcome) == (True, True, Outcome.DONE)
    assert (report.added, report.refused) == (30, 1)
    assert other.taken[-1].dry_run
    assert other.items == {}
    wire.right.do(wire.right.link.sync(0.0))
    wire.run()
    assert len(other.items) == 30


def test_what_is_not_taken_is_not_asked_for_again_until_somebody_asks() -> None:
    one, other = pair()
    one.put(item(1), *(SignedItem(b'{"id":"%d"}' % n, ISSUER, bytes(64)) for n in range(5)))
    wire = Wire(one, other).open()
    report = wire.right.rounds[-1]
    assert (report.added, report.refused, report.outcome) == (1, 5, Outcome.DONE)
    wire.later(1_000.0)
    assert len(wire.right.rounds) == 1
    # A change makes the digests differ anew: only the change is asked for.
    one.put(item(2))
    wire.left.do(wire.left.link.changed(wire.now), wire.now)
    wire.later(10.0)
    assert [report.asked for report in wire.right.rounds] == [6, 1]
    wire.right.do(wire.right.link.sync(wire.now), wire.now)
    wire.run()
    assert wire.right.rounds[-1].asked == 5


@pytest.mark.parametrize("max_bytes", [4096, 20_000, 256 * 1024])
def test_the_smaller_of_two_limits_holds(max_bytes: int) -> None:
    one, other = pair()
    other.max_bytes = max_bytes
    one.put(*(item(number) for number in range(600)), SignedItem(bytes(16_000), ISSUER, bytes(64)))
    other.genuine_only = False
    wire = Wire(one, other)
    longest = 0
    wire.left.do(wire.left.link.open())
    wire.right.do(wire.right.link.open())
    while wire.left.outbox or wire.right.outbox:
        longest = max([longest, *map(len, wire.left.outbox)])
        wire.step(wire.left, wire.right)
        wire.step(wire.right, wire.left)
    assert longest <= max_bytes + 256
    fits = max_bytes > 16_100
    assert wire.left.link.unsendable == (0 if fits else 1)
    assert len(other.items) == (601 if fits else 600)
    assert wire.right.rounds[-1].missing == (0 if fits else 1)


def test_a_node_with_many_items_is_read_page_by_page() -> None:
    one, other = pair(genuine_only=False)
    one.put(*(unsigned_item(number) for number in range(5_000)))
    wire = Wire(one, other).open()
    assert one.have.root == other.have.root
    (report,) = wire.right.rounds
    assert (report.listed, report.asked, report.missing, report.added) == (5_000, 5_000, 0, 5_000)
    assert wire.right.closed is None


def test_the_digest_is_told_at_the_interval_and_nothing_else() -> None:
    wire = Wire(*pair(interval=120.0)).open()
    before = wire.left.wire_bytes + wire.right.wire_bytes
    wire.later(3600.0)
    spent = wire.left.wire_bytes + wire.right.wire_bytes - before
    assert wire.left.link.state is State.OPEN
    assert spent / 2 / 3600 < 1.0  # bytes a second and node, before sealing


def test_a_peer_that_says_nothing_is_left() -> None:
    one, other = pair(interval=10.0)
    liar = Liar(one, other).greet()
    for now in (10.0, 20.0, 59.0, SILENT_AT_LEAST):
        liar.end.do(liar.end.link.tick(now), now)
    assert liar.end.closed is not None
    assert liar.end.closed.reason is CloseReason.SILENT


def test_a_peer_that_does_not_answer_is_left_and_the_round_reported() -> None:
    one, other = pair()
    liar = Liar(one, other).greet()
    liar.end.do(liar.end.link.sync(0.0))
    liar.end.do(liar.end.link.tick(ANSWER_WITHIN), ANSWER_WITHIN)
    assert liar.end.closed is not None
    assert liar.end.closed.reason is CloseReason.SILENT
    assert [(report.outcome, report.forced) for report in liar.end.rounds] == [(Outcome.LOST, True)]
    liar = Liar(one, other).greet()
    liar.say(Digest(seed_of("x"), 1, gives=True, asks=False))
    assert isinstance(liar.heard()[-1], Compare)
    liar.end.do(liar.end.link.lost())
    assert [(report.outcome, report.forced) for report in liar.end.rounds] == [(Outcome.LOST, False)]


def test_a_round_on_a_link_that_is_not_open_is_lost() -> None:
    one, other = pair()
    (report,) = Wire(one, other).left.link.sync(0.0)
    assert report.outcome is Outcome.LOST  # type: ignore[union-attr]


def test_a_round_asked_for_during_another_follows_it() -> None:
    one, other = pair()
    one.put(item(1))
    wire = Wire(one, other)
    wire.left.do(wire.left.link.open())
    wire.right.do(wire.right.link.open())
    while not any(isinstance(effect, Deliver) for effect in wire.right.seen):
        wire.step(wire.left, wire.right)
        wire.step(wire.right, wire.left)
        if wire.right.link.state is State.OPEN:
            wire.right.do(wire.right.link.sync(0.0))
    wire.run()
    assert wire.right.rounds[-1].forced
    assert wire.right.rounds[-1].outcome is Outcome.EQUAL


def test_items_that_went_while_they_were_asked_for_are_missing() -> None:
    one, other = pair()
    one.put(item(1), item(2))
    gone = item(2).item_id
    wire = Wire(one, other)
    one.items.pop(gone)  # the store has lost it, the set does not know yet
    wire.open()
    assert set(other.items) == {item(1).item_id}
    assert wire.right.rounds[-1].missing == 1


def test_when_the_clock_is_in_doubt_the_result_says_so() -> None:
    one, other = pair()
    one.put(item(1))
    wire = Wire(one, other)
    wire.moment = lambda: Moment(wire.now, 1, "not synchronised")  # type: ignore[method-assign]
    wire.open()
    assert other.taken[0].checked.time_unverified


def test_the_floor_of_a_delivery_is_above_the_one_before() -> None:
    """What the shell writes down before it applies: FAULTS P12."""
    wire = Wire(*pair()).open()
    for number in range(5):
        wire.left.do(wire.left.link.changed(wire.now, added=wire.left.node.put(item(number))))
        wire.run()
    numbers = [one.checked.floor.lines[-1].sequence for one in wire.right.node.taken]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 5
    assert wire.right.node.floors.of(key_of("one")).lines[-1].sequence == numbers[-1]


def test_an_offer_of_what_is_known_is_not_answered() -> None:
    one, other = pair()
    other.put(item(1))
    liar = Liar(one, other).greet()
    liar.heard()
    assert liar.say(Offer(item(1).item_id)).heard() == []
    want = liar.say(Offer(item(1).item_id + item(2).item_id)).heard()
    assert [message.ids for message in want if isinstance(message, Want)] == [item(2).item_id]


def test_what_a_peer_sent_is_not_told_to_it_again_and_a_change_only_once() -> None:
    one, other = pair()
    liar = Liar(one, other).greet()
    liar.heard()
    # The end of the link calls `changed` for what came, as for every link.
    assert liar.push(item(1)).heard() == []
    assert list(other.items) == [item(1).item_id]
    ids = other.put(item(2))
    for _ in range(2):
        liar.end.do(liar.end.link.changed(0.0, added=ids))
    (pushed,) = liar.heard()
    assert isinstance(pushed, Items)
    ids = other.put(item(3))
    for _ in range(2):
        liar.end.do(liar.end.link.changed(0.0, added=ids, forwarded=True))
    assert liar.heard() == [Offer(ids[0])]


def test_a_round_that_was_cut_short_is_tried_again_by_itself() -> None:
    one, other = pair(interval=3600.0)
    liar = Liar(one, other).greet()
    liar.heard()
    (compare,) = liar.say(Digest(seed_of("x"), 1, gives=True, asks=False)).heard()
    assert isinstance(compare, Compare)
    mask = bytes(32)
    assert liar.say(Listing(compare.request, Answer.NOT_NOW, mask, b"", last=True)).heard() == []
    assert [report.outcome for report in liar.end.rounds] == [Outcome.NOT_NOW]
    due = liar.end.link.deadline
    assert due == RETRY_AFTER
    liar.end.do(liar.end.link.tick(due), due)
    (again,) = liar.heard()
    assert isinstance(again, Compare)
    liar.now = due
    liar.say(Listing(again.request, Answer.HERE, mask, b"", last=True))
    assert [report.outcome for report in liar.end.rounds] == [Outcome.NOT_NOW, Outcome.DONE]
    assert liar.end.link.deadline == 3600.0


def test_a_slow_merge_is_no_silence_of_the_peer() -> None:
    one, other = pair()
    liar = Liar(one, other).greet()
    liar.heard()
    (compare,) = liar.say(Digest(seed_of("x"), 1, gives=True, asks=False)).heard()
    assert isinstance(compare, Compare)
    wanted = sorted((item(1), item(2)), key=lambda one: one.item_id)
    listed = b"".join(one.item_id for one in wanted)
    (want,) = liar.say(Listing(compare.request, Answer.HERE, b"\xff" * 32, listed, last=True)).heard()
    assert isinstance(want, Want)
    link = liar.end.link
    first = Items(want.request, Answer.HERE, liar.snapshot(wanted[0]), last=False)
    (delivery,) = link.received(liar.out.wrap(first), Moment(0.0, AT_MS))
    assert isinstance(delivery, Deliver)
    # The disk takes a minute; what the peer sent meanwhile has not been read yet.
    assert link.tick(ANSWER_WITHIN + 20) == ()
    other.merge(delivery)
    assert link.merged(ANSWER_WITHIN + 20, added=1, kept=0, refused=0) == ()
    assert link.tick(ANSWER_WITHIN + 21) == ()
    assert link.state is State.OPEN


def test_items_loaded_for_a_request_that_was_dropped_do_not_answer_the_next() -> None:
    one, other = pair()
    other.put(item(1), item(2))
    liar = Liar(one, other).greet()
    liar.heard()
    link = liar.end.link
    moment = Moment(0.0, AT_MS)
    assert link.received(liar.out.wrap(Want(1, item(1).item_id)), moment) == (Load((item(1).item_id,)),)
    liar.end.do(link.allow(0.0, send=False, receive=True))
    liar.end.do(link.allow(0.0, send=True, receive=True))
    assert link.received(liar.out.wrap(Want(2, item(2).item_id)), moment) == ()
    assert link.loaded([item(1)], other.stamp(), 0.0) == (Load((item(2).item_id,)),)
    liar.end.do(link.loaded([item(2)], other.stamp(), 0.0))
    answers = [message for message in liar.heard() if isinstance(message, Items)]
    assert [(answer.request, answer.answer, bool(answer.snapshot)) for answer in answers] == [
        (1, Answer.NOT_NOW, False),
        (2, Answer.HERE, True),
    ]
