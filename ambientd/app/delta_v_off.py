"""The efficiency metric where it is turned off: no meter is loaded, and the answer says so."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from ambientd.api.delta_v import DELTA_V_QUERY
from ambientd.api.router import Answer, Route
from ambientd.app.autonomy import Run
from ambientd.flows.status import AutonomyStatus
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.routes import DELTA_V


class DeltaVOff:
    """Implements `app.autonomy.Part`."""

    @property
    def services(self) -> Mapping[str, Run]:
        """None."""
        return {}

    @property
    def store_services(self) -> Mapping[str, Run]:
        """None."""
        return {}

    def routes(self) -> Sequence[Route]:
        """The one of the metric, which is not there."""

        async def refuse(request: Request) -> Answer:
            return Rejected("NOT_FOUND", "no samples are taken: delta_v.enabled is false")

        summary = "The efficiency metric Δv, which is turned off."
        return (
            Route(
                method="GET",
                path=DELTA_V,
                handler=refuse,
                summary=summary,
                query=DELTA_V_QUERY,
                refusals=(404,),
            ),
        )

    def status(self, now: datetime) -> AutonomyStatus:
        """Nothing."""
        return AutonomyStatus()
