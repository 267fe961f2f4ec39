"""A hostile node: speaks the peers' protocol well enough to break every rule of it, over real sockets.

    python -m tests.lan.hostile TARGET_HOST TARGET_KEY ATTACK [SECONDS]

One attack a run (or `all`); prints one JSON line. `traitor` is a key that the others trust, `nobody` is not.
"""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from ambientd.config.peers import PeerAddress
from ambientd.core.canonical import canonical
from ambientd.core.ed25519 import KEY_BYTES, parse_key, public_of
from ambientd.core.peers import handshake
from ambientd.core.peers.floors import JUMP_MAX
from ambientd.core.peers.frames import Answer, Counted, Digest, Items, Message
from ambientd.core.signeditem import SignedItem, issue
from ambientd.core.snapshot import Reader, Snapshot, Trust, build
from ambientd.net.peer_ws import PATH, PeerSockets
from ambientd.ports.peers import PeerDialError, PeerGoneError, PeerSocket
from tests.fakes.http_log import ListHttpLog
from tests.fakes.identity import SealedIdentity
from tests.lan.fleet import NETWORK, PORT, seed_of

DAY_MS = 86_400_000
PATIENCE_SEC = 0.4
KNOCKS = 50


def now_ms() -> int:
    return int(time.time() * 1000)


def forged_item(number: int = 0) -> SignedItem:
    """A policy that everybody would like to have, signed by somebody who is no issuer."""
    now = now_ms()
    fields = {
        "v": 1,
        "kind": "policy",
        "id": f"evil-{number}",
        "network": NETWORK,
        "revision": 1,
        "issued_at": now,
        "not_before": now,
        "not_after": now + DAY_MS,
        "destinations": ["https://evil.example.com"],
        "protocols": ["https"],
    }
    return issue(seed_of("traitor"), public_of(seed_of("traitor")), canonical(fields))


class Link:
    """A link that passed the handshake, in the hands of the wrong one."""

    def __init__(self, wire: PeerSocket, name: str, target: bytes) -> None:
        self.wire = wire
        self.name = name
        self.target = target
        self.identity = SealedIdentity(seed_of(name))
        self.sequence = 0
        self.line = os.urandom(8).hex()
        self.frames: Counted | None = None
        self.challenge = b""

    async def greet(self) -> None:
        reader = Reader(
            key=self.identity.public_key, network=NETWORK, trust=Trust(peers=frozenset({self.target}))
        )
        own = handshake.own_hello(reader, os.urandom(32))
        await self.wire.send(own)
        met = handshake.meet(await self.wire.receive(), own=own, reader=reader)
        assert isinstance(met, handshake.Met), met
        self.frames, self.challenge = met.counted(self.identity.public_key), met.peer_nonce
        proof = handshake.prove(met, reader=reader, label=self.name, sign=self.identity.sign)
        await self.say(proof)
        await self.say(Digest(bytes(32), 0, gives=False, asks=False))

    def frame(self, message: Message) -> bytes:
        assert self.frames is not None
        return self.identity.seal(self.target, self.frames.wrap(message))

    async def say(self, message: Message) -> None:
        await self.wire.send(self.frame(message))

    def snapshot(self, **changes: object) -> bytes:
        """A snapshot that would be a good one, but for the changes."""
        self.sequence += 1
        now = now_ms()
        good = Snapshot(
            network=NETWORK,
            sender=self.identity.public_key,
            label=self.name,
            audience=self.target,
            line=self.line,
            sequence=self.sequence,
            issued_at=now,
            not_after=now + DAY_MS,
            challenge=self.challenge,
            items=(forged_item(self.sequence),),
        )
        return build(msgspec.structs.replace(good, **changes), self.identity.sign)

    async def push(self, snapshot: bytes) -> None:
        await self.say(Items(0, Answer.HERE, snapshot, last=True))

    async def until_ended(self) -> str:
        """Why the other side has ended it; empty when it has not."""
        with trio.move_on_after(PATIENCE_SEC):
            try:
                while True:
                    await self.wire.receive()
            except PeerGoneError as error:
                return str(error)
        return ""


Attack = Callable[[Link], Awaitable[None]]


async def forge(link: Link) -> None:
    """Well-made snapshots of items that no issuer has signed."""
    for _ in range(3):
        await link.push(link.snapshot())


async def replay(link: Link) -> None:
    """The same snapshot again, an older number, and one that was made for another link."""
    first = link.snapshot()
    for snapshot in (first, first, link.snapshot(sequence=1), link.snapshot(challenge=os.urandom(32))):
        await link.push(snapshot)


async def truncate(link: Link) -> None:
    """Cut off at the end, in the middle, at the start."""
    whole = link.snapshot()
    for cut in (whole[:-1], whole[: len(whole) // 2], whole[:8]):
        await link.push(cut)


async def flip(link: Link) -> None:
    """One bit, at three places."""
    for place in (10, -300, -5):
        bent = bytearray(link.snapshot())
        bent[place] ^= 1
        await link.push(bytes(bent))


async def lie_about_time(link: Link) -> None:
    """From next year, from last week, and already over."""
    now = now_ms()
    for issued, until in (
        (now + 365 * DAY_MS, now + 366 * DAY_MS),
        (now - 5 * DAY_MS, now + DAY_MS),
        (now - 2 * DAY_MS, now - DAY_MS),
    ):
        await link.push(link.snapshot(issued_at=issued, not_after=until))


async def jump(link: Link) -> None:
    """A number from which no return would be possible."""
    await link.push(link.snapshot(sequence=2**40 + JUMP_MAX))


async def other_network(link: Link) -> None:
    await link.push(link.snapshot(network="another"))


async def other_audience(link: Link) -> None:
    await link.push(link.snapshot(audience=public_of(seed_of("edge-77"))))


async def other_sender(link: Link) -> None:
    """In the name of an honest node."""
    await link.push(link.snapshot(sender=public_of(seed_of("edge-01"))))


async def other_signature(link: Link) -> None:
    """Its own name, somebody else's signature."""
    honest = link.identity
    link.identity = SealedIdentity(seed_of("nobody"))
    bad = build(
        msgspec.structs.replace(_read(link), sender=honest.public_key), SealedIdentity(seed_of("nobody")).sign
    )
    link.identity = honest
    await link.push(bad)


def _read(link: Link) -> Snapshot:
    now = now_ms()
    return Snapshot(
        network=NETWORK,
        sender=bytes(KEY_BYTES),
        label=link.name,
        audience=link.target,
        line=link.line,
        sequence=1,
        issued_at=now,
        not_after=now + DAY_MS,
        challenge=link.challenge,
        items=(forged_item(),),
    )


async def reorder(link: Link) -> None:
    """The second frame before the first."""
    one, two = (link.frame(Items(0, Answer.HERE, link.snapshot(), last=True)) for _ in range(2))
    await link.wire.send(two)
    await link.wire.send(one)


async def repeat_frame(link: Link) -> None:
    """A recorded frame once more."""
    frame = link.frame(Items(0, Answer.HERE, link.snapshot(), last=True))
    for _ in range(2):
        await link.wire.send(frame)


async def garbage(link: Link) -> None:
    """Sealed, but no message."""
    assert link.frames is not None
    tag = link.frames.wrap(Digest(bytes(32), 0, gives=False, asks=False))
    await link.wire.send(link.identity.seal(link.target, tag[:-3] + b"\xff\xff\xff"))


async def open_text(link: Link) -> None:
    """Not sealed at all."""
    await link.wire.send(os.urandom(400))


async def too_large(link: Link) -> None:
    """A message longer than any may be."""
    await link.wire.send(bytes(10 * 1024 * 1024))


async def flood_frames(link: Link) -> None:
    """Digests without end."""
    for _ in range(5_000):
        await link.say(Digest(os.urandom(32), 1, gives=False, asks=True))


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        forge,
        replay,
        truncate,
        flip,
        lie_about_time,
        jump,
        other_network,
        other_audience,
        other_sender,
        other_signature,
        reorder,
        repeat_frame,
        garbage,
        open_text,
        too_large,
        flood_frames,
    )
}


async def attack(host: str, key: bytes, name: str, who: str) -> str:
    """One attack over one link; why the link ended. Whoever is not heard knocks again for a while."""
    sockets = PeerSockets(listen=None, max_message=16 * 1024 * 1024, quiet_sec=60, log=ListHttpLog())
    reason = ""
    for _ in range(KNOCKS):
        try:
            async with sockets.dial(PeerAddress(host, PORT)) as wire:
                link = Link(wire, who, key)
                await link.greet()
                try:
                    await ATTACKS[name](link)
                except PeerGoneError as error:
                    return str(error)
                return await link.until_ended()
        except (PeerDialError, PeerGoneError) as error:
            reason = str(error)
        if who == "nobody":
            break
        await trio.sleep(0.1)
    return reason


async def knock(host: str, seconds: float) -> int:
    """Strangers at the door, as many as go: silent ones, wrong ones, endless ones, for some seconds."""
    tried = 0
    upgrade = (
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    said = (b"", b"\x16\x03\x01" + os.urandom(200), b"GET / HTTP/1.1\r\n", upgrade + os.urandom(9000))

    async def one(number: int) -> None:
        nonlocal tried
        while True:
            tried += 1
            try:
                async with await trio.open_tcp_stream(host, PORT) as stream:
                    await stream.send_all(said[number % len(said)])
                    with trio.move_on_after(0.5):
                        await stream.receive_some(4096)
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(0.01)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
    return tried


async def main(host: str, key_text: str, name: str, seconds: float) -> None:
    key = parse_key(key_text)
    assert key is not None
    if name == "all":
        ended = {one: await attack(host, key, one, "traitor") for one in ATTACKS}
        print(json.dumps({"attack": name, "ended": ended}), flush=True)
    elif name == "knock":
        print(json.dumps({"attack": name, "tried": await knock(host, seconds)}), flush=True)
    elif name == "nobody":
        print(json.dumps({"attack": name, "ended": await attack(host, key, "forge", "nobody")}), flush=True)
    else:
        print(json.dumps({"attack": name, "ended": await attack(host, key, name, "traitor")}), flush=True)


if __name__ == "__main__":
    arguments = [*sys.argv[1:], "5"]
    trio.run(main, arguments[0], arguments[1], arguments[2], float(arguments[3]))
