"""Trusted time, put together: its service, its routes, and what it says of itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ambientd import RELEASED
from ambientd.api.clock import clock_routes
from ambientd.api.router import Route
from ambientd.core.timefmt import parse_rfc3339, to_ms
from ambientd.core.trustedtime import CLOCK_IN_DOUBT
from ambientd.flows.status import AutonomyStatus
from ambientd.flows.trustedtime import KeptTime
from ambientd.host.boottime import HostTime
from ambientd.services.trustedtime import TrustedTimeService
from ambientd.wire.messages import Problem

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground, Run


class ClockPart:
    """`app.autonomy.Part`; `time` is what everything that expires is held against."""

    def __init__(self, ground: "Ground") -> None:
        self._ground = ground
        self.time = KeptTime(
            HostTime(ground.clock), released_ms=to_ms(parse_rfc3339(RELEASED)), noticed=self._noticed
        )
        self._service = TrustedTimeService(time=self.time, store=ground.store, log=ground.log)

    def _noticed(self, doubt: str | None) -> None:
        if doubt is None:
            self._ground.log.info("clock.believed")
        else:
            self._ground.log.warning("clock.in_doubt", reason=doubt, help="ambientctl clock")
        self._ground.changed()

    @property
    def services(self) -> "Mapping[str, Run]":
        """None without the store."""
        return {}

    @property
    def store_services(self) -> "Mapping[str, Run]":
        """Keeps the mark."""
        return {"trusted_time": self._service.run}

    def routes(self) -> Sequence[Route]:
        """`/api/v1/node/clock`."""
        return clock_routes(self.time, self._ground.store, self._ground.audited)

    def status(self, now: datetime) -> AutonomyStatus:
        """A problem while the clock is in doubt and something here depends on it."""
        doubt = self.time.doubt
        if doubt is None or not self.time.is_loaded or not self._matters():
            return AutonomyStatus()
        return AutonomyStatus(
            problems=(Problem(id=CLOCK_IN_DOUBT, severity="warning", text=doubt, help="ambientctl clock"),)
        )

    def _matters(self) -> bool:
        config = self._ground.config()
        return bool(config.policy.issuers or config.policy.lease_issuers or config.peers.trust)
