"""Leases and the egress check over a real database, with the machine's clocks in a test's hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ambientd.core.lease import Ground
from ambientd.core.rejection import Rejected
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import from_ms
from ambientd.flows.egress import Asked, Egress, EgressCheck
from ambientd.flows.leasebook import LeaseBook
from ambientd.flows.leases import Leases
from ambientd.flows.policycache import PolicyCache
from ambientd.flows.trustedtime import KeptTime
from ambientd.host.threads import run_inline
from tests.fakes.autonomy import FakeLinks
from tests.fakes.store import TroubledStore
from tests.fakes.trustedtime import RELEASED_MS, HandTime
from tests.leasekit import NETWORK, NODE, LeaseIssuer
from tests.policykit import Issuer
from tests.store.kit import opened, sql_of

POLICIES, LEASES, STRANGER = Issuer(1), LeaseIssuer(9), LeaseIssuer(8)
ALLOWED = "https://web.example"


class MachineClock:
    """Implements `ports.clock.Clock` on the same clocks."""

    def __init__(self, source: HandTime) -> None:
        self._source = source

    def now(self) -> datetime:
        return from_ms(max(0, self._source.wall_ms))

    def monotonic(self) -> float:
        return self._source.at_boot_ms / 1000


class LeaseRig:
    """One node. `again` stands for a start of the daemon: nothing is in memory."""

    def __init__(self, store: Any, path: Path, source: HandTime) -> None:
        self.store = TroubledStore(store)
        self.path = path
        self.source = source
        self.links = FakeLinks()
        self.node: bytes | None = NODE
        self.told = 0
        self.again()

    def again(self) -> None:
        self.time = KeptTime(self.source, released_ms=RELEASED_MS)
        clock = MachineClock(self.source)
        self.policies = PolicyCache(
            store=self.store,
            clock=self.time,
            links=self.links,
            network=NETWORK,
            issuers=lambda: {POLICIES.public},
            max_items=100,
            changed=lambda: None,
            stale=lambda: None,
        )
        self.book = LeaseBook(store=self.store, time=self.time, clock=clock)
        self.leases = Leases(
            self.book,
            ground=lambda: Ground(
                network=NETWORK, node=self.node, issuers=frozenset((LEASES.public, STRANGER.public))
            ),
            links=self.links,
            policies=self.policies,
            changed=self._changed,
            wake=lambda: None,
        )
        self.egress = EgressCheck(self.leases, self.book, links=self.links, policies=self.policies)

    def _changed(self) -> None:
        self.told += 1

    async def begin(self) -> None:
        """A policy `web` for https://web.example and a mark of trusted time."""
        await self.time.load(self.store)
        await self.policies.bring([POLICIES.policy("web")], actor="uid:0")

    async def activate(self, item: SignedItem) -> str:
        """`ok`, or the reason."""
        found = await self.leases.activate(item, "uid:0")
        return found.details[0].issue if isinstance(found, Rejected) else "ok"

    async def check(self, destination: str = ALLOWED, **more: Any) -> Egress:
        return await self.egress.check(Asked(destination=destination, **more))

    async def code(self, destination: str = ALLOWED, **more: Any) -> str:
        found = await self.check(destination, **more)
        assert found.allowed == (found.code == "allowed")
        return found.code

    async def meter(self, count: int, jti: str = "lease-1", destination: str = ALLOWED, **more: Any) -> str:
        found = await self.egress.meter(jti, Asked(destination=destination, **more), count)
        assert found.allowed == (found.code == "allowed")
        return found.code

    async def state(self, jti: str = "lease-1") -> str | None:
        """Why a lease has ended, None while it is active."""
        row = await self.store.read(lambda tx: tx.leases.get(jti))
        assert row is not None
        return row.end_reason

    def audits(self, *kinds: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Kind, subject and detail of the records of these kinds, or of all but those of policies."""
        rows = sql_of(self.path, "SELECT kind, subject, detail_json FROM audit_records ORDER BY seq")
        found = [(kind, subject, json.loads(detail)) for kind, subject, detail in rows]
        return [one for one in found if one[0] in kinds or (not kinds and not one[0].startswith("polic"))]


@asynccontextmanager
async def leased(path: Path, source: HandTime | None = None) -> AsyncIterator[LeaseRig]:
    """A rig over a database at `path`; the machine's clocks go on over several of them."""
    async with opened(path, run_sync=run_inline) as store:
        rig = LeaseRig(store, path, source or HandTime())
        await rig.begin()
        yield rig
