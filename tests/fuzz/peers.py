"""Mutated hellos, frames, snapshots and earlier messages against their decoders and a live link.

    python tests/fuzz/peers.py [--count 100000] [--seed N]

Whatever comes: an answer or a closed link, never an exception, and nothing is taken that was not signed. A
short form runs in the suite (`tests/core/peers/test_forgery.py`). A failure prints the seed and the bytes.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.earlier_sync import read
from ambientd.core.peerlink import State
from ambientd.core.peers.effects import Deliver
from ambientd.core.peers.frames import decode_hello, decode_message
from ambientd.core.snapshot import Checked, Moment
from tests.core.peers.kit import AT_MS, Node, Wire, item
from tests.core.peers.test_snapshot import checked, signed, snapshot

VECTORS = Path(__file__).resolve().parents[1] / "data" / "vectors" / "peer_sync.json"
PIECES = (
    *(b"", b"\0", b"\xff", b"\x91", b"\xc0", b"{", b'"', b"1e999", b"9" * 40, b"\\ud800", b"\xed\xa0\x80"),
    *(b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", bytes(8), b"\xff" * 8),
)


SHOWN = 5


@dataclass
class Result:
    """What became of the attempts."""

    tried: Counter[str] = field(default_factory=Counter)
    uncaught: int = 0
    taken: int = 0


def mutated(raw: bytes, source: random.Random) -> bytes:
    """The bytes with one to six changes."""
    out = bytearray(raw)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(out) + 1)
        kind = source.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            del out[at : at + source.randrange(40)]
        elif kind == 2:
            out[at:at] = source.choice(PIECES)
        elif kind == 3:
            out[at:at] = out[source.randrange(len(out) + 1) :][:40]
        elif at < len(out):
            out[at] = source.randrange(256)
    return bytes(out)


def recorded() -> tuple[list[bytes], list[bytes]]:
    """The hellos and the frames of two nodes that have everything to say to each other."""
    one, other = Node("one", trusts=["other"]), Node("other", trusts=["one"])
    one.put(*(item(number) for number in range(20)))
    other.put(*(item(number) for number in range(15, 30)))
    wire = Wire(one, other)
    sent: list[bytes] = []
    wire.left.do(wire.left.link.open())
    wire.right.do(wire.right.link.open())
    while wire.left.outbox or wire.right.outbox:
        sent += [*wire.left.outbox, *wire.right.outbox]
        wire.step(wire.left, wire.right)
        wire.step(wire.right, wire.left)
    frames = list(dict.fromkeys(sent))
    return frames[:2], frames[2:]


def at_a_link(raw: bytes, source: random.Random) -> int:
    """A link in each of its states gets these bytes as the next message; how many snapshots were taken."""
    wire = Wire(Node("one", trusts=["other"]), Node("other", trusts=["one"]))
    if source.randrange(3):
        wire.open()
    link = wire.left.link
    if link.state is State.OPEN and source.randrange(4):
        raw = link._incoming._tag + link._incoming._next.to_bytes(8) + raw
    effects = link.received(raw, Moment(0.0, AT_MS))
    return sum(isinstance(effect, Deliver) for effect in effects)


def fuzz(count: int, *, seed: int) -> Result:
    """Tries so many mutations of each kind; nothing is caught that is not counted."""
    source, result = random.Random(seed), Result()
    hellos, frames = recorded()
    messages = [frame[24:] for frame in frames]
    kinds: dict[str, tuple[list[bytes], Callable[[bytes], int], int]] = {
        "snapshot": ([signed(snapshot())], lambda raw: isinstance(checked(raw), Checked), 1),
        "hello": (hellos, lambda raw: decode_hello(raw) is None and 0, 1),
        "message": (messages, lambda raw: decode_message(raw) is None and 0, 1),
        "earlier": ([VECTORS.read_bytes()[2_000:4_000], EARLIER], lambda raw: read(raw) is None, 1),
        "link": ([*hellos, *frames, *messages], lambda raw: at_a_link(raw, source), 10),
    }
    for kind, (seeds, attempt, dear) in kinds.items():
        for _ in range(count // dear):
            original = source.choice(seeds)
            raw = mutated(original, source)
            result.tried[kind] += 1
            try:
                taken = attempt(raw)
            except BaseException as fault:  # finding these is what this is for
                result.uncaught += 1
                if result.uncaught <= SHOWN:
                    print(f"seed {seed}: {kind} raised {fault!r} for {raw.hex()}", file=sys.stderr)
                if isinstance(fault, KeyboardInterrupt):
                    raise
            else:
                result.taken += bool(taken) and raw != original
    return result


EARLIER = (
    b'{"sender_node_id":"node-A","egress_policies":[{"id":"p-1","allowed_destinations":["https://a.example"]}],'
    b'"verification_keys":{"k1":[1,2,3]},"snapshot_at":1771525613,"content_hash":"00","signature":[1],'
    b'"signer_public_key":[2]}'
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.perf_counter()
    result = fuzz(options.count, seed=options.seed)
    print(f"seed {options.seed}: {dict(result.tried)} in {time.perf_counter() - began:.0f} s")
    print(f"uncaught: {result.uncaught}, taken although changed: {result.taken}")
    return 1 if result.uncaught or result.taken else 0


if __name__ == "__main__":
    sys.exit(main())
