"""Rosters of the control plane, put together: they say whom this node trusts beside its operator."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import trio

from ambientd.api.router import Route
from ambientd.core.roster import Ground as RosterGround
from ambientd.core.trustedtime import Trusted
from ambientd.flows.peers import Trusting
from ambientd.flows.rosters import Rosters
from ambientd.flows.status import AutonomyStatus
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.services.bell import Bell

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground, Run

# The clock may be set meanwhile: an end that is further away is looked at again.
LOOK_AGAIN_SEC = 3600.0
STORE_PAUSE_SEC = 10.0


class RosterPart:
    """Implements `app.autonomy.Part`."""

    def __init__(
        self,
        ground: "Ground",
        *,
        peers: Trusting,
        owner: Callable[[], str | None],
        network: Callable[[], str],
        issuers: Callable[[], Collection[bytes]],
        time: Callable[[], Trusted],
    ) -> None:
        """`owner` is whom this node belongs to at its control plane; `issuers` are believed for policies."""
        self._ground = ground
        self._owner = owner
        self._network = network
        self._issuers = issuers
        self._bell = Bell()
        self.rosters = Rosters(
            store=ground.store,
            clock=ground.clock,
            peers=peers,
            ground=self._holds_against,
            now_ms=lambda: time().now_ms,
            wanted=lambda: ground.config().peers.rosters,
            refused=self._refused,
            changed=self.wake,
        )

    def _holds_against(self) -> RosterGround:
        return RosterGround(
            network=self._network(), owner=self._owner() or "", issuers=frozenset(self._issuers())
        )

    def _refused(self, reason: str) -> None:
        self._ground.log.warning("peers.roster_refused", reason=reason)

    # --- `app.autonomy.Part`

    @property
    def services(self) -> "Mapping[str, Run]":
        """Nothing runs without the store."""
        return {}

    @property
    def store_services(self) -> "Mapping[str, Run]":
        """Watches over the roster in force."""
        return {"rosters": self._run}

    def routes(self) -> Sequence[Route]:
        """None: `peers` shows where trust comes from."""
        return ()

    def status(self, now: datetime) -> AutonomyStatus:
        """Nothing of its own."""
        return AutonomyStatus()

    def wake(self) -> None:
        """The membership, the configuration or the roster is another. Never blocks."""
        self._bell.ring()

    async def _run(self) -> None:
        while True:
            try:
                await self.rosters.look()
            except (StoreError, UnavailableError):
                await trio.sleep(STORE_PAUSE_SEC)
                continue
            left = self.rosters.look_in_ms()
            until = None if left is None else trio.current_time() + min(left / 1000, LOOK_AGAIN_SEC)
            await self._bell.wait(until)
