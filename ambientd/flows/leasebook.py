"""The active leases in memory: how long they last, what they have used, and what is kept of that.

Bytes are accounted for ahead of their use, some seconds' worth in one write. So not every message needs a
write, and a crash can only make a lease smaller.
"""

from collections.abc import Callable, Iterator

import msgspec

from ambientd.core.audit import RESTORED
from ambientd.core.denials import Denials
from ambientd.core.lease import BYTES_PER_MS, Held, Lease, Refusal, allowance, rebased
from ambientd.core.leaserecords import LeaseRow
from ambientd.core.trustedtime import Trusted
from ambientd.flows.trustedtime import KeptTime
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction

AHEAD_MS = 5_000  # of traffic at the lease's rate, accounted for in one write
AHEAD_MIN = 64 * 1024
SINCE = "leases.since_ms"
RESTORED_SEQ = "leases.restored_seq"
FORGOTTEN = "leases.forgotten_ms"


class Live:
    """One active lease. `used` bytes were allowed, of `accounted` ones that are kept."""

    __slots__ = (
        "accounted",
        "activated_at",
        "calls",
        "closing",
        "denied",
        "held",
        "issuer",
        "told",
        "told_at",
        "used",
    )

    def __init__(self, row: LeaseRow, now: float) -> None:
        """`now` is monotonic, in seconds."""
        held = row.held
        self.held = held
        self.issuer = row.issuer
        self.activated_at = row.activated_at
        self.used = self.accounted = self.told = held.bytes
        self.denied = held.denied
        self.calls = 0
        self.told_at = now
        self.closing = False

    @property
    def lease(self) -> Lease:
        """What its issuer signed."""
        return self.held.lease

    def figures(self, time: Trusted, *, count: int | None = None) -> Held:
        """What is kept of this moment; `count` bytes instead of those used."""
        held = rebased(self.held, time)
        return msgspec.structs.replace(held, bytes=self.used if count is None else count, denied=self.denied)

    def settle(self, time: Trusted) -> None:
        """After a start of the machine: the duration is counted on by the boot clock."""
        if self.held.boot_id != time.boot_id:
            self.held = rebased(self.held, time)


class LeaseBook:
    """All active leases of this node, and what the flows around them share."""

    def __init__(self, *, store: Store, time: KeptTime, clock: Clock) -> None:
        """`clock` gives the time of records and the monotonic one of counts."""
        self.store = store
        self.time = time
        self.clock = clock
        self.denials = Denials()
        self._live: dict[str, Live] = {}
        self._loaded = False

    async def ensure(self) -> None:
        """Reads what is active, once. Raises as `Store` does."""
        if self._loaded:
            return
        await self.time.load(self.store)
        rows, lost = await self.store.read(lambda tx: (tx.leases.active(), self._lost(tx)))
        if lost is not None:
            await self.store.write(lost)
        if self._is_loaded():  # somebody else was faster
            return
        self._loaded = True
        for row in rows:
            self.add(row)

    def forget(self) -> None:
        """What is active is read anew at the next `ensure`; who still holds one of before is told that it has
        ended."""
        self._live.clear()
        self._loaded = False

    def _lost(self, tx: Transaction) -> Callable[[Transaction], None] | None:
        """What to write when this database does not know all leases that were used: it stands for a damaged
        one, or was put back from a backup. None when it does."""
        restored = next(iter(tx.activity.latest(RESTORED, 1)), None)
        seq = 0 if restored is None else restored.seq
        if tx.settings.get(SINCE) is not None and number_at(tx, RESTORED_SEQ) >= seq:
            return None
        degraded = self.store.facts().degraded is not None
        since = self.time.look().now_ms if restored is not None or degraded else 0

        def put(tx: Transaction) -> None:
            tx.settings.put(SINCE, str(max(since, number_at(tx, SINCE))))
            tx.settings.put(RESTORED_SEQ, str(seq))

        return put

    def _is_loaded(self) -> bool:
        return self._loaded

    def add(self, row: LeaseRow) -> Live:
        """An active lease that is kept."""
        live = Live(row, self.clock.monotonic())
        live.settle(self.time.look())
        self._live[row.lease.jti] = live
        return live

    def is_open(self, live: Live) -> bool:
        """Whether a lease is still active, and not just ending."""
        return self._live.get(live.lease.jti) is live and not live.closing

    def remove(self, live: Live) -> None:
        """A lease has ended."""
        if self._live.get(live.lease.jti) is live:
            del self._live[live.lease.jti]
            self.denials.forget(live.lease.jti)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    def get(self, jti: str) -> Live | None:
        """An active lease by its whole id."""
        return self._live.get(jti)

    def of_session(self, session_id: str) -> Live | None:
        """The active lease of a session."""
        return next((live for live in self._live.values() if live.lease.session_id == session_id), None)

    @property
    def bytes(self) -> int:
        """What active leases have used."""
        return sum(live.used for live in self._live.values())

    async def account(self, live: Live, count: int, time: Trusted) -> Refusal | None:
        """Allows so many bytes more, or says why not. Raises as `Store` does, and allows nothing then."""
        lease = live.lease
        held = live.figures(time)
        if live.used + count > allowance(lease, held.elapsed_ms):
            return Refusal("bandwidth")
        live.used += count
        live.calls += 1
        if live.used <= live.accounted:
            return None
        ahead = max(AHEAD_MIN, lease.max_mbps * BYTES_PER_MS * AHEAD_MS)
        goal = max(live.used, min(live.used + ahead, allowance(lease, lease.max_duration_ms)))
        figures, kept = live.figures(time, count=goal), False
        try:
            await self.store.write(lambda tx: tx.leases.save(figures))
            kept = True
        finally:
            if not kept:  # nobody was told that these may be sent
                live.used -= count
        live.accounted = max(live.accounted, goal)
        return None


def number_at(tx: Transaction, name: str) -> int:
    """A number among the settings, 0 when it was never set."""
    return int(tx.settings.get(name) or 0)
