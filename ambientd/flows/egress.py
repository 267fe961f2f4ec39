"""May this go out? It is asked whether the lease is known, then the links, the lease itself and the policies;
the first no is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ambientd.core.connectivity import Action
from ambientd.core.denials import Denial, Denied
from ambientd.core.lease import REASONS as LEASE_REASONS
from ambientd.core.lease import Refusal, allowance, no_link, unusable
from ambientd.core.policy import REASONS as POLICY_REASONS
from ambientd.core.policy import Verdict, read_destination
from ambientd.flows.leasebook import LeaseBook, Live
from ambientd.flows.leases import Leases
from ambientd.ports.autonomy import ConnectivityView
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.wire.enums import Connectivity

if TYPE_CHECKING:
    from ambientd.ports.leases import EgressPolicies

REASONS: Mapping[str, str] = {**LEASE_REASONS, **POLICY_REASONS}
"""Codes of answers and what they say. A code means the same wherever both have it."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Where to, and for which session or lease; without either the policies alone answer. `address` is what
    the name was resolved to by whoever is about to connect."""

    destination: str
    protocol: str | None = None
    session_id: str | None = None
    lease_id: str | None = None
    address: str | None = None


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `code` is one of `REASONS`; `bytes` and `allowance` are those of the lease, if one is
    meant."""

    allowed: bool
    code: str
    reason: str
    state: Connectivity
    destination: str = ""
    policy_id: str | None = None
    lease_id: str | None = None
    session_id: str | None = None
    clock_doubt: str | None = None
    bytes: int | None = None
    allowance: int | None = None


class EgressCheck:
    """Answers for one node."""

    def __init__(
        self, leases: Leases, book: LeaseBook, *, links: ConnectivityView, policies: EgressPolicies
    ) -> None:
        self._leases = leases
        self._book = book
        self._links = links
        self._policies = policies

    async def check(self, asked: Asked) -> Egress:
        """Whether it may go out now. Raises as `Store` does."""
        return await self._answer(asked, Action.EGRESS, 0)

    async def meter(self, jti: str, asked: Asked, count: int) -> Egress:
        """Whether so many bytes more may go out; they count when they may. Raises as `Store` does, and
        nothing counts then."""
        return await self._answer(msgspec.structs.replace(asked, lease_id=jti), Action.METER, count)

    async def _answer(self, asked: Asked, action: Action, count: int) -> Egress:
        if asked.lease_id is None and asked.session_id is None:
            if not self._links.may(action):
                return self._no(no_link(self._links.state), None, asked)
            told = await self._policies.check(asked.destination, asked.protocol, address=asked.address)
            return self._by_policies(told, action)
        await self._book.ensure()
        live = await self._lease(asked)
        if isinstance(live, Refusal):
            return self._no(live, None, asked)
        verdict: Verdict | Refusal = self._still(live, action) or await self._for_lease(live, asked)
        if not isinstance(verdict, Refusal):
            # Asked again: links and lease may have changed while the policies were looked up.
            verdict = self._still(live, action) or await self._count(live, count) or verdict
        if isinstance(verdict, Refusal):
            await self._denied(live, verdict, asked)
            return self._no(verdict, live, asked)
        return self._yes(verdict, live)

    async def _lease(self, asked: Asked) -> Live | Refusal:
        """The active lease that is meant."""
        if asked.lease_id is None:
            found = self._book.of_session(asked.session_id or "")
            return Refusal("no_lease") if found is None or found.closing else found
        live = self._book.get(asked.lease_id)
        if live is None or live.closing:
            row = await self._book.store.read(lambda tx: tx.leases.get(asked.lease_id or ""))
            if row is None:
                return Refusal("lease_unknown")
            return Refusal("lease_ended", row.end_reason or "just now")
        if asked.session_id not in (None, live.lease.session_id):
            return Refusal("other_session")
        return live

    async def _for_lease(self, live: Live, asked: Asked) -> Verdict | Refusal:
        """What lease and policy say of the destination."""
        read = read_destination(asked.destination, asked.protocol)
        if isinstance(read, Verdict):
            return Refusal(read.reason, read.detail)
        if read.protocol.value not in live.lease.protocols:
            return Refusal("protocol_not_in_lease", read.protocol.value)
        verdict = await self._policies.check(
            asked.destination, asked.protocol, policy_id=live.lease.policy_id, address=asked.address
        )
        return verdict if verdict.allowed else Refusal(verdict.reason, verdict.detail)

    def _still(self, live: Live, action: Action) -> Refusal | None:
        if not self._links.may(action):
            return no_link(self._links.state)
        if not self._book.is_open(live):
            return Refusal("lease_ended")
        return unusable(live.held, self._book.time.look())

    async def _count(self, live: Live, count: int) -> Refusal | None:
        """Whether the lease has room; a question without bytes needs room for one."""
        time = self._book.time.look()
        if count:
            return await self._book.account(live, count, time)
        room = allowance(live.lease, live.figures(time).elapsed_ms) - live.used
        return None if room > 0 else Refusal("bandwidth")

    # --- saying it

    def _by_policies(self, verdict: Verdict, action: Action) -> Egress:
        if verdict.allowed and not self._links.may(action):
            return self._no(no_link(self._links.state), None, None)
        return Egress(
            allowed=verdict.allowed,
            code=verdict.reason,
            reason=_sentence(verdict.reason, verdict.detail),
            state=self._links.state,
            destination=verdict.destination,
            policy_id=verdict.policy_id,
            clock_doubt=self._book.time.doubt,
        )

    def _yes(self, verdict: Verdict, live: Live) -> Egress:
        answer = self._with_lease(live)
        return msgspec.structs.replace(
            answer,
            allowed=True,
            code="allowed",
            reason=_sentence("allowed", ""),
            destination=verdict.destination,
        )

    def _no(self, refusal: Refusal, live: Live | None, asked: Asked | None) -> Egress:
        reason = _sentence(refusal.code, refusal.detail)
        if live is not None:
            return msgspec.structs.replace(self._with_lease(live), code=refusal.code, reason=reason)
        return Egress(
            allowed=False,
            code=refusal.code,
            reason=reason,
            state=self._links.state,
            lease_id=None if asked is None else asked.lease_id,
            session_id=None if asked is None else asked.session_id,
            clock_doubt=self._book.time.doubt,
        )

    def _with_lease(self, live: Live) -> Egress:
        time, lease = self._book.time.look(), live.lease
        return Egress(
            allowed=False,
            code="",
            reason="",
            state=self._links.state,
            policy_id=lease.policy_id,
            lease_id=lease.jti,
            session_id=lease.session_id,
            clock_doubt=time.doubt,
            bytes=live.used,
            allowance=allowance(lease, live.figures(time).elapsed_ms),
        )

    async def _denied(self, live: Live, refusal: Refusal, asked: Asked) -> None:
        """Counts and, the first time in a while, tells the audit. A record that cannot be written counts
        again later: the answer is no in any case."""
        live.denied += 1
        now = self._book.clock.monotonic()
        one = self._book.denials.note(Denial(live.lease.jti, refusal.code, _host(asked)), now)
        if one is None:
            return
        try:
            await self._write(one)
        except (StoreError, UnavailableError):
            self._book.denials.put_back(one, now)

    async def _write(self, one: Denied) -> None:
        await self._book.store.write(lambda tx: self._leases.note_denied(tx, one))


def _host(asked: Asked) -> str:
    """Where to, as the audit names it: never a path or a query, which may hold secrets."""
    read = read_destination(asked.destination, asked.protocol)
    return "" if isinstance(read, Verdict) else read.text


def _sentence(code: str, detail: str) -> str:
    text = REASONS.get(code, code)
    return f"{text}: {detail}" if detail else text
