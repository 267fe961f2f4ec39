"""A machine of hypothesis: honest nodes, a trusted one that is hostile, a stranger, a bad network."""

import hashlib
from functools import cache
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ambientd.core.itemset import BUCKETS, MARK_BYTES
from ambientd.core.peerlink import State
from ambientd.core.peers import frames
from ambientd.core.peers.pull import WANTS_MAX
from ambientd.core.signeditem import SignedItem, issue
from tests.core.peers.kit import ISSUER, Liar, Node, item, key_of, seed_of
from tests.core.peers.net import Box, Net, Side

HONEST = ("ann", "bob", "cid", "dee")
HOSTILE, STRANGER = "eve", "sam"
PAIRS = [(one, other) for one in HONEST for other in HONEST if one != other]

names = st.sampled_from(HONEST)
pairs = st.sampled_from(PAIRS)


@cache
def made(number: int) -> SignedItem:
    return item(number)


@cache
def forged(number: int) -> SignedItem:
    """Signed by eve, who issues nothing; or a good body with her signature under the issuer's name."""
    good = item(number + 1_000_000)
    own = issue(seed_of(HOSTILE), key_of(HOSTILE), good.body)
    return own if number % 2 else SignedItem(good.body, ISSUER, own.signature)


class Eve(Liar):
    """A trusted node that keeps no rule; its victim's link is one of the network's."""

    def __init__(self, net: Net, victim: str, number: int) -> None:
        super().__init__(net.nodes[HOSTILE], net.nodes[victim], now=net.now, nonce=f"eve {number}")
        self.net, self.link = net, self.end.link
        self.key = (victim, f"{HOSTILE} {number}")
        net.sides[self.key] = Side(self.victim, self.link)
        self.greet()

    def raw(self, frame: bytes | None) -> "Eve":
        self.now = self.net.now
        self.net.do(self.key, self.link.received(frame, self.net.moment()))
        return self


class Machine(RuleBasedStateMachine):
    """Whatever happens, each node only ever gains genuine items; when the network heals they agree."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @initialize()
    def begin(self) -> None:
        everybody = (*HONEST, HOSTILE)
        nodes = [
            Node(name, trusts=[other for other in everybody if other != name], interval=20.0, max_bytes=4096)
            for name in everybody
        ]
        self.net = Net([*nodes, Node(STRANGER, trusts=everybody)])
        self.own: dict[str, set[bytes]] = {name: set() for name in HONEST}
        self.eves: list[Eve] = []
        self.copies: dict[bytes, SignedItem] = {}

    # -- what honest nodes do

    @rule(name=names, many=st.integers(1, 3))
    def makes_items(self, name: str, many: int) -> None:
        new = [made(self.count + n) for n in range(many)]
        self.count += many
        ids = self.net.nodes[name].put(*new)
        self.own[name].update(ids)
        self.copies.update(zip(ids, new, strict=True))
        self.net.changed(name, ids)

    @rule(pair=pairs)
    def dials(self, pair: tuple[str, str]) -> None:
        self.net.dial(*pair)

    @rule(name=names, send=st.booleans())
    def may_send(self, name: str, send: bool) -> None:
        self.net.allow(name, send=send)

    @rule(pair=pairs, dry_run=st.booleans())
    def asks_for_a_round(self, pair: tuple[str, str], dry_run: bool) -> None:
        side = self.net.sides.get(pair)
        if side is not None:
            self.net.do(pair, side.link.sync(self.net.now, dry_run=dry_run))

    # -- what the network does

    @rule(pair=pairs, many=st.integers(1, 30))
    def carries(self, pair: tuple[str, str], many: int) -> None:
        for _ in range(many):
            self.net.deliver(pair)
            self.net.deliver(pair[::-1])

    @rule(pair=pairs)
    def loses(self, pair: tuple[str, str]) -> None:
        if pair in self.net.sides and self.net.sides[pair].sent:
            self.net.sides[pair].sent.popleft()

    @rule(pair=pairs, where=st.integers(0, 5))
    def doubles(self, pair: tuple[str, str], where: int) -> None:
        side = self.net.sides.get(pair)
        if side is not None and side.sent:
            at = where % len(side.sent)
            side.sent.insert(at, side.sent[at])

    @rule(pair=pairs)
    def swaps(self, pair: tuple[str, str]) -> None:
        side = self.net.sides.get(pair)
        if side is not None and len(side.sent) > 1:
            side.sent.rotate(1)

    @rule(pair=pairs, where=st.integers(0, 5))
    def touches(self, pair: tuple[str, str], where: int) -> None:
        if pair in self.net.sides and self.net.sides[pair].sent:
            self.net.touch(pair, where)

    @rule(pair=pairs, which=st.integers(0, 10_000))
    def replays(self, pair: tuple[str, str], which: int) -> None:
        if pair in self.net.sides and self.net.history:
            self.net.hand(pair, self.net.history[which % len(self.net.history)])

    @rule(pair=pairs, raw=st.binary(max_size=200), sealed=st.booleans())
    def invents(self, pair: tuple[str, str], raw: bytes, sealed: bool) -> None:
        keys = frozenset(self.net.nodes[name].key for name in pair) if sealed else None
        self.net.hand(pair, Box(raw, keys))

    @rule(pair=pairs)
    def breaks(self, pair: tuple[str, str]) -> None:
        self.net.hang_up(*pair)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 21.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.net.later(seconds, run=False)

    # -- what those do who mean it

    @rule(name=names)
    def a_stranger_calls(self, name: str) -> None:
        before = len(self.net.delivered)
        self.net.dial(name, STRANGER)
        self.net.run(1_000)
        assert (name, STRANGER) not in self.net.sides
        assert not any(at == STRANGER for at, _ in self.net.delivered[before:])

    @precondition(lambda self: len(self.eves) < 6)
    @rule(name=names)
    def eve_calls(self, name: str) -> None:
        self.eves.append(Eve(self.net, name, len(self.eves)))
        assert self.eves[-1].link.state is State.OPEN

    @precondition(lambda self: self.eves)
    @rule(
        which=st.integers(0, 5),
        what=st.sampled_from(
            ["digest", "offer", "list", "items", "want", "more", "bad", "jump", "proof", "old"]
        ),
        number=st.integers(0, 50),
        times=st.sampled_from([1, 3, 20]),
    )
    def eve_says(self, which: int, what: str, number: int, times: int) -> None:
        eve = self.eves[which % len(self.eves)]
        for n in range(times):
            if eve.link.state is State.OPEN:
                eve.say(self.lie(eve, what, number + n))

    def lie(self, eve: Eve, what: str, number: int) -> frames.Message:
        some = hashlib.sha256(str(number).encode()).digest()
        mask = b"\xff" * (BUCKETS // 8)
        items = (forged(number),)
        lies: dict[str, frames.Message] = {
            "digest": frames.Digest(some, number, gives=True, asks=bool(number % 2)),
            "offer": frames.Offer(some * (1 + number % 60)),
            "list": frames.Listing(1 + number % 9, frames.Answer.HERE, mask, some, last=bool(number % 2)),
            "want": frames.Want(number + 1, some * (1 + number % 200)),
            "more": frames.More(number + 1, mask, b""),
            "proof": frames.Compare(1, bytes(BUCKETS * MARK_BYTES)),
        }
        if what in lies:
            return lies[what]
        raw = {
            "items": lambda: eve.snapshot(*items),
            "bad": lambda: eve.snapshot(*items, by=self.net.nodes["ann"]),
            "jump": lambda: eve.snapshot(*items, sequence=2**40),
            "old": lambda: eve.snapshot(*items, sequence=1),
        }[what]()
        request = 0 if number % 5 else 1 + number % 9
        return frames.Items(request, frames.Answer.HERE, raw, last=bool(number % 2))

    # -- what always holds

    @invariant()
    def nobody_lost_or_changed_an_item(self) -> None:
        for name in HONEST:
            node = self.net.nodes[name]
            assert self.own[name] <= node.items.keys()
            assert all(self.copies[item_id] == one for item_id, one in node.items.items())
            assert len(node.have) == len(node.items)

    @invariant()
    def only_trusted_signers_were_listened_to(self) -> None:
        trusted = {key_of(name) for name in (*HONEST, HOSTILE)}
        for at, delivery in self.net.delivered:
            one = delivery.checked.snapshot
            assert one.sender in trusted - {key_of(at)}
            assert one.audience == key_of(at)

    @invariant()
    def nothing_grows_without_bound(self) -> None:
        for side in self.net.sides.values():
            exchange = side.link._exchange
            if exchange is not None:
                assert len(exchange._pull._wants) <= WANTS_MAX
                assert len(exchange._told) <= 512
                assert not exchange._merging
                assert len(exchange._serve._jobs) <= 2

    def teardown(self) -> None:
        """The network heals: in a line, all come to hold what anybody holds, and say so."""
        net = self.net
        for pair in list(net.sides):
            net.hang_up(*pair)
        for name in HONEST:
            net.allow(name, send=True)
        union = set().union(*(net.nodes[name].items for name in HONEST))
        for one, other in pairwise(HONEST):
            net.dial(one, other)
        net.run()
        for _ in range(len(HONEST)):
            net.later(45.0)
        for name in HONEST:
            assert set(net.nodes[name].items) == union
        assert len(net.sides) == 2 * (len(HONEST) - 1)
        assert all(side.link.agrees for side in net.sides.values())
