"""The numbers that this node gives to its snapshots: none is ever given twice, also over a crash."""

from collections.abc import Callable

import trio

from ambientd.core.audit import RESTORED
from ambientd.core.peers.floors import SendLine, line_name
from ambientd.ports.store import Store, Transaction

# Written down ahead of use, so that a change does not wait for the disk. A crash loses that many of 2**20.
STRIDE = 1024
LINE_BYTES = 8
RESTORED_SEQ = "peers.restored_seq"


class Counting:
    """This node's line in the store, and the part of it that may be used without asking the store."""

    def __init__(self, store: Store, random_bytes: Callable[[int], bytes]) -> None:
        """Nothing is read before `load`."""
        self._store = store
        self._random_bytes = random_bytes
        self._line = SendLine("")
        self._until = 0
        self._lock = trio.Lock()

    async def load(self, now_ms: int) -> None:
        """Reads the line, or begins one; raises as `Store.write` does."""
        fresh = SendLine(line_name(self._random_bytes(LINE_BYTES)))

        def work(tx: Transaction) -> SendLine:
            line = tx.peers.own_line() or fresh
            restored = next(iter(tx.activity.latest(RESTORED, 1)), None)
            if restored is not None and restored.seq > int(tx.settings.get(RESTORED_SEQ) or 0):
                # Of a backup that was put back: numbers above those that it knows may have been given.
                line = fresh
                tx.settings.put(RESTORED_SEQ, str(restored.seq))
            tx.peers.begin(SendLine(line.line, line.next + STRIDE), now_ms)
            return line

        self._line = await self._store.write(work)
        self._until = self._line.next + STRIDE

    async def take(self) -> tuple[str, int]:
        """A line and a number on it that nobody was ever given; raises as `Store.write` does."""
        async with self._lock:
            spare = line_name(self._random_bytes(LINE_BYTES))
            after, number = self._line.take(spare)
            if after.line != self._line.line or number >= self._until:
                ahead = SendLine(after.line, number + STRIDE)
                await self._store.write(lambda tx: tx.peers.begin(ahead, 0))
                self._until = ahead.next
            self._line = after
            return after.line, number
