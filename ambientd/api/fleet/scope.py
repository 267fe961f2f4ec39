"""Who may speak of which node: owners of theirs, joined nodes of themselves, administrators read of all.

What is refused here is told in the same words as a node that is not there.
"""

from collections.abc import Awaitable, Callable

import msgspec

from ambientd.api.fleet.principal import Machine, Person, principal_of
from ambientd.api.router import Answer, Handler
from ambientd.flows.fleet.reach import NO_NODE, Reach, Signed
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_enums import Role

_OWN_AFFAIR = Rejected("NOT_AUTHORIZED", "only the node itself may do this, with its credential")


def actor_of(found: Person | Machine) -> str:
    """Who acts, as the audit names it."""
    return f"user:{found.user_id}" if isinstance(found, Person) else f"node:{found.node_id}"


def reach_of(request: Request, node_id: str, *, change: bool) -> Reach | Rejected:
    """The node that a request is about. Administrators may read of any, and change their own only."""
    found = principal_of(request)
    if isinstance(found, Person):
        owner = None if found.role is Role.ADMIN and not change else found.user_id
        return Reach(node_id=node_id, owner_id=owner, by=actor_of(found))
    if found.node_id != node_id:
        return NO_NODE
    reach = own_reach(found)
    return msgspec.structs.replace(reach, signed=signed_by(found)) if change else reach


def own_reach(machine: Machine) -> Reach:
    """A node that reads about itself."""
    return Reach(node_id=machine.node_id, owner_id=machine.device.owner_id, by=actor_of(machine))


def signed_by(machine: Machine) -> Signed:
    """The number that a request of a node takes."""
    return Signed(credential_id=machine.device.credential.credential_id, number=machine.sequence)


def about_node(handler: Callable[..., Awaitable[Answer]], *, change: bool = False) -> Handler:
    """A route's handler from `handler(reach, request[, body])`, for the owner, the node, administrators."""

    async def checked(request: Request, *body: msgspec.Struct | None) -> Answer:
        reach = reach_of(request, request.params["node_id"], change=change)
        return reach if isinstance(reach, Rejected) else await handler(reach, request, *body)

    return checked


def by_node(handler: Callable[..., Awaitable[Answer]]) -> Handler:
    """The same for what the node alone may do."""

    async def checked(request: Request, *body: msgspec.Struct | None) -> Answer:
        if isinstance(principal_of(request), Person):
            return _OWN_AFFAIR
        reach = reach_of(request, request.params["node_id"], change=True)
        return reach if isinstance(reach, Rejected) else await handler(reach, request, *body)

    return checked
