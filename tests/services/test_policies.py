"""The service behind the policy cache: loads when it can, and acts when something expires."""

from datetime import datetime
from pathlib import Path

import trio
import trio.testing

from ambientd.core.policy import DAY_MS
from ambientd.flows.policycache import PolicyCache
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreFullError
from ambientd.services.bell import Bell
from ambientd.services.policies import PolicyService
from tests.fakes.autonomy import FakeLinks
from tests.fakes.clock import EPOCH, TrioWallClock
from tests.fakes.log import ListLog
from tests.fakes.store import TroubledStore
from tests.policykit import AT, NETWORK, Issuer
from tests.store.kit import opened

ISSUER = Issuer(1)


class Clock(TrioWallClock):
    """The wall clock, believed."""

    doubt: str | None = None

    def reached(self) -> datetime:
        return self.now()


def test_expiry_is_waited_for_and_the_store_may_be_away(tmp_path: Path) -> None:
    async def test() -> None:
        clock, bell = Clock(), Bell()
        async with (
            opened(tmp_path / "ambient.db", run_sync=run_inline) as real,
            trio.open_nursery() as nursery,
        ):
            store = TroubledStore(real)
            log = ListLog()
            cache = PolicyCache(
                store=store,
                clock=clock,
                links=FakeLinks(),
                network=NETWORK,
                issuers=lambda: {ISSUER.public},
                max_items=10,
                changed=lambda: None,
                stale=bell.ring,
            )
            store.trouble, store.reads_too = StoreFullError("away"), True
            service = PolicyService(cache=cache, clock=clock, bell=bell, log=log)
            nursery.start_soon(service.run)
            await trio.sleep(1)
            loaded = [cache.is_loaded]
            store.trouble = None
            await trio.sleep(60)
            assert [*loaded, cache.is_loaded] == [False, True]
            short, long = (
                ISSUER.policy("a", not_after=AT + 7_200_000),
                ISSUER.policy("b", not_after=AT + 2 * DAY_MS),
            )
            await cache.bring([short, long], actor="uid:0")
            await cache.take("peer", [ISSUER.policy("a", 2, not_after=AT + DAY_MS)])
            bell.ring()
            await trio.sleep(7200 - (clock.now() - EPOCH).total_seconds() - 1)
            assert (await cache.check("https://a.example")).allowed
            assert cache.facts.totals.held == 1
            await trio.sleep(2)
            assert cache.facts.totals.held == 0
            assert (await cache.check("https://a.example")).allowed
            assert len(cache.ids()) == 2
            await trio.sleep(2 * 86400)
            assert (cache.ids(), cache.facts.totals.policies) == (frozenset(), 0)
            nursery.cancel_scope.cancel()

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))
