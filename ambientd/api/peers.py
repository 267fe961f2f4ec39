"""`/api/v1/node/peers` and `/sync`: who is on the LAN, whom the operator trusts, one round now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ambientd.api.router import Access, Answer, Audited, Route, actor_of
from ambientd.core.rejection import Rejected
from ambientd.flows.peers import Trust, trust, untrust
from ambientd.ports.http import Request
from ambientd.wire.peer_messages import PeersView, SyncRequest, SyncView, TrustAnswer, TrustRequest
from ambientd.wire.routes import PEERS, PEERS_TRUST, SYNC

if TYPE_CHECKING:
    from ambientd.ports.peers import PeerControl


def peer_routes(control: PeerControl, trusting: Trust, audited: Audited) -> tuple[Route, ...]:
    """All routes about peers."""

    async def view(_request: Request) -> Answer:
        return control.view()

    async def add(request: Request, body: TrustRequest) -> Answer:
        answer = await trust(body, trusting, actor=actor_of(request.caller))
        return _told(audited, request, "peers.trust", answer)

    async def remove(request: Request) -> Answer:
        answer = await untrust(request.params["key"], trusting, actor=actor_of(request.caller))
        return _told(audited, request, "peers.untrust", answer)

    async def sync(request: Request, body: SyncRequest) -> Answer:
        answer = await control.sync(body, actor=actor_of(request.caller))
        facts = (
            {"refused": answer.code}
            if isinstance(answer, Rejected)
            else {"added": answer.added, "dry_run": answer.dry_run}
        )
        audited(action="sync", actor=actor_of(request.caller), pid=request.caller.pid, **facts)
        return answer

    return (
        Route(
            method="GET",
            path=PEERS,
            handler=view,
            summary="The nodes on the LAN, and this node's own key.",
            answers={200: PeersView},
        ),
        Route(
            method="POST",
            path=PEERS_TRUST,
            handler=add,
            summary="Trusts the node that has a key.",
            access=Access.WRITE,
            body=TrustRequest,
            answers={200: TrustAnswer},
            action="peers.trust",
        ),
        Route(
            method="DELETE",
            path=PEERS_TRUST + "/{key}",
            handler=remove,
            summary="Trusts a node no longer: by key, a part that fits no other, or its given name.",
            access=Access.WRITE,
            answers={200: TrustAnswer},
            refusals=(409,),
            action="peers.untrust",
        ),
        Route(
            method="POST",
            path=SYNC,
            handler=sync,
            summary="Exchanges policies with the linked peers now.",
            access=Access.WRITE,
            body=SyncRequest,
            answers={200: SyncView},
            refusals=(409,),
            action="sync",
        ),
    )


def _told(
    audited: Audited, request: Request, action: str, answer: TrustAnswer | Rejected
) -> TrustAnswer | Rejected:
    facts = {"refused": answer.code} if isinstance(answer, Rejected) else {"key": answer.key}
    audited(action=action, actor=actor_of(request.caller), pid=request.caller.pid, **facts)
    return answer
