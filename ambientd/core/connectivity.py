"""Which of its links a node has, and what each state of them allows."""

from collections.abc import Mapping
from enum import Enum

from ambientd.wire.enums import Connectivity


class Action(Enum):
    """What somebody may want to do, as far as the links decide about it."""

    EGRESS = "let a session reach the internet"
    ACTIVATE_LEASE = "activate a session lease"
    METER = "meter a session's traffic"
    WRITE_POLICIES = "change or remove policies"
    ADD_POLICIES = "add policies that peers pass on"
    RECEIVE_SYNC = "receive policies from peers"
    SEND_SYNC = "send policies to peers"
    RECONCILE = "reconcile with the control plane"


_LOCAL = frozenset({Action.ADD_POLICIES, Action.RECEIVE_SYNC})
_CACHED = _LOCAL | {Action.EGRESS, Action.ACTIVATE_LEASE, Action.METER, Action.SEND_SYNC}

ALLOWED: Mapping[Connectivity, frozenset[Action]] = {
    # Nothing has been probed yet: what needs a link waits for the first answer.
    Connectivity.UNKNOWN: _LOCAL,
    Connectivity.ONLINE: _CACHED | {Action.WRITE_POLICIES, Action.RECONCILE},
    Connectivity.OFFLINE: _CACHED,
    # Peers may still be near and know more than we do; what we hold may be old, so we do not pass it on.
    Connectivity.NO_UPSTREAM: _LOCAL,
}
"""The one table of what each state allows (seed "Node state"; rulings 16 and 25); everyone asks `may`."""


def may(state: Connectivity, action: Action) -> bool:
    """Whether a state allows an action."""
    return action in ALLOWED[state]
