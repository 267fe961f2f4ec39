"""One signed question to the control plane, without the database: whether it knows this node's credential."""

from collections.abc import Mapping

from ambientd.core.controlreply import number_in, read_reply
from ambientd.core.fleet.signing import request_bytes
from ambientd.core.membership import Membership
from ambientd.core.outbox import Meaning, meaning_of
from ambientd.ports.autonomy import NodeIdentity
from ambientd.ports.controlplane import ControlAnswer, ControlTransport


def signed_headers(
    membership: Membership, identity: NodeIdentity, method: str, target: str, *, body: bytes, number: int
) -> Mapping[str, str]:
    """What proves that a request is this node's. Raises IdentityError."""
    signed = request_bytes(
        node_id=membership.node_id, sequence=number, method=method, target=target, body=body
    )
    return {
        "Authorization": f"Bearer {membership.device_token}",
        "X-Ambient-Sequence": str(number),
        "X-Ambient-Signature": identity.sign(signed).hex(),
    }


async def ask_as_node(
    membership: Membership, identity: NodeIdentity, transport: ControlTransport, *, seconds: float
) -> ControlAnswer:
    """What the control plane says of this node. Reading takes no number: a running daemon is not disturbed.

    Raises UnavailableError and IdentityError; `seconds` is for each of at most two requests.
    """
    target = f"/api/v1/nodes/{membership.node_id}"

    async def ask(number: int) -> ControlAnswer:
        headers = signed_headers(membership, identity, "GET", target, body=b"", number=number)
        return await transport.send("GET", target, headers, b"", seconds=seconds)

    found = await ask(1)
    reply = read_reply(found.status, found.headers, found.body)
    if meaning_of(reply) is Meaning.REPLAYED:  # the daemon is further on; the refusal says how far
        found = await ask(number_in(reply, "sequence") or 1)
    return found
