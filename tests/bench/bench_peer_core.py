"""What comparing and checking cost two peers, without any socket.

    python tests/bench/bench_peer_core.py [--short]

Sync of many policies: bytes (frames of both directions as they are before sealing) and processor time of both
ends, once when nothing differs and once when one policy does, against sending all of them as snapshots in the
same run. Items of the set and their figures, flat or not with its size. Snapshots: checked a second, against
PyNaCl's bare verification of a signature over the same bytes. Medians; targets: no change ≤ 0.1 % of the
bytes, one change ≤ 1 %, checking ≥ 0.7 of bare verification.
"""

import argparse
import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair  # noqa: E402 - as above

from ambientd.core.itemset import ItemSet  # noqa: E402 - runs without being installed
from ambientd.core.peers.floors import Floors  # noqa: E402
from ambientd.core.signeditem import SignedItem  # noqa: E402
from ambientd.core.snapshot import Checked, Moment, Snapshot, build, check, pack  # noqa: E402
from tests.core.peers.kit import AT_MS, NETWORK, Node, Wire, key_of, seed_of, unsigned_item  # noqa: E402

POLICIES = 10_000
NO_CHANGE, ONE_CHANGE, VERIFY = 0.001, 0.01, 0.7


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def verdict(good: bool) -> str:
    return "ok" if good else "MISSED"


def pair(items: list[SignedItem], lacking: int) -> tuple[Node, Node]:
    """Two nodes, the second without the last items. Their stores take what comes without looking at it."""
    one, other = Node("one", trusts=["other"]), Node("other", trusts=["one"])
    one.genuine_only = other.genuine_only = False
    for node, held in ((one, items), (other, items[: len(items) - lacking])):
        node.items.update({item.item_id: item for item in held})
        node.have.replace(node.items.keys())
    return one, other


def traffic(wire: Wire) -> int:
    return wire.left.wire_bytes + wire.right.wire_bytes


def whole(items: list[SignedItem]) -> tuple[int, float]:
    """Bytes and seconds when everything is sent and checked, in snapshots of the usual size."""
    sender, receiver = Node("one", trusts=["other"]), Node("other", trusts=["one"])
    floors, challenge = Floors(since=0), seed_of("challenge")
    sent = 0

    def work() -> None:
        nonlocal sent
        at, number = 0, 0
        while at < len(items):
            number += 1
            many = pack(items[at : at + 2048], max_bytes=256 * 1024)
            raw = build(
                Snapshot(
                    network=NETWORK,
                    sender=sender.key,
                    label="one",
                    audience=receiver.key,
                    line="0" * 16,
                    sequence=number,
                    issued_at=AT_MS,
                    not_after=AT_MS + 60_000,
                    challenge=challenge,
                    items=tuple(items[at : at + many]),
                ),
                sender.sign,
            )
            reader = receiver.reader()
            result = check(raw, reader=reader, floors=floors, moment=Moment(0.0, AT_MS), challenge=challenge)
            assert isinstance(result, Checked)
            for item in result.snapshot.items:
                receiver.put(item)
            sent += len(raw)
            at += many

    took = seconds(work)
    return sent, took


def compare_syncs(count: int, repeats: int) -> bool:
    items = [unsigned_item(number) for number in range(count)]
    all_bytes, all_seconds = whole(items)
    print(f"{count} policies: everything {all_bytes:,} bytes, {all_seconds * 1e3:.0f} ms of both ends")
    good = True
    for name, lacking, target in (("no change", 0, NO_CHANGE), ("one change", 1, ONE_CHANGE)):
        sizes, times = [], []
        for _ in range(repeats):
            wire = Wire(*pair(items, 0)).open()
            left, right = wire.left.node, wire.right.node
            if lacking:
                gone = items[-1].item_id
                right.items.pop(gone)
                right.have.discard(gone)
            before = traffic(wire)

            def work(wire: Wire = wire) -> None:
                wire.right.do(wire.right.link.sync(0.0))
                wire.run()

            times.append(seconds(work))
            sizes.append(traffic(wire) - before)
            assert left.have.root == right.have.root
        size, took = statistics.median(sizes), statistics.median(times)
        share = size / all_bytes
        good &= share <= target
        print(
            f"  {name}: {size:,.0f} bytes = {share:.4%} of everything (target {target:.1%} "
            f"{verdict(share <= target)}), {took * 1e3:.2f} ms = {took / all_seconds:.2%}"
        )
    return good


def measure_set(sizes: tuple[int, ...]) -> None:
    """One change and the root after it, by the size of the set."""
    for size in sizes:
        one = ItemSet(hashlib.sha256(str(number).encode()).digest() for number in range(size))
        new = [hashlib.sha256(f"new {number}".encode()).digest() for number in range(2_000)]
        began = time.process_time()
        for item_id in new:
            one.add(item_id)
        adding = (time.process_time() - began) / len(new)
        assert len(one.root) == 32
        roots = []
        for item_id in new[:50]:
            one.discard(item_id)
            began = time.perf_counter()
            assert one.root
            roots.append(time.perf_counter() - began)
        held = sum(sys.getsizeof(bucket) for bucket in one._buckets)
        print(
            f"  set of {size:,}: add {adding * 1e6:.1f} µs, root after a change "
            f"{statistics.median(roots) * 1e6:.0f} µs, {held / 1024:,.0f} KiB"
        )


def measure_checks(repeats: int, rounds: int) -> bool:
    """Checks a second against bare verification of the same bytes, in turn within each round."""
    reader = Node("other", trusts=["one"]).reader()
    floors, challenge = Floors(since=0), seed_of("challenge")
    public, secret = crypto_sign_seed_keypair(seed_of("one"))
    good = True
    for count in (1, 30, 480):
        raw = build(
            Snapshot(
                network=NETWORK,
                sender=key_of("one"),
                label="one",
                audience=key_of("other"),
                line="0" * 16,
                sequence=1,
                issued_at=AT_MS,
                not_after=AT_MS + 60_000,
                challenge=challenge,
                items=tuple(unsigned_item(number) for number in range(count)),
            ),
            Node("one").sign,
        )
        signature = crypto_sign(raw, secret)[:64]
        moment = Moment(0.0, AT_MS)

        def ours(raw: bytes = raw, moment: Moment = moment) -> None:
            for _ in range(repeats):
                result = check(raw, reader=reader, floors=floors, moment=moment, challenge=challenge)
                assert isinstance(result, Checked)

        def bare(raw: bytes = raw, signature: bytes = signature) -> None:
            for _ in range(repeats):
                crypto_sign_open(signature + raw, public)

        ratios, rates = [], []
        for _ in range(rounds):
            slow, fast = seconds(ours), seconds(bare)
            ratios.append(fast / slow)
            rates.append(repeats / slow)
        ratio = statistics.median(ratios)
        good &= ratio >= VERIFY
        print(
            f"  snapshot of {count} items, {len(raw):,} bytes: {statistics.median(rates):,.0f} checks/s, "
            f"{ratio:.2f} of bare verification (target {VERIFY} {verdict(ratio >= VERIFY)})"
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="fewer repeats")
    short = parser.parse_args().short
    good = compare_syncs(POLICIES, 3 if short else 7)
    measure_set((1_000, 20_000) if short else (1_000, 10_000, 20_000, 200_000))
    good &= measure_checks(100 if short else 300, 5 if short else 15)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
