"""The policy cache: signed policies come in from the control plane, an operator's file and peers, and are
asked for by whoever wants to let traffic out and by peers.

Only ids are in memory; everything else is looked up in the store by host, so that many policies cost little.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ambientd.core.connectivity import Action
from ambientd.core.destination import host_keys
from ambientd.core.idlebook import IdleBook
from ambientd.core.policy import Policy, Tombstone, Verdict, judge, parse_body, read_destination
from ambientd.core.policymerge import (
    UNKNOWN,
    Candidate,
    Known,
    Outcome,
    Refused,
    Trust,
    Way,
    examine,
    settle,
    step,
)
from ambientd.core.policyrecords import PolicyQuery, PolicyRecord, PolicyTotals, record_of
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected
from ambientd.core.signeditem import SignedItem
from ambientd.core.text import printable
from ambientd.core.timefmt import from_ms, parse_rfc3339, rfc3339_ms, to_ms
from ambientd.ports.autonomy import ConnectivityView, Merge, TrustedClock
from ambientd.ports.store import Store, Transaction

SENDER_MAX = 128
AUDITED_IDS_MAX = 20  # named in one audit record; all are counted
# One transaction; what is more waits, so that no writer waits long behind it.
SWEEP_MAX = 500
ITEMS_MAX = 5000  # of one call: more come in several
# Of imports of one peer that changed nothing so many are recorded at once, then one in that time: a peer that
# brings what is refused, or known, as fast as it can must not fill the chain. All are counted.
IDLE_AT_ONCE, IDLE_EVERY_MS = 60, 60_000
IDLE_SENDERS_MAX = 1024  # as many as can be trusted
_CHANGED, _GENERATION = "policies.changed_at", "policies.generation"
_CHANGES = (Outcome.ADDED, Outcome.REPLACED, Outcome.REMOVED, Outcome.HELD)


class ItemReport(NamedTuple):
    """What became of one item; `policy_id` and `revision` are unknown for one that was not read."""

    item_id: bytes
    outcome: Outcome
    code: str = ""
    detail: str = ""
    policy_id: str = ""
    revision: int = 0
    is_tombstone: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds, from memory."""

    totals: PolicyTotals
    changed_at: datetime | None = None


class _Loaded(NamedTuple):
    generation: int
    ids: list[bytes]
    expiries: "array[int]"
    facts: Facts


class PolicyCache:
    """Implements `ports.autonomy.PolicyItems`, and is the one way to change and to ask policies.

    `issuers` are the keys whose items count. `changed` tells that the status may look different, `stale`
    that what is in memory should be read again (by the service that owns that).
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: TrustedClock,
        links: ConnectivityView,
        network: str | Callable[[], str],
        issuers: Callable[[], Collection[bytes]],
        max_items: int,
        changed: Callable[[], None],
        stale: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._links = links
        self._named = network
        self._issuers = issuers
        self._max_items = max_items
        self._changed = changed
        self._stale = stale
        self._ids: frozenset[bytes] = frozenset()
        self._idle = IdleBook(at_once=IDLE_AT_ONCE, every_ms=IDLE_EVERY_MS, senders=IDLE_SENDERS_MAX)
        self._gone = 0  # how many of those that are loaded are not among the ids
        self._loaded = _Loaded(-1, [], array("q"), Facts(totals=PolicyTotals()))

    @property
    def _network(self) -> str:
        """The fleet whose items count at the moment."""
        return self._named if isinstance(self._named, str) else self._named()

    # --- from memory

    def ids(self) -> frozenset[bytes]:
        """Ids of the items that peers are told of, without those that have expired."""
        loaded = self._loaded
        # Counted anew each time: a wall clock that was wrong may say that they are valid again.
        gone = bisect_right(loaded.expiries, self._now())
        if gone != self._gone:
            self._ids, self._gone = frozenset(loaded.ids[gone:]), gone
        return self._ids

    @property
    def is_loaded(self) -> bool:
        """Whether `ids` and `facts` say anything: they are read when the store is ready."""
        return self._loaded.generation >= 0

    @property
    def facts(self) -> Facts:
        """Figures as of the last change."""
        return self._loaded.facts

    @property
    def due(self) -> int | None:
        """When the next item expires (ms since 1970)."""
        return self._loaded.facts.totals.next_expiry

    def _now(self) -> int:
        return to_ms(self._clock.now())

    def _reached(self) -> int:
        return to_ms(self._clock.reached())

    # --- for peers

    async def items(self, ids: Sequence[bytes]) -> list[SignedItem]:
        """These items, without those that are gone."""
        wanted = list(ids[:ITEMS_MAX])
        return await self._store.read(lambda tx: tx.policies.items(wanted))

    async def take(
        self,
        sender: str,
        items: Sequence[SignedItem],
        *,
        dry_run: bool = False,
        first: Callable[[Transaction], None] | None = None,
    ) -> Merge:
        """Merges a peer's items without ever changing or removing an entry of this node.

        One audit record in the same transaction: `peer_sync_applied`, also when nothing was new, or
        `peer_sync_refused` when nothing could be taken. Raises what the store raises; nothing is kept then.
        `first` is done in the same transaction, before the items; of a dry run it alone is kept.
        """
        merge = _Merging(Way.PEER, printable(sender)[:SENDER_MAX], decides=False, dry_run=dry_run)
        reports, recorded = await self._merge(items, merge, first)
        refused = tuple((one.item_id.hex(), one.code) for one in reports if one.outcome is Outcome.REFUSED)
        added = sum(one.outcome is Outcome.ADDED for one in reports)
        return Merge(
            added=added, kept=len(reports) - added - len(refused), refused=refused, recorded=recorded
        )

    # --- for the control plane and operators

    async def update(
        self, items: Sequence[SignedItem], *, actor: str, dry_run: bool = False
    ) -> list[ItemReport] | Rejected:
        """What the control plane says: higher revisions replace, tombstones remove. Refused while the node is
        not online: the cache is read-only then (R1.54)."""
        if not self._links.may(Action.WRITE_POLICIES):
            return self.read_only()
        merge = _Merging(Way.CONTROL_PLANE, actor[:SENDER_MAX], decides=True, dry_run=dry_run)
        return (await self._merge(items, merge))[0]

    async def bring(
        self, items: Sequence[SignedItem], *, actor: str, dry_run: bool = False
    ) -> list[ItemReport]:
        """What an operator brings as a file: as from the control plane while the node is online; else new
        policies are added, and what would change others is held."""
        decides = self._links.may(Action.WRITE_POLICIES)
        merge = _Merging(Way.OPERATOR, actor[:SENDER_MAX], decides=decides, dry_run=dry_run)
        return (await self._merge(items, merge))[0]

    @property
    def may_change(self) -> bool:
        """Whether what is in force may be replaced and removed at the moment."""
        return self._links.may(Action.WRITE_POLICIES)

    def read_only(self) -> Rejected:
        """The refusal to change what is in force."""
        return Rejected(
            "POLICIES_READ_ONLY",
            f"policies are not changed while the node is {self._links.state}; new ones may be added",
        )

    # --- asking

    async def check(
        self,
        destination: str,
        protocol: str | None = None,
        *,
        policy_id: str | None = None,
        address: str | None = None,
    ) -> Verdict:
        """Whether a policy in force, or this one, allows a destination now; the links are not asked.

        `address`: what the name was resolved to by whoever is about to connect.
        """
        read = read_destination(destination, protocol)
        if isinstance(read, Verdict):
            return read
        now, issuers = self._now(), self._issuers()

        def work(tx: Transaction) -> Verdict:
            bodies = tx.policies.candidates(list(host_keys(read.host)), issuers, policy_id)
            policies = (one for one in map(parse_body, bodies) if isinstance(one, Policy))
            verdict = judge(policies, read, now, address=address)
            if verdict.reason != "no_policy":
                return verdict
            if policy_id is not None:
                return msgspec.structs.replace(verdict, reason="policy_unknown")
            any_policy = tx.policies.totals(issuers, now).policies
            return msgspec.structs.replace(verdict, reason="not_listed") if any_policy else verdict

        return await self._store.read(work)

    async def policy(self, policy_id: str) -> Policy | None:
        """The policy in force under an id; None when there is none, or it is not valid now."""
        issuers, now = self._issuers(), self._now()
        found = await self._store.read(lambda tx: list(tx.policies.candidates((), issuers, policy_id)))
        content = parse_body(found[0]) if found else None
        valid = isinstance(content, Policy) and content.not_before <= now < content.not_after
        return content if isinstance(content, Policy) and valid else None

    async def show(self, policy_id: str) -> list[PolicyRecord]:
        """The items of one policy, the one in force first."""
        issuers = self._issuers()
        return await self._store.read(lambda tx: tx.policies.get(policy_id, issuers))

    async def page(self, query: PolicyQuery) -> tuple[list[list[PolicyRecord]], PolicyTotals]:
        """Policies by id, and figures over all of them at that moment."""
        issuers, now = self._issuers(), self._now()
        return await self._store.read(
            lambda tx: (tx.policies.page(query, issuers), tx.policies.totals(issuers, now))
        )

    # --- its life

    async def load(self) -> None:
        """Reads ids and figures; what is in memory already stays when it is newer."""
        now, reached, issuers = self._now(), self._reached(), self._issuers()

        def work(tx: Transaction) -> _Loaded:
            ids: list[bytes] = []
            expiries = array("q")
            for item_id, not_after in tx.policies.exposed(issuers):
                if not_after > reached:
                    ids.append(item_id)
                    expiries.append(not_after)
            changed = tx.settings.get(_CHANGED)
            facts = Facts(
                totals=tx.policies.totals(issuers, now),
                changed_at=None if changed is None else parse_rfc3339(changed),
            )
            return _Loaded(int(tx.settings.get(_GENERATION) or 0), ids, expiries, facts)

        loaded = await self._store.read(work)
        if loaded.generation >= self._loaded.generation:
            self._loaded, self._ids, self._gone = loaded, frozenset(loaded.ids), 0
            self._changed()

    async def sweep(self) -> int:
        """Drops what has certainly expired; what was held behind it takes its place.

        Returns how many policies were looked at; when it is `SWEEP_MAX`, more wait."""
        at, issuers, now = self._clock.now(), self._issuers(), self._reached()

        def work(tx: Transaction) -> int:
            due = tx.policies.due(now, SWEEP_MAX)
            known = tx.policies.known(due, issuers)
            promoted = []
            for policy_id in due:
                before = known.get(policy_id, UNKNOWN)
                after = settle(before, now)
                tx.policies.save(policy_id, after, ())
                if after.in_force is not None and after.in_force != before.in_force:
                    promoted.append(policy_id)
            if due:
                detail = {"policies": len(due), "promoted": promoted[:AUDITED_IDS_MAX]}
                self._note(tx, "policies_expired", at, actor="node", detail=detail)
                _mark_changed(tx, at)
            tx.policies.forget(now)
            return len(due)

        found = await self._store.write(work)
        if found:
            await self.load()
        return found

    # --- merging

    async def _merge(
        self,
        items: Sequence[SignedItem],
        merge: "_Merging",
        first: Callable[[Transaction], None] | None = None,
    ) -> tuple[list[ItemReport], bool]:
        """What became of each item, and whether the audit has a record of it."""
        if len(items) > ITEMS_MAX:
            raise ValueError(f"more than {ITEMS_MAX} items in one call")
        at, issuers = self._clock.now(), self._issuers()
        trust = Trust(
            network=self._network, issuers=issuers, now=to_ms(at), doubt=self._clock.doubt is not None
        )
        reached = self._reached()
        # Signatures take their time: in a reader's thread, not in the loop and not in the writer.
        examined = await self._store.read(lambda _: _examined(items, trust))
        allowed = merge.decides or self._links.may(Action.ADD_POLICIES)
        recorded: list[bool] = []

        def work(tx: Transaction) -> list[ItemReport]:
            if first is not None and not merge.dry_run:
                first(tx)
            board = _Board(tx, trust, merge, reached=reached, max_items=self._max_items)
            board.load(examined)
            reports = [board.place(item_id, one, allowed=allowed) for item_id, one in board.ordered(examined)]
            if not merge.dry_run:
                board.save(at)
                recorded.append(self._record(tx, merge, reports, trust, reached))
            return board.in_order_of(examined, reports)

        if merge.dry_run:
            if first is not None:
                await self._store.write(first)
            return await self._store.read(work), True
        changes = False
        try:
            reports = await self._store.write(work)
            changes = any(report.outcome in _CHANGES for report in reports)
            if changes:
                await self.load()
                changes = False
        finally:
            if changes:  # committed, but not read again: cancelled, or the store failed in between
                self._stale()
        return reports, recorded[0]

    def _record(
        self, tx: Transaction, merge: "_Merging", reports: Sequence[ItemReport], trust: Trust, reached: int
    ) -> bool:
        """Tells the audit, unless a peer brings nothing so often that it is only counted."""
        detail = merge.detail(reports)
        if merge.way is Way.PEER:
            idle = not any(report.outcome in _CHANGES for report in reports)
            before = self._idle.note(merge.sender, reached, idle=idle)
            if before is None:
                return False
            detail |= {"unrecorded": before} if before else {}
        self._note(tx, merge.kind(reports), from_ms(trust.now), actor=merge.actor, detail=detail)
        return True

    def _note(
        self, tx: Transaction, kind: str, at: datetime, *, actor: str, detail: dict[str, object]
    ) -> None:
        entry = AuditEntry(kind=kind, at=at, actor=actor, subject=self._network, detail=detail)
        tx.audit.append(entry)


class _Merging(NamedTuple):
    """One call: who brings it, and what it may do."""

    way: Way
    sender: str
    decides: bool
    dry_run: bool

    @property
    def actor(self) -> str:
        return f"peer:{self.sender}" if self.way is Way.PEER else self.sender

    def kind(self, reports: Sequence[ItemReport]) -> str:
        """The kind of the audit record."""
        if self.way is not Way.PEER:
            return "policies_imported" if self.way is Way.OPERATOR else "policies_updated"
        nothing = bool(reports) and all(report.outcome is Outcome.REFUSED for report in reports)
        return "peer_sync_refused" if nothing else "peer_sync_applied"

    def detail(self, reports: Sequence[ItemReport]) -> dict[str, object]:
        """Counts, reasons, and the first of the policies that changed."""
        refused: dict[str, int] = {}
        for report in reports:
            if report.code:
                refused[report.code] = refused.get(report.code, 0) + 1
        counts = {outcome.value: sum(report.outcome is outcome for report in reports) for outcome in Outcome}
        changed = sorted({report.policy_id for report in reports if report.outcome in _CHANGES})
        kept = counts[Outcome.KNOWN] + counts[Outcome.OLDER] + counts[Outcome.HELD]
        return {
            "sender": self.sender,
            "way": self.way.value,
            "added": counts[Outcome.ADDED],
            "replaced": counts[Outcome.REPLACED],
            "removed": counts[Outcome.REMOVED],
            "held": counts[Outcome.HELD],
            "kept": kept,
            "refused": counts[Outcome.REFUSED],
            "codes": refused,
            "policies": changed[:AUDITED_IDS_MAX],
        }


_Examined = tuple[bytes, Candidate | Refused]
"""An item's id, and whether it is genuine."""


def _examined(items: Sequence[SignedItem], trust: Trust) -> list[_Examined]:
    ids = [item.item_id for item in items]
    return [(item_id, examine(item, item_id, trust)) for item_id, item in zip(ids, items, strict=True)]


class _Board:
    """The policies that one call touches, before and after."""

    def __init__(
        self, tx: Transaction, trust: Trust, merge: _Merging, *, reached: int, max_items: int
    ) -> None:
        """`reached`: what had expired by then (ms) makes room; a clock in doubt overwrites nothing."""
        self._tx = tx
        self._reached = reached
        self._trust = trust
        self._merge = merge
        self._max_items = max_items
        self._count = tx.policies.count()
        self._known: dict[str, Known] = {}
        self._new: dict[str, list[PolicyRecord]] = {}

    def load(self, examined: Sequence[_Examined]) -> None:
        names = {one.content.id for _, one in examined if isinstance(one, Candidate)}
        found = self._tx.policies.known(sorted(names), self._trust.issuers)
        self._known = {name: settle(found.get(name, UNKNOWN), self._reached) for name in names}

    def ordered(self, examined: Sequence[_Examined]) -> list[_Examined]:
        """Who only adds brings the highest revision first, so that it is the one that takes force; who
        decides brings them in the order of time."""

        def rank(one: _Examined) -> tuple[str, int, bool, bytes]:
            found = one[1]
            if isinstance(found, Refused):
                return "", 0, False, one[0]
            return found.content.id, *found.entry.rank

        return sorted(examined, key=rank, reverse=not self._merge.decides)

    def place(self, item_id: bytes, one: Candidate | Refused, *, allowed: bool) -> ItemReport:
        if isinstance(one, Refused):
            return ItemReport(item_id, Outcome.REFUSED, one.code, one.detail)
        content = one.content
        report = ItemReport(
            item_id,
            Outcome.REFUSED,
            policy_id=content.id,
            revision=content.revision,
            is_tombstone=isinstance(content, Tombstone),
        )
        if not allowed:
            return report._replace(code="not_allowed")
        before = self._known[content.id]
        done = step(before, one, decides=self._merge.decides)
        more = _size(done.known) - _size(before)
        if more > 0 and self._count + more > self._max_items:
            return report._replace(code="full")
        if done.outcome in _CHANGES:
            self._count += more
            self._known[content.id] = done.known
            record = record_of(one, way=self._merge.way, sender=self._merge.sender, at=self._trust.now)
            self._new.setdefault(content.id, []).append(record)
        return report._replace(outcome=done.outcome, code=done.code)

    def save(self, at: datetime) -> None:
        for policy_id, records in sorted(self._new.items()):
            self._tx.policies.save(policy_id, self._known[policy_id], records)
        if self._new:
            _mark_changed(self._tx, at)

    @staticmethod
    def in_order_of(examined: Sequence[_Examined], reports: Sequence[ItemReport]) -> list[ItemReport]:
        places: dict[bytes, list[int]] = {}
        for index, (item_id, _) in enumerate(examined):
            places.setdefault(item_id, []).append(index)
        return [report for _, report in sorted((places[one.item_id].pop(0), one) for one in reports)]


def _size(known: Known) -> int:
    return (known.in_force is not None) + (known.held is not None)


def _mark_changed(tx: Transaction, at: datetime) -> None:
    generation = int(tx.settings.get(_GENERATION) or 0) + 1
    tx.settings.put(_GENERATION, str(generation))
    tx.settings.put(_CHANGED, rfc3339_ms(at))
