"""What the peers leave in the store besides policies: refusals in the audit, and when they were there."""

from collections.abc import Callable
from datetime import datetime

import trio

from ambientd.core.peerbook import PeerSeen
from ambientd.core.peerrefusals import RefusalBook, Told
from ambientd.core.records import AuditEntry
from ambientd.core.text import printable
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.store import Store, Transaction
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log

KIND = "peer_sync_refused"
ORDER = "control.sync"
TEXT_MAX = 200
# Records wait here while the store is away; more of them are counted and told with the next.
WAITING_MAX = 64
AGAIN_SEC = 10.0
# A comparison that changed nothing is written down so often; ends of links always are.
SEEN_EVERY_SEC = 600.0
LAST_WORD_SEC = 2.0


class Records:
    """Writes behind the links' backs; nothing of it is waited for by them."""

    def __init__(self, *, store: Store, clock: Clock, log: Log) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self.refusals = RefusalBook()
        self._told: list[tuple[Told, datetime]] = []
        self._dropped = 0
        self._seen: dict[str, PeerSeen] = {}
        self._seen_due = float("inf")
        self._bell = Bell()
        self._failed = False

    def refused(self, sender: str, reason: str, text: str) -> None:
        """Counts a refusal; the first of its kind is logged and recorded at once. Never blocks."""
        told = self.refusals.note(sender, reason, text, trio.current_time())
        if told is not None:
            self._keep([told])
        self._bell.ring()

    def _keep(self, every: list[Told]) -> None:
        for told in every:
            self._log.warning(
                "peers.refused",
                sender=told.sender,
                reason=told.reason,
                count=told.count,
                text=printable(told.text)[:TEXT_MAX],
            )
            if len(self._told) < WAITING_MAX:
                self._told.append((told, self._clock.now()))
            else:
                self._dropped += told.count

    def seen(self, peer: PeerSeen, *, soon: bool) -> None:
        """When a peer was there; written now or, when nothing hangs on it, some time."""
        self._seen[peer.key] = peer
        due = trio.current_time() + (0.0 if soon else SEEN_EVERY_SEC)
        self._seen_due = min(self._seen_due, due)
        self._bell.ring()

    async def ordered(self, actor: str, *, dry_run: bool) -> None:
        """Records that an operator has asked for a round, before it begins; raises as `Store.write` does."""
        detail = {"dry_run": dry_run}
        entry = AuditEntry(kind=ORDER, at=self._clock.now(), actor=actor, subject="peers", detail=detail)
        await self._store.write(lambda tx: tx.audit.append(entry))

    async def run(self) -> None:
        """Until cancelled; what waits then is written once more."""
        try:
            while True:
                self._keep(self.refusals.due(trio.current_time()))
                await self._write(all_of_it=False)
                await self._bell.wait(self._next())
        finally:
            with trio.move_on_after(LAST_WORD_SEC, shield=True):
                self._keep(self.refusals.due(trio.current_time(), all_of_it=True))
                await self._write(all_of_it=True)

    def _next(self) -> float | None:
        now = trio.current_time()
        if self._failed:
            return now + AGAIN_SEC
        summary = self.refusals.next_due()
        due = min(self._seen_due, float("inf") if summary is None else summary)
        return None if due == float("inf") else due

    async def _write(self, *, all_of_it: bool) -> None:
        told, dropped = list(self._told), self._dropped
        seen = list(self._seen.values()) if all_of_it or trio.current_time() >= self._seen_due else []
        if not (told or seen):
            return
        work = _work(told, dropped, seen)
        try:
            await self._store.write(work)
        except (StoreError, UnavailableError) as error:
            if not self._failed:
                self._log.warning("peers.not_recorded", reason=str(error))
            self._failed = True
            return
        self._failed = False
        self._told = self._told[len(told) :]
        self._dropped -= dropped
        if seen:
            self._seen, self._seen_due = {}, float("inf")


def _work(
    told: list[tuple[Told, datetime]], dropped: int, seen: list[PeerSeen]
) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        for one, at in told:
            detail: dict[str, object] = {
                "sender": one.sender,
                "reason": one.reason,
                "count": one.count,
                "text": printable(one.text)[:TEXT_MAX],
            }
            if dropped:
                detail["unrecorded"] = dropped
            entry = AuditEntry(
                kind=KIND, at=at, actor=f"peer:{one.sender}", subject=one.sender, detail=detail
            )
            tx.audit.append(entry)
        for peer in seen:
            tx.peers.put_seen(peer)

    return work
