"""Nodes that hold items in memory, and the wires between them."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from ambientd.core.canonical import canonical
from ambientd.core.ed25519 import public_of, sign
from ambientd.core.itemset import ItemSet
from ambientd.core.peerlink import LinkSettings, PeerLink, Stamp
from ambientd.core.peers import frames
from ambientd.core.peers.effects import Closed, Deliver, Effect, Load, Opened, Rejected, RoundEnded, Send
from ambientd.core.peers.floors import Floors, SendLine
from ambientd.core.peers.handshake import meet, own_hello, prove
from ambientd.core.signeditem import SignedItem, issue
from ambientd.core.snapshot import MAX_BYTES, MAX_ITEMS, Moment, Reader, Snapshot, Trust, build

NETWORK = "fleet-1"
AT_MS = 1_771_525_613_000
ISSUER_SEED = hashlib.sha256(b"issuer").digest()
ISSUER = public_of(ISSUER_SEED)


def seed_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def key_of(name: str) -> bytes:
    return public_of(seed_of(name))


def item(number: int, *, text: str = "", issuer_seed: bytes = ISSUER_SEED) -> SignedItem:
    """An item as an issuer makes it; about as long as a policy with two destinations."""
    body = canonical(
        {
            "kind": "policy",
            "id": f"policy-{number:06}",
            "revision": 1,
            "destinations": [
                f"https://host-{number}.example.net:443{text}",
                "https://updates.example.net:443",
            ],
        }
    )
    return issue(issuer_seed, public_of(issuer_seed), body)


def unsigned_item(number: int) -> SignedItem:
    """An item like those of `item`, with a signature that is none: where only its bytes count."""
    body = canonical(
        {
            "kind": "policy",
            "id": f"policy-{number:06}",
            "revision": 1,
            "destinations": [f"https://host-{number}.example.net:443", "https://updates.example.net:443"],
        }
    )
    return SignedItem(body, ISSUER, hashlib.sha512(body).digest())


@dataclass
class Node:
    """A node as the shell sees it: items by id, floors, a sending line."""

    name: str
    trusts: Iterable[str] = ()
    max_bytes: int = MAX_BYTES
    max_items: int = MAX_ITEMS
    interval: float = 120.0
    network: str = NETWORK
    genuine_only: bool = True
    items: dict[bytes, SignedItem] = field(default_factory=dict)
    have: ItemSet = field(default_factory=ItemSet)
    floors: Floors = field(default_factory=lambda: Floors(since=AT_MS - 1_000))
    taken: list[Deliver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = key_of(self.name)
        self.line = SendLine(hashlib.sha256(self.name.encode()).hexdigest()[:16])
        self.sign: Callable[[bytes], bytes] = partial(sign, seed_of(self.name))

    def reader(self) -> Reader:
        return Reader(
            key=self.key,
            network=self.network,
            trust=Trust(peers=frozenset(key_of(name) for name in self.trusts)),
            max_bytes=self.max_bytes,
            max_items=self.max_items,
        )

    def put(self, *items: SignedItem) -> list[bytes]:
        """Holds these items from now on; their ids."""
        self.items.update({one.item_id: one for one in items})
        for one in items:
            self.have.add(one.item_id)
        return [one.item_id for one in items]

    def link(self, nonce: bytes, now: float, *, may_send: bool = True, may_receive: bool = True) -> PeerLink:
        settings = LinkSettings(reader=self.reader(), label=self.name, sign=self.sign, interval=self.interval)
        return PeerLink(
            settings,
            have=self.have,
            floors=self.floors,
            nonce=nonce,
            now=now,
            may_send=may_send,
            may_receive=may_receive,
        )

    def stamp(self, at_ms: int = AT_MS) -> Stamp:
        self.line, sequence = self.line.take("f" * 16)
        return Stamp(self.line.line, sequence, at_ms)

    def merge(self, delivery: Deliver) -> tuple[int, int, int]:
        """What PolicyItems.take does: only genuine items of the issuer, never in the place of another."""
        signers = {**self.floors.signers, delivery.checked.snapshot.sender: delivery.checked.floor}
        self.floors = Floors(self.floors.since, signers)
        self.taken.append(delivery)
        added = kept = refused = 0
        for one in delivery.checked.snapshot.items:
            if one.item_id in self.items:
                kept += 1
            elif self.genuine_only and not (one.issuer == ISSUER and one.is_genuine):
                refused += 1
            else:
                added += 1
                if not delivery.dry_run:
                    self.put(one)
        return added, kept, refused


class End:
    """One end of a wire: carries out the effects of its link, and lists them."""

    def __init__(self, node: Node, link: PeerLink) -> None:
        self.node = node
        self.link = link
        self.outbox: deque[bytes] = deque()
        self.seen: list[Effect] = []
        self.wire_bytes = 0

    def do(self, effects: Sequence[Effect], now: float = 0.0) -> None:
        """Carries out effects, and what follows from them."""
        todo = deque(effects)
        while todo:
            effect = todo.popleft()
            self.seen.append(effect)
            if isinstance(effect, Send):
                self.outbox.append(effect.frame)
                self.wire_bytes += len(effect.frame)
            elif isinstance(effect, Load):
                items = [self.node.items[i] for i in effect.ids if i in self.node.items]
                todo.extend(self.link.loaded(items, self.node.stamp(), now))
            elif isinstance(effect, Deliver):
                before = set(self.node.items)
                added, kept, refused = self.node.merge(effect)
                todo.extend(self.link.merged(now, added=added, kept=kept, refused=refused))
                new = [i for i in effect.ids if i in self.node.items and i not in before]
                todo.extend(self.link.changed(now, added=new, forwarded=True) if new else ())

    def of(self, kind: type) -> list[Effect]:
        return [effect for effect in self.seen if isinstance(effect, kind)]

    @property
    def closed(self) -> Closed | None:
        return next((effect for effect in self.seen if isinstance(effect, Closed)), None)

    @property
    def rounds(self) -> list[RoundEnded]:
        return [effect for effect in self.seen if isinstance(effect, RoundEnded)]

    @property
    def rejected(self) -> list[Rejected]:
        return [effect for effect in self.seen if isinstance(effect, Rejected)]

    @property
    def opened(self) -> list[Opened]:
        return [effect for effect in self.seen if isinstance(effect, Opened)]


class Wire:
    """Two ends and nothing between them that loses anything."""

    def __init__(self, left: Node, right: Node, *, now: float = 0.0, nonce: str = "n", **may: bool) -> None:
        self.now = now
        self.left = End(left, left.link(seed_of(nonce + left.name), now, **may))
        self.right = End(right, right.link(seed_of(nonce + right.name), now, **may))

    def open(self) -> "Wire":
        self.left.do(self.left.link.open(), self.now)
        self.right.do(self.right.link.open(), self.now)
        return self.run()

    def moment(self) -> Moment:
        return Moment(self.now, AT_MS + int(self.now * 1000))

    def step(self, sender: End, receiver: End) -> bool:
        if not sender.outbox:
            return False
        receiver.do(receiver.link.received(sender.outbox.popleft(), self.moment()), self.now)
        return True

    def run(self, most: int = 100_000) -> "Wire":
        """Carries frames both ways until there are none."""
        for _ in range(most):
            if not (self.step(self.left, self.right) | self.step(self.right, self.left)):
                return self
        raise AssertionError("the two never come to rest")

    def later(self, seconds: float) -> "Wire":
        """Time passes, with every deadline met."""
        until = self.now + seconds
        for _ in range(10_000):
            due = [end.link.deadline for end in (self.left, self.right) if end.link.deadline is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            for end in (self.left, self.right):
                end.do(end.link.tick(self.now), self.now)
            self.run()
        self.now = until
        return self


class Liar:
    """A node that has a key and keeps no rule: it says what it is told, to a link of `victim`."""

    def __init__(
        self, node: Node, victim: Node, *, now: float = 0.0, nonce: str = "liar", **may: bool
    ) -> None:
        self.node, self.victim, self.now = node, victim, now
        self.end = End(victim, victim.link(seed_of(nonce + victim.name), now, **may))
        self.hello = own_hello(node.reader(), seed_of(nonce + node.name))
        self.end.do(self.end.link.open(), now)
        self.met = meet(self.end.outbox.popleft(), own=self.hello, reader=node.reader())
        self.out = self.met.counted(node.key)
        self.incoming = self.met.counted(victim.key)

    def greet(self) -> "Liar":
        """The handshake, as it should be."""
        self.raw(self.hello)
        proof = prove(self.met, reader=self.node.reader(), label=self.node.name, sign=self.node.sign)
        return self.say(proof)

    def say(self, *messages: frames.Message) -> "Liar":
        for message in messages:
            self.raw(self.out.wrap(message))
        return self

    def raw(self, frame: bytes | None) -> "Liar":
        moment = Moment(self.now, AT_MS + int(self.now * 1000))
        self.end.do(self.end.link.received(frame, moment), self.now)
        return self

    def heard(self) -> list[frames.Message]:
        """What the victim has said since the last call."""
        said = []
        while self.end.outbox:
            raw = self.incoming.unwrap(self.end.outbox.popleft())
            assert raw is not None
            message = frames.decode_message(raw)
            assert message is not None
            said.append(message)
        return said

    def snapshot(self, *items: SignedItem, by: Node | None = None, **changes: Any) -> bytes:
        """A snapshot for the victim, good but for the changes."""
        stamp = self.node.stamp(AT_MS + int(self.now * 1000))
        good = Snapshot(
            network=NETWORK,
            sender=self.node.key,
            label=self.node.name,
            audience=self.victim.key,
            line=stamp.line,
            sequence=stamp.sequence,
            issued_at=stamp.at_ms,
            not_after=stamp.at_ms + 60_000,
            challenge=self.met.peer_nonce,
            items=items,
        )
        return build(msgspec.structs.replace(good, **changes), (by or self.node).sign)

    def push(self, *items: SignedItem, **changes: Any) -> "Liar":
        return self.say(frames.Items(0, frames.Answer.HERE, self.snapshot(*items, **changes), last=True))
