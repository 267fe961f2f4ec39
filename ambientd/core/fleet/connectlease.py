"""A connect session as a lease of its node: pure.

The lease's `jti` follows from the session, so that whoever ends the session can revoke it without looking
anything up. Its `session_id` is the task's id, which the node knows from its assignment.
"""

import hashlib
import math

from ambientd.core.canonical import framed
from ambientd.core.ed25519 import show_key
from ambientd.core.fleet.records import ConnectSession
from ambientd.core.lease import MBPS_MAX, Lease, Revocation
from ambientd.core.policy import Policy
from ambientd.core.timefmt import to_ms
from ambientd.wire.fleet_enums import EgressProfile

_DOMAIN = b"ambient-connect-lease-v1"
_PROTOCOLS = {
    EgressProfile.ALLOWLIST_DOMAINS: ("http", "https", "quic"),
    EgressProfile.PROTOCOL_LIMITED: ("https",),
    EgressProfile.METERED_GENERAL_EGRESS: ("http", "https", "quic", "tcp", "udp"),
}


def jti_of(session: ConnectSession) -> str:
    """The id of the session's lease at its present node."""
    parts = (session.requester_id, session.session_id, session.node_id, str(to_ms(session.created_at)))
    return "cs-" + hashlib.sha3_256(framed(_DOMAIN, *(part.encode() for part in parts))).hexdigest()[:40]


def lease_of(
    session: ConnectSession, *, network: str, node_key: bytes, policy: Policy | None, now_ms: int
) -> Lease | None:
    """What the node may do for a session. With its policy at hand it allows no protocol that the policy does
    not; None when none is left, or the session has ended."""
    allowed = _PROTOCOLS[session.egress_profile]
    if policy is not None:
        has = {protocol.value for protocol in policy.protocols}
        allowed = tuple(name for name in allowed if name in has)
    ends = to_ms(session.expires_at)
    if not allowed or ends <= now_ms:
        return None
    return Lease(
        network=network,
        jti=jti_of(session),
        node=show_key(node_key),
        session_id=session.task_id,
        policy_id=session.destination_policy_id,
        issued_at=now_ms,
        nbf=now_ms,
        exp=ends,
        max_duration_ms=ends - now_ms,
        max_mbps=min(MBPS_MAX, max(1, math.ceil(session.bandwidth_limit_mbps))),
        protocols=allowed,  # type: ignore[arg-type]  # the literal words above
    )


def revocation_of(session: ConnectSession, *, network: str, now_ms: int) -> Revocation:
    """Takes the session's lease back."""
    return Revocation(network=network, jti=jti_of(session), issued_at=now_ms)
