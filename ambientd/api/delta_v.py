"""`/api/v1/node/delta-v`: the efficiency metric with its inputs and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ambientd.api.router import Answer, QueryParameter, Route
from ambientd.flows.delta_v import answer
from ambientd.ports.clock import Clock
from ambientd.ports.http import Request
from ambientd.ports.store import Store
from ambientd.wire.delta_v_messages import DeltaVAnswer
from ambientd.wire.routes import DELTA_V

if TYPE_CHECKING:
    from ambientd.ports.delta_v import DeltaVView

DELTA_V_QUERY = (
    QueryParameter(name="since", doc="Begin of the window and its history, RFC 3339 [an hour ago]."),
    QueryParameter(name="session", doc="The part of this session, by any unique beginning or end of its id."),
)


def delta_v_routes(view: DeltaVView, *, store: Store, clock: Clock) -> tuple[Route, ...]:
    """Δv of the node and of its sessions."""

    async def ask(request: Request) -> Answer:
        return await answer(view, request.query, store=store, clock=clock)

    return (
        Route(
            method="GET",
            path=DELTA_V,
            handler=ask,
            summary="The efficiency metric Δv: sum, rate, inputs with source and confidence, parameters.",
            query=DELTA_V_QUERY,
            answers={200: DeltaVAnswer},
            refusals=(404, 409),
        ),
    )
