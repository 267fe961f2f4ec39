"""Signs the head of the audit chain as it grows, and holds the chain against what was signed before.

A checkpoint is made every 100 records, ten minutes after the first new one, and when the node stops. Before
one is signed the records behind the last one are checked, so nothing is ever signed over a break.
"""

from collections.abc import Callable

import trio

from ambientd.core.audit import BEGINNING, Break, KnownBreak, Place
from ambientd.core.ed25519 import show_key
from ambientd.core.health import WARNING
from ambientd.core.records import AuditEntry
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows import audit as flow
from ambientd.flows.audit import Auditing, Found, Look, Signed
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.store import Transaction
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log
from ambientd.wire.audit_messages import AuditAcceptAnswer
from ambientd.wire.autonomy_messages import AuditStatus
from ambientd.wire.messages import Problem

EVERY_RECORDS = 100
EVERY_SEC = 600.0
# A chain that does not grow is still held against its checkpoint so often.
LOOK_SEC = 3600.0
AGAIN_SEC = 60.0  # after the store or the disk failed
STOP_SEC = 3.0  # for the last checkpoint
# Records checked at a time, with a rest between: nothing else of this process waits for it.
STRETCH = 2_000
REST_SEC = 0.01

FAILURES = (StoreError, UnavailableError, OSError)


class AuditHead:
    """Where the chain ends, told by the store after every commit that appended; implements `NewHead`.

    A number that was given before says that records were taken away meanwhile: `fell` keeps the first one.
    """

    def __init__(self) -> None:
        self.seq = 0
        # Where the chain ended when the store was opened, until somebody has looked at that.
        self.opened: int | None = None
        self._told = False
        self.fell: tuple[int, int] | None = None
        self.bell = Bell()

    def moved(self, seq: int) -> None:
        """The last record is now `seq`."""
        if not self._told:
            self.opened, self._told = seq, True
        elif seq <= self.seq and self.fell is None:
            self.fell = seq, self.seq
        self.seq = seq
        self.bell.ring()


class AuditService:
    """Looks after the chain; tells in the status where it does not hold."""

    def __init__(self, auditing: Auditing, *, head: AuditHead, changed: Callable[[], None], log: Log) -> None:
        self._auditing = auditing
        self._head = head
        self._changed = changed
        self._log = log
        self._place: Place | None = None  # the chain was seen to hold up to here
        self._looked = False
        self._signed = 0
        self._new_since: float | None = None  # when the first record behind the last checkpoint was seen
        self._look_at = 0.0
        self._again_at: float | None = None
        self._breaks: tuple[KnownBreak, ...] = ()
        self._pruned = 0
        self._acknowledged = 0
        self._failing: str | None = None  # the store or the disk
        self._unsigned: str | None = None  # why there are no checkpoints

    # --- what the status and the routes use

    def status(self) -> AuditStatus | None:
        """The chain as it was last seen; None before that, unless it cannot be seen."""
        if not self._looked and self._failing is None:
            return None
        broken = self._open_break()
        return AuditStatus(
            records=max(0, self._head.seq - self._pruned),
            head_seq=self._head.seq,
            checkpoint_seq=self._signed,
            acknowledged_seq=self._acknowledged,
            broken_at=None if broken is None else broken.seq,
            reason=self._failing or self._unsigned if broken is None else broken.reason,
        )

    def problems(self) -> list[Problem]:
        """What a person should look at; a key that cannot sign is told of by the identity.

        A warning: the node works, as it does with a database that was lost, until somebody has looked.
        """
        broken = self._open_break()
        if broken is None and self._failing is not None:
            return [Problem("audit.failing", WARNING, f"audit: {self._failing}", "ambientctl audit verify")]
        if broken is None:
            return []
        text = f"the audit chain does not hold at record {broken.seq}: {broken.reason}"
        return [Problem("audit.broken", WARNING, text, "ambientctl audit verify")]

    def _open_break(self) -> KnownBreak | None:
        still = [one for one in self._breaks if one.accepted_at is None]
        return min(still, key=lambda one: one.seq, default=None)

    async def note(self, found: Break) -> None:
        """A verification found a break. Raises what `Store.write` raises."""
        await self._note(Found(found))

    async def accept(self, actor: str) -> AuditAcceptAnswer:
        """Marks open breaks as looked into. Raises what `Store.write` raises."""
        answer = await flow.accept(self._auditing, actor=actor)
        await self._read_breaks()
        return answer

    def retry(self) -> None:
        """The node's key may be used again, or is another one: signs soon."""
        self._unsigned = None
        self._sign_soon()
        self._head.bell.ring()

    # --- its life

    async def run(self) -> None:
        """Runs until cancelled; then signs what is new, in a bounded time."""
        try:
            while True:
                await self._turn()
                await self._head.bell.wait(self._due())
        finally:
            with trio.move_on_after(STOP_SEC, shield=True):
                await self._last()

    def _due(self) -> float:
        """When something is to be done without a new record."""
        if self._again_at is not None:
            return self._again_at
        signs_at = float("inf") if self._new_since is None else self._new_since + EVERY_SEC
        return min(signs_at, self._look_at)

    async def _turn(self) -> None:
        now = trio.current_time()
        if self._again_at is not None and now < self._again_at:
            return
        self._again_at, failing = None, None
        try:
            await self._step(now)
        except FAILURES as error:
            self._again_at, failing = now + AGAIN_SEC, f"the chain cannot be looked after: {_words(error)}"
        if failing != self._failing:
            self._failing = failing
            if failing is not None:
                self._log.warning("audit.failing", reason=failing)
            self._changed()

    async def _step(self, now: float) -> None:
        if self._place is None or now >= self._look_at:
            await self._look()
            self._look_at = now + LOOK_SEC
        if self._head.fell is not None:
            seq, before = self._head.fell
            await self._note(Found(Break(seq, f"records {seq} to {before} were there, and are not any more")))
            self._head.fell = None
        if self._head.seq <= self._signed:
            self._new_since = None
            return
        if self._new_since is None:
            self._new_since = now
        if self._head.seq - self._signed >= EVERY_RECORDS or now >= self._new_since + EVERY_SEC:
            await self._checkpoint()

    # --- looking

    async def _look(self) -> None:
        auditing = self._auditing
        note = await auditing.file.read()
        opened = self._head.opened
        seen = await auditing.store.read(lambda tx: flow.look(tx, note, auditing.identity, opened=opened))
        self._signed, self._pruned, self._acknowledged = seen.signed, seen.pruned, seen.acknowledged
        self._breaks = seen.breaks
        if self._place is None or self._place.seq < seen.pruned:
            self._place = seen.place
        for found in seen.found:
            await self._note(found)
        await self._tidy_file(seen, note)
        if not seen.known:
            await self._tell_other_key(seen)
        await self._walk()
        self._looked, self._head.opened = True, None
        self._changed()

    async def _tidy_file(self, seen: Look, note: str | None) -> None:
        """A file of a chain that a backup has replaced, or that contradicts the records, makes room for the
        next checkpoint; its note is in the database."""
        contradicts = note is not None and any(found.note == note for found in seen.found)
        if seen.replaced or contradicts:
            stamp = rfc3339_ms(self._auditing.clock.now()).translate(str.maketrans("", "", "-:."))
            await self._auditing.file.set_aside("broken" if contradicts else "restored", stamp)
            self._sign_soon()

    def _sign_soon(self) -> None:
        """The next checkpoint is due at once."""
        self._signed, self._new_since = 0, float("-inf")

    async def _tell_other_key(self, seen: Look) -> None:
        auditing = self._auditing
        signer, own = seen.signer or b"", seen.own or b""
        entry = AuditEntry(
            kind="identity.other_key",
            at=auditing.clock.now(),
            actor=flow.ACTOR,
            subject=flow.NODE,
            detail={"key": show_key(own), "signed_by": show_key(signer), "checkpoint_seq": seen.signed},
        )
        await auditing.store.write(lambda tx: tx.audit.append(entry))
        self._log.warning("audit.other_key", checkpoint_seq=seen.signed, signed_by=show_key(signer))
        self._sign_soon()

    async def _walk(self) -> None:
        """Goes on to the end from where the chain was last seen to hold."""
        ended = False
        while not ended:
            place = self._place or BEGINNING
            self._place, bad, ended = await self._auditing.store.read(
                lambda tx: flow.walk_on(tx, place, STRETCH)  # noqa: B023 - called before the next turn
            )
            if bad is not None:
                await self._note(Found(bad))
            if not ended:
                await trio.sleep(REST_SEC)

    async def _note(self, found: Found) -> None:
        """Notes a break; from here on the chain is checked behind the record that tells of it."""
        at = self._auditing.clock.now()

        def work(tx: Transaction) -> tuple[bool, Place]:
            return flow.note_break(tx, found, at), tx.audit.head()

        is_new, self._place = await self._auditing.store.write(work)
        if is_new:
            self._log.error("audit.broken", seq=found.at.seq, reason=found.at.reason)
        await self._read_breaks()

    async def _read_breaks(self) -> None:
        self._breaks = tuple(await self._auditing.store.read(lambda tx: tx.audit.breaks()))
        self._changed()

    # --- signing

    async def _checkpoint(self) -> None:
        if self._auditing.identity.problem is not None:
            self._new_since = trio.current_time()  # again in ten minutes
            self._unsigned = "no checkpoints are signed: the node's key may not be used"
            self._changed()
            return
        made = await self._sign()
        if isinstance(made, Found):
            await self._note(made)
            made = await self._sign()
        if isinstance(made, Signed):
            self._place, self._signed, self._new_since = made.place, made.place.seq, None
            await self._auditing.file.write(made.note)
            self._unsigned = None
        await self._refresh()

    async def _sign(self) -> Signed | Found | None:
        await self._walk()
        place, at = self._place or BEGINNING, self._auditing.clock.now()
        identity = self._auditing.identity
        return await self._auditing.store.write(lambda tx: flow.sign_head(tx, place, identity, at))

    async def _refresh(self) -> None:
        state = await self._auditing.store.read(lambda tx: tx.audit.state())
        self._pruned, self._acknowledged = state.pruned.seq, state.acknowledged_seq
        self._changed()

    async def _last(self) -> None:
        if self._place is None or self._head.seq <= self._signed:
            return
        try:
            await self._checkpoint()
        except FAILURES as error:
            self._log.warning("audit.not_signed_at_stop", reason=_words(error))


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)
