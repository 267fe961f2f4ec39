"""Several nodes and a network between them that can lose, double, move, touch and replay what is sent."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ambientd.core.peerlink import PeerLink, State
from ambientd.core.peers.effects import Closed, Deliver, Effect, Load, Rejected, RoundEnded, Send
from ambientd.core.snapshot import Moment
from tests.core.peers.kit import AT_MS, Node, seed_of


@dataclass(frozen=True)
class Box:
    """Bytes on their way: open, or sealed between two keys. One that was touched does not open."""

    data: bytes
    keys: frozenset[bytes] | None = None
    touched: bool = False

    def opened(self, link: PeerLink, own: bytes) -> bytes | None:
        """What a shell hands to its link."""
        if self.keys is None or not link.expects_box:
            return self.data
        return self.data if self.keys == {own, link.peer} and not self.touched else None


@dataclass
class Side:
    """One end of a connection, and what is on its way to the other end."""

    node: Node
    link: PeerLink
    sent: deque[Box] = field(default_factory=deque)
    closed: Closed | None = None
    rejected: int = 0
    rounds: list[RoundEnded] = field(default_factory=list)
    bytes_out: int = 0


class Net:
    """The nodes' connections by pair of names. Every effect is carried out at once, as a shell does."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.sides: dict[tuple[str, str], Side] = {}
        self.history: list[Box] = []
        self.now = 0.0
        self.may: dict[str, bool] = {node.name: True for node in nodes}
        self.delivered: list[tuple[str, Deliver]] = []
        self._nonces = 0

    def moment(self) -> Moment:
        return Moment(self.now, AT_MS + int(self.now * 1000))

    def dial(self, one: str, other: str) -> None:
        """Connects two nodes, if they are not."""
        if (one, other) in self.sides:
            return
        for own, peer in ((one, other), (other, one)):
            self._nonces += 1
            nonce = seed_of(f"nonce {self._nonces}")
            link = self.nodes[own].link(nonce, self.now, may_send=self.may[own])
            self.sides[own, peer] = Side(self.nodes[own], link)
        for pair in ((one, other), (other, one)):
            self.do(pair, self.sides[pair].link.open())

    def hang_up(self, one: str, other: str) -> None:
        """The connection breaks; what is on its way is lost."""
        for pair in ((one, other), (other, one)):
            side = self.sides.pop(pair, None)
            if side is not None:
                side.link.lost()

    def do(self, pair: tuple[str, str], effects: Sequence[Effect]) -> None:
        """Carries out the effects of a link, and what follows from them."""
        todo = deque((pair, effect) for effect in effects)
        while todo:
            at, effect = todo.popleft()
            side = self.sides.get(at)
            if side is None:
                continue
            todo.extend((where, more) for where, more in self._one(at, side, effect))

    def _one(
        self, at: tuple[str, str], side: Side, effect: Effect
    ) -> Sequence[tuple[tuple[str, str], Effect]]:
        node, link = side.node, side.link
        if isinstance(effect, Send):
            box = Box(effect.frame, frozenset({node.key, link.peer or b""}) if effect.sealed else None)
            side.sent.append(box)
            side.bytes_out += len(effect.frame)
            self.history.append(box)
        elif isinstance(effect, Load):
            items = [node.items[i] for i in effect.ids if i in node.items]
            return [(at, more) for more in link.loaded(items, node.stamp(self.moment().at_ms), self.now)]
        elif isinstance(effect, Deliver):
            self.delivered.append((node.name, effect))
            before = set(node.items)
            added, kept, refused = node.merge(effect)
            follow = [(at, more) for more in link.merged(self.now, added=added, kept=kept, refused=refused)]
            new = [i for i in effect.ids if i in node.items and i not in before]
            return [*follow, *self.tell(node.name, new, forwarded=True)]
        elif isinstance(effect, Closed):
            side.closed = effect
        elif isinstance(effect, Rejected):
            side.rejected += 1
        elif isinstance(effect, RoundEnded):
            side.rounds.append(effect)
        return []

    def tell(
        self, name: str, ids: Sequence[bytes], *, forwarded: bool
    ) -> list[tuple[tuple[str, str], Effect]]:
        """What the links of a node do when its items have changed."""
        if not ids:
            return []
        return [
            (pair, effect)
            for pair, side in self.sides.items()
            if pair[0] == name
            for effect in side.link.changed(self.now, added=ids, forwarded=forwarded)
        ]

    def changed(self, name: str, ids: Sequence[bytes]) -> None:
        """A node made items of its own."""
        for pair, effect in self.tell(name, ids, forwarded=False):
            self.do(pair, [effect])

    def allow(self, name: str, *, send: bool) -> None:
        """A node loses its upstream, or finds it again."""
        self.may[name] = send
        for pair in [pair for pair in self.sides if pair[0] == name]:
            if pair in self.sides:
                self.do(pair, self.sides[pair].link.allow(self.now, send=send, receive=True))

    def deliver(self, pair: tuple[str, str]) -> bool:
        """The oldest bytes from one to the other arrive."""
        side = self.sides.get(pair)
        if side is None or not side.sent:
            return False
        self.hand(pair, side.sent.popleft())
        return True

    def hand(self, pair: tuple[str, str], box: Box) -> None:
        """Bytes arrive at the second of the pair, as if the first had sent them now."""
        back = pair[::-1]
        receiver = self.sides.get(back)
        if receiver is None:
            return
        frame = box.opened(receiver.link, receiver.node.key)
        self.do(back, receiver.link.received(frame, self.moment()))
        self.sweep()

    def sweep(self) -> None:
        """Connections of which an end is closed are gone, once what it said last has been read."""
        for pair in [pair for pair, side in self.sides.items() if side.link.state is State.CLOSED]:
            side = self.sides.get(pair)
            if side is not None and not side.sent:
                self.hang_up(*pair)

    def touch(self, pair: tuple[str, str], where: int) -> None:
        """Changes something that is on its way."""
        sent = self.sides[pair].sent
        box = sent[where % len(sent)]
        flipped = bytes([box.data[0] ^ 1]) + box.data[1:]
        sent[where % len(sent)] = replace(box, data=flipped if box.keys is None else box.data, touched=True)

    def run(self, most: int = 200_000) -> None:
        """Everything on its way arrives."""
        for _ in range(most):
            moved = [self.deliver(pair) for pair in list(self.sides)]
            if not any(moved):
                return
        raise AssertionError("the network never comes to rest")

    def later(self, seconds: float, *, run: bool = True) -> None:
        """Time passes, with every deadline met."""
        until = self.now + seconds
        for _ in range(100_000):
            due = [d for side in self.sides.values() if (d := side.link.deadline) is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            for pair in list(self.sides):
                if pair in self.sides:
                    link = self.sides[pair].link
                    self.do(pair, link.tick(self.now))
                    assert link.deadline is None or link.deadline > self.now
            self.sweep()
            if run:
                self.run()
        self.now = until
