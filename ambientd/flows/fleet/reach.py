"""Whose node a request is about, and the number of a signed one; looked at before any data of the node."""

from typing import TypeVar

import msgspec

from ambientd.core.fleet.records import NodeRecord
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetTransaction
from ambientd.wire.messages import ErrorDetail

T = TypeVar("T")

NO_NODE = Rejected("NOT_FOUND", "there is no such node")
REVOKED = Rejected("NOT_AUTHENTICATED", "this credential is revoked; join again")


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a joined node that changes something: its credential, and the number that it takes."""

    credential_id: str
    number: int


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The node that a request names, and whose it must be (None: anybody's, for administrators who read).

    `by` names the caller in the audit.
    """

    node_id: str
    owner_id: str | None
    by: str
    signed: Signed | None = None


def find(tx: FleetTransaction, reach: Reach) -> NodeRecord | None:
    """The node, when it is there and theirs."""
    return tx.nodes.get(reach.node_id, owner_id=reach.owner_id)


def enter(tx: FleetTransaction, reach: Reach) -> NodeRecord | Rejected:
    """As `find` for a request that changes something: its number is taken, with whatever else is written."""
    refused = take_number(tx, reach.signed)
    if refused is not None:
        return refused
    return find(tx, reach) or NO_NODE


def take_number(tx: FleetTransaction, signed: Signed | None) -> Rejected | None:
    """Takes the number of a signed request, or tells why it cannot be taken."""
    if signed is None:
        return None
    last = tx.devices.advance(signed.credential_id, signed.number)
    if last is None:
        return None
    return REVOKED if last < 0 else replayed(last)


def replayed(last: int) -> Rejected:
    """A request whose number was taken before; the sender goes on behind the last one."""
    detail = ErrorDetail("sequence", "replayed", f"the last number taken is {last}", str(last))
    return Rejected("REPLAYED", "a request with this number was taken before", (detail,))
