"""Session leases: activated once, ended for good, revoked by their issuer.

Every activation, refusal and end is a record of the audit in the transaction that it belongs to. Traffic is
told in sums: one record for each lease every quarter of an hour in which something flowed, one at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ambientd.core.connectivity import Action
from ambientd.core.denials import Denied
from ambientd.core.ed25519 import show_key
from ambientd.core.lease import (
    LIFE_MAX_MS,
    End,
    Ground,
    Held,
    Lease,
    Record,
    Refusal,
    admit,
    authentic,
    left_ms,
    no_link,
    over,
)
from ambientd.core.leaserecords import LeaseRow
from ambientd.core.policy import Policy
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected, reject
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import rfc3339_ms
from ambientd.core.trustedtime import Trusted
from ambientd.flows.leasebook import FORGOTTEN, SINCE, LeaseBook, Live, number_at
from ambientd.ports.autonomy import ConnectivityView
from ambientd.ports.store import Transaction
from ambientd.wire.enums import TERMINAL

if TYPE_CHECKING:
    from ambientd.ports.leases import EgressPolicies

# Rows of leases and of revocations; a lease needs half a kilobyte.
KEPT_MAX = 50_000
ACTIVE_MAX = 1_000
FOUND_MAX = 10  # that are named when an id fits more than one
METERED_SEC = 900.0  # between two records of a lease's traffic
# What could be valid again after an operator has set the clock back by less is not forgotten.
FORGET_AFTER_MS = 30 * 86_400_000
FORGET_BATCH = 500
NODE = "node"

# How a refusal to activate is answered; what is not named is `LEASE_REFUSED`.
_CODES = {
    "no_upstream": "LINKS_REFUSE",
    "not_probed": "LINKS_REFUSE",
    "used": "LEASE_OVER",
    "revoked": "LEASE_OVER",
    "expired": "LEASE_OVER",
    "clock_in_doubt": "CLOCK_IN_DOUBT",
}


class Activated(NamedTuple):
    """A lease that has become active, and the number of the audit record."""

    row: LeaseRow
    audit_id: int


class Ended(NamedTuple):
    """A lease that has ended, and the number of the audit record."""

    row: LeaseRow
    audit_id: int


class Revoked(NamedTuple):
    """A revocation that was taken in; `ended`: an active lease has ended with it."""

    jti: str
    known: bool
    ended: bool
    audit_id: int


class Leases:
    """The one way to change leases. `changed` tells that the status may look different, `wake` that the
    service should look when the next one ends."""

    def __init__(
        self,
        book: LeaseBook,
        *,
        ground: Callable[[], Ground],
        links: ConnectivityView,
        policies: EgressPolicies,
        changed: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        """`ground` says who may issue leases, and for whom, at the moment."""
        self.book = book
        self._store = book.store
        self._ground = ground
        self._links = links
        self._policies = policies
        self._changed = changed
        self._wake = wake
        self._closed = False

    # --- activating

    async def activate(self, item: SignedItem, actor: str) -> Activated | Rejected:
        """Makes a lease active; durable when this returns. The session's older lease ends with it.

        Every refusal is audited. Raises as `Store` does; nothing is active then.
        """
        await self.book.ensure()
        found = authentic(item, self._ground())
        if isinstance(found, Refusal):
            return await self._refuse(found, item, actor)
        if not isinstance(found, Lease):
            return await self._refuse(Refusal("other_kind", "use the revocations' way in"), item, actor)
        if not self._links.may(Action.ACTIVATE_LEASE):
            return await self._refuse(no_link(self._links.state), item, actor, found)
        policy = await self._policies.policy(found.policy_id)
        try:
            outcome = await self._start(found, item, policy, actor)
        except _SessionBusyError:
            outcome = Refusal("session_busy")
        if isinstance(outcome, Refusal):
            return await self._refuse(outcome, item, actor, found)
        self.book.add(outcome.row)
        self._tell()
        return outcome

    async def _start(
        self, lease: Lease, item: SignedItem, policy: Policy | None, actor: str
    ) -> Activated | Refusal:
        """One transaction, from what is true at this moment: nothing is waited for before it."""
        book, time = self.book, self.book.time.look()
        at = rfc3339_ms(book.clock.now())
        held = Held(lease=lease, activated_ms=time.earliest_ms, boot_id=time.boot_id, boot_ms=time.boot_ms)
        row = LeaseRow(held=held, issuer=item.issuer, activated_at=at)
        old, keep = book.of_session(lease.session_id), book.time.keeper()
        ending = [] if old is None or old.closing else [_Ending(old, End.REPLACED, old.figures(time), book)]
        is_full = len(book) - len(ending) >= ACTIVE_MAX

        def work(tx: Transaction) -> Refusal | int:
            refused = admit(lease, _record(tx, lease.jti, item.issuer), time, policy)
            if refused is None and (is_full or tx.leases.count() >= KEPT_MAX):
                refused = Refusal("full")
            if refused is not None:
                return refused
            keep(tx)
            for one in ending:
                one.write(tx, at, NODE)
            try:
                tx.leases.add(row, item.body)
            except ValueError:
                raise _SessionBusyError from None
            return self._note(tx, "session_activated", actor, lease.jti, _told_of(lease, item.issuer))

        outcome = await self._ending(ending, work)
        return outcome if isinstance(outcome, Refusal) else Activated(row, outcome)

    async def _ending(
        self, ending: Sequence[_Ending], work: Callable[[Transaction], Refusal | int]
    ) -> Refusal | int:
        """Writes; leases that end with it allow nothing from now on, unless nothing was written."""
        for one in ending:
            one.live.closing = True
        outcome: Refusal | int = Refusal("full")
        try:
            outcome = await self._store.write(work)
        finally:
            for one in ending:
                one.live.closing = not isinstance(outcome, Refusal)
        if not isinstance(outcome, Refusal):
            for one in ending:
                self.book.remove(one.live)
        return outcome

    async def _refuse(
        self, refusal: Refusal, item: SignedItem, actor: str, lease: Lease | None = None
    ) -> Rejected:
        subject = lease.jti if lease is not None else item.item_id.hex()
        detail = {"reason": refusal.code, "issuer": show_key(item.issuer)}
        if lease is not None:
            detail["session"] = lease.session_id
        await self._store.write(lambda tx: self._note(tx, "lease_refused", actor, subject, detail))
        return reject(
            _CODES.get(refusal.code, "LEASE_REFUSED"),
            f"the lease is not activated: {refusal.sentence}",
            ("lease", refusal.code, refusal.sentence),
        )

    # --- ending

    async def end(self, fragment: str, actor: str) -> Ended | Rejected:
        """Ends an active lease for good; `fragment` is its id or a unique part at either end."""
        await self.book.ensure()
        row = await self.find(fragment)
        if isinstance(row, Rejected):
            return row
        live = self.book.get(row.lease.jti)
        if live is None or live.closing:
            return Rejected("LEASE_OVER", f"lease {row.lease.jti} has ended: {row.end_reason or 'just now'}")
        ended = await self._end([(live, End.OPERATOR)], actor)
        return Ended(*ended[0])

    async def _end(self, leases: Sequence[tuple[Live, End]], actor: str) -> list[tuple[LeaseRow, int]]:
        """Ends leases in one transaction. Raises as `Store` does; they stay active then."""
        time, at = self.book.time.look(), rfc3339_ms(self.book.clock.now())
        ending = [_Ending(live, reason, live.figures(time), self.book) for live, reason in leases]
        numbers: list[int] = []

        def work(tx: Transaction) -> int:
            numbers.extend(one.write(tx, at, actor) for one in ending)
            return 0

        await self._ending(ending, work)
        self._tell()
        return [(one.row(at), number) for one, number in zip(ending, numbers, strict=True)]

    async def revoke(self, item: SignedItem, actor: str) -> Revoked | Rejected:
        """Takes in an issuer's revocation; an active lease ends with it. Only the lease's own issuer may
        revoke it. Links and clock do not matter: it only takes away."""
        await self.book.ensure()
        found = authentic(item, self._ground())
        if isinstance(found, Lease):
            found = Refusal("other_kind", "a lease is activated, not revoked with")
        if isinstance(found, Refusal):
            return await self._refuse(found, item, actor)
        jti, at = found.jti, rfc3339_ms(self.book.clock.now())
        live = self.book.get(jti)
        mine = live is not None and live.issuer == item.issuer and not live.closing
        time = self.book.time.look()
        ending = [_Ending(live, End.REVOKED, live.figures(time), self.book)] if live and mine else []
        known = [False]

        def work(tx: Transaction) -> Refusal | int:
            known[0] = tx.leases.is_revoked(jti, item.issuer)
            if not known[0] and tx.leases.count_revocations() >= KEPT_MAX and not ending:
                return Refusal("full")
            # Kept from now on at least: the issuer's clock may stand in 1970.
            tx.leases.revoke(jti, item.issuer, max(found.issued_at, time.earliest_ms), at)
            for one in ending:
                one.write(tx, at, actor)
            detail = {"issuer": show_key(item.issuer), "active": bool(ending)}
            return self._note(tx, "lease_revoked", actor, jti, detail)

        outcome = await self._ending(ending, work)
        if isinstance(outcome, Refusal):
            return await self._refuse(outcome, item, actor)
        self._tell()
        return Revoked(jti, known[0], bool(ending), outcome)

    # --- looking

    async def find(self, fragment: str) -> LeaseRow | Rejected:
        """One lease by its id or a unique part at either end, with the figures of this moment."""
        await self.book.ensure()
        rows = await self._store.read(lambda tx: _found(tx, fragment))
        if not rows:
            return Rejected("NOT_FOUND", f"no lease has the id {fragment[:128]!r}")
        if len(rows) > 1:
            details = [("jti", "candidate", row.lease.jti) for row in rows[:FOUND_MAX]]
            return reject("AMBIGUOUS", f"{fragment!r} fits more than one lease", *details)
        return self.current(rows[0])

    async def page(self, *, active: bool | None, limit: int) -> list[LeaseRow]:
        """Leases, the last activated first, with the figures of this moment."""
        await self.book.ensure()
        rows = await self._store.read(lambda tx: tx.leases.page(active=active, limit=limit))
        return [self.current(row) for row in rows]

    def current(self, row: LeaseRow) -> LeaseRow:
        """The row with what is in memory."""
        live = self.book.get(row.lease.jti)
        if live is None or not row.is_active:
            return row
        return msgspec.structs.replace(row, held=live.figures(self.book.time.look()))

    # --- its life

    async def sweep(self) -> float | None:
        """Ends what has come to its end, and writes what is due of traffic and denials.

        Returns after how many seconds there is more to do at the latest; None when nothing is active.
        Raises as `Store` does; nothing is lost then.
        """
        await self.book.ensure()
        time = self.book.time.look()
        gone = await self._sessions_over()
        ends = []
        for live in self.book:
            live.settle(time)
            reason = over(live.held, time) or (End.SESSION_OVER if live.lease.session_id in gone else None)
            if reason is not None and not live.closing:
                ends.append((live, reason))
        if ends:
            await self._end(ends, NODE)
        await self._tell_traffic(time)
        if ends:
            await self._store.write(lambda tx: _forget(tx, time))
        return self._next(time)

    def open(self) -> None:
        """At a start, also one after `close`: what was closed and is still active, is so again, with what was
        kept of it."""
        if self._closed:
            self._closed = False
            self.book.forget()

    async def close(self) -> None:
        """At an orderly end: nothing is allowed any more, and what was used is kept as it is. Raises as
        `Store` does; then what was accounted for counts as used."""
        self._closed = True
        time = self.book.time.look()
        figures = []
        for live in self.book:
            live.closing = True
            figures.append(live.figures(time))

        def work(tx: Transaction) -> None:
            for held in figures:
                tx.leases.save(held, exact=True)

        if figures:
            await self._store.write(work)

    async def _sessions_over(self) -> frozenset[str]:
        names = [live.lease.session_id for live in self.book]
        if not names:
            return frozenset()

        def work(tx: Transaction) -> frozenset[str]:
            rows = [tx.ledger.get(name) for name in names]
            return frozenset(row.session_id for row in rows if row is not None and row.status in TERMINAL)

        return await self._store.read(work)

    async def _tell_traffic(self, time: Trusted) -> None:
        now = self.book.clock.monotonic()
        denied = self.book.denials.due(now)
        flowed = [one for one in self.book if one.used > one.told and now - one.told_at >= METERED_SEC]
        if not denied and not flowed:
            return
        sums = [(live, live.used, live.calls, live.figures(time, count=live.accounted)) for live in flowed]
        written = False

        def work(tx: Transaction) -> None:
            for live, used, calls, held in sums:
                tx.leases.save(held)
                detail = {"bytes": used - live.told, "total": used, "calls": calls}
                self._note(tx, "traffic_metered", NODE, live.lease.jti, detail)
            for one in denied:
                self.note_denied(tx, one)

        try:
            await self._store.write(work)
            written = True
        finally:
            for one in denied if not written else ():
                self.book.denials.put_back(one, now)
        for live, used, calls, _ in sums:
            live.told, live.told_at, live.calls = used, now, live.calls - calls

    def _next(self, time: Trusted) -> float | None:
        """Wakes at the next end; a machine that slept meanwhile is noticed by whoever asks."""
        waits = [left_ms(live.held, time) / 1000 for live in self.book]
        due = self.book.denials.next_due
        if due is not None:
            waits.append(due - self.book.clock.monotonic())
        return max(0.0, min(waits)) if waits else None

    def note_denied(self, tx: Transaction, one: Denied) -> None:
        """The record of traffic that was refused."""
        denial = one.denial
        detail = {"reason": denial.code, "host": denial.host, "count": one.times}
        self._note(tx, "egress_denied", NODE, denial.lease, detail)

    def _note(self, tx: Transaction, kind: str, actor: str, subject: str, detail: Mapping[str, Any]) -> int:
        at = self.book.clock.now()
        return tx.audit.append(AuditEntry(kind=kind, at=at, actor=actor, subject=subject, detail=detail))

    def _tell(self) -> None:
        self._changed()
        self._wake()


class _SessionBusyError(Exception):
    """Another lease of the session became active, or is just ending. Nothing was written."""


class _Ending(NamedTuple):
    """A lease that ends, with its last figures."""

    live: Live
    reason: End
    held: Held
    book: LeaseBook

    def row(self, at: str) -> LeaseRow:
        """What is kept of it."""
        live = self.live
        return LeaseRow(
            held=msgspec.structs.replace(self.held, bytes=live.used, denied=live.denied),
            issuer=live.issuer,
            activated_at=live.activated_at,
            end_reason=self.reason.value,
            ended_at=at,
        )

    def write(self, tx: Transaction, at: str, actor: str) -> int:
        """Ends it and tells the audit; returns the record's number."""
        held = self.row(at).held
        lease = held.lease
        tx.leases.end(held, self.reason.value, at)
        return tx.audit.append(
            AuditEntry(
                kind="session_terminated",
                at=self.book.clock.now(),
                actor=actor,
                subject=lease.jti,
                detail={
                    "reason": self.reason.value,
                    "session": lease.session_id,
                    "bytes": held.bytes,
                    "elapsed_ms": held.elapsed_ms,
                    "denied": held.denied,
                },
            )
        )


def _record(tx: Transaction, jti: str, issuer: bytes) -> Record:
    return Record(
        used=tx.leases.get(jti) is not None,
        revoked=tx.leases.is_revoked(jti, issuer),
        forgotten_ms=number_at(tx, FORGOTTEN),
        since_ms=number_at(tx, SINCE),
    )


def _told_of(lease: Lease, issuer: bytes) -> dict[str, Any]:
    return {
        "session": lease.session_id,
        "policy": lease.policy_id,
        "issuer": show_key(issuer),
        "exp": lease.exp,
        "max_duration_ms": lease.max_duration_ms,
        "max_mbps": lease.max_mbps,
        "protocols": list(lease.protocols),
    }


def _found(tx: Transaction, fragment: str) -> list[LeaseRow]:
    exact = tx.leases.get(fragment)
    return [exact] if exact is not None else tx.leases.find(fragment, FOUND_MAX)


def _forget(tx: Transaction, time: Trusted) -> None:
    dropped = tx.leases.forget(
        expired_ms=time.earliest_ms - FORGET_AFTER_MS,
        revoked_ms=time.earliest_ms - LIFE_MAX_MS,
        limit=FORGET_BATCH,
    )
    if dropped is not None and dropped > number_at(tx, FORGOTTEN):
        tx.settings.put(FORGOTTEN, str(dropped))
