"""Rosters of the control plane on their node: which one is in force, and what changes by another.

A roster is kept as its issuer signed it, so that it counts again after a boot without any link; whether it
does is looked at anew each time: the issuers of the day, the owner, the network, and its end decide.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ambientd.core.records import AuditEntry
from ambientd.core.roster import IN_FUTURE, SKEW_MS, Ground, Roster, judge, read_roster, trusted_by
from ambientd.core.signeditem import SignedItem
from ambientd.flows.peers import Trusting
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction

TAKEN, ENDED = "peers.roster_taken", "peers.roster_ended"
NODE, CONTROL_PLANE = "node", "control-plane"
_NAMED_MAX = 50  # keys of one audit record


class RosterOutcome(NamedTuple):
    """What came of rosters: whether one was taken, and how many were refused."""

    taken: int = 0
    refused: int = 0


class Rosters:
    """Implements `ports.peers.RosterIntake`."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        peers: Trusting,
        ground: Callable[[], Ground],
        now_ms: Callable[[], int],
        wanted: Callable[[], bool],
        refused: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`now_ms` is the latest time that is known; `wanted` whether anybody is trusted by a roster;
        `refused` hears why one is not gone by, `changed` that another look is due at another time."""
        self._store = store
        self._clock = clock
        self._peers = peers
        self._ground = ground
        self._now_ms = now_ms
        self._wanted = wanted
        self._refused = refused
        self._changed = changed
        self._roster: Roster | None = None
        self._look_at_ms: int | None = None

    @property
    def roster(self) -> Roster | None:
        """The one in force."""
        return self._roster

    def look_in_ms(self) -> int | None:
        """When to look again: the one in force ends, or the one that is kept begins. None: never."""
        return None if self._look_at_ms is None else max(0, self._look_at_ms - self._now_ms())

    async def take(self, items: Sequence[SignedItem]) -> RosterOutcome:
        """Takes the newest of these that is newer than the one that is kept. Raises as `Store` does.

        One of the future is kept: it is not told again, and the clock may only be behind.
        """
        found = self._judged(items)
        refused = len(items) - len(found)
        if not found:
            return RosterOutcome(refused=refused)
        revision, item, verdict = max(found, key=lambda one: one[0])
        entry = None
        if isinstance(verdict, Roster):
            entry = self._entry(TAKEN, CONTROL_PLANE, verdict, self._listed(self._roster))
        owner = self._ground().owner

        def work(tx: Transaction) -> bool:
            kept = tx.peers.roster()
            known = None if kept is None else read_roster(kept.body)
            if known is not None and known.owner == owner and known.revision >= revision:
                return False
            tx.peers.put_roster(item, revision, at=self._clock.now())
            if entry is not None:
                tx.audit.append(entry)
            return True

        if not await self._store.write(work):
            return RosterOutcome(refused=refused)
        if isinstance(verdict, Roster):
            self._set(verdict)
        self._changed()
        return RosterOutcome(int(isinstance(verdict, Roster)), refused)

    def _judged(self, items: Sequence[SignedItem]) -> list[tuple[int, SignedItem, Roster | str]]:
        """Those that are kept, with their revisions and what was found."""
        found: list[tuple[int, SignedItem, Roster | str]] = []
        for item in items:
            verdict, read = judge(item, self._ground(), self._now_ms()), read_roster(item.body)
            if isinstance(verdict, str):
                self._refused(verdict)
            if read is not None and (isinstance(verdict, Roster) or verdict == IN_FUTURE):
                found.append((read.revision, item, verdict))
        return found

    async def look(self) -> None:
        """Looks whether the roster that is kept is in force: at the start, after joining or leaving, and when
        one ends. Raises as `Store` does."""
        kept = await self._store.read(lambda tx: tx.peers.roster())
        ground = self._ground()
        found = None if kept is None else judge(kept, ground, self._now_ms())
        self._look_at_ms = _begin_of(kept) if found == IN_FUTURE else None
        if kept is not None and not ground.owner:  # it has left, and what may come next is another fleet's
            await self._store.write(lambda tx: tx.peers.drop_roster())
        if isinstance(found, Roster):
            self._set(found)
            return
        if found is not None:
            self._refused(found)
        if self._roster is not None:
            before = self._listed(self._roster)
            entry = self._entry(ENDED, NODE, self._roster, before, ended=found or "dropped")
            await self._store.write(lambda tx: tx.audit.append(entry))
            self._set(None)

    def _listed(self, roster: Roster | None) -> Mapping[str, str]:
        return trusted_by(roster, own_key=self._peers.own_key) if self._wanted() else {}

    def _set(self, roster: Roster | None) -> None:
        self._roster = roster
        if roster is not None:
            self._look_at_ms = roster.not_after
        listed = self._listed(roster)
        if listed != self._peers.book.listed:
            self._peers.trust_changed(self._peers.book.with_listed(listed))

    def _entry(
        self, kind: str, actor: str, roster: Roster, before: Mapping[str, str], *, ended: str | None = None
    ) -> AuditEntry:
        after = {} if ended is not None else self._listed(roster)
        gained, lost = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
        detail: dict[str, object] = {
            "revision": roster.revision,
            "nodes": len(after),
            "gained": gained[:_NAMED_MAX],
            "lost": lost[:_NAMED_MAX],
        }
        if ended is not None:
            detail["reason"] = ended
        return AuditEntry(kind=kind, at=self._clock.now(), actor=actor, subject=roster.owner, detail=detail)


def _begin_of(item: SignedItem | None) -> int | None:
    """When a roster of the future counts, in milliseconds since 1970."""
    roster = None if item is None else read_roster(item.body)
    return None if roster is None else roster.issued_at - SKEW_MS
