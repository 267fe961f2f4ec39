"""Leases of connect sessions: made, moved and revoked in the transactions that begin, move and end them."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from ambientd.core.fleet.connectlease import jti_of, lease_of, revocation_of
from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.fleet.records import ConnectSession
from ambientd.core.lease import LIFE_MAX_MS, build_item
from ambientd.core.policy import Policy, parse_body
from ambientd.core.timefmt import to_ms
from ambientd.ports.fleet.store import FleetTransaction
from ambientd.wire.fleet_enums import ItemKind


class LeaseDesk:
    """Signs with the control plane's own key; without one it does nothing, and leases come from elsewhere."""

    def __init__(
        self, *, seed: bytes | None, public: bytes, network: str, warn: Callable[..., object]
    ) -> None:
        self._seed = seed
        self._public = public
        self._network = network
        self._warn = warn

    def grant(self, tx: FleetTransaction, session: ConnectSession, at: datetime) -> None:
        """A lease for the session's node, unless it never joined and so has no key to bind one to."""
        keys = [one.public_key for one in tx.devices.credentials(session.node_id) if one.revoked_at is None]
        if self._seed is None or not keys:
            return
        known = tx.items.latest(ItemKind.POLICY, session.destination_policy_id)
        policy = None if known is None else parse_body(known.item.body)
        lease = lease_of(
            session,
            network=self._network,
            node_key=keys[0],
            policy=policy if isinstance(policy, Policy) else None,
            now_ms=to_ms(at),
        )
        if lease is None:
            return
        try:
            item = build_item(self._seed, self._public, lease)
        except ValueError as error:
            self._warn("fleet.lease_not_made", session=session.session_id, reason=str(error))
            return
        tx.items.add(
            FleetItem(
                kind=ItemKind.LEASE,
                subject=lease.jti,
                item=item,
                created_at=at,
                expires_at=session.expires_at,
                node_id=session.node_id,
            )
        )

    def revoke(self, tx: FleetTransaction, sessions: Iterable[ConnectSession], at: datetime) -> None:
        """Takes the leases of sessions back, as far as they have any."""
        for session in sessions:
            if self._seed is None or tx.items.latest(ItemKind.LEASE, jti_of(session)) is None:
                continue
            content = revocation_of(session, network=self._network, now_ms=to_ms(at))
            item = build_item(self._seed, self._public, content)
            expires_at = at + timedelta(milliseconds=LIFE_MAX_MS)
            tx.items.add(
                FleetItem(
                    kind=ItemKind.REVOCATION,
                    subject=content.jti,
                    item=item,
                    created_at=at,
                    expires_at=expires_at,
                    node_id=session.node_id,
                )
            )
