"""What the API asks of the part that speaks with the control plane."""

from typing import TYPE_CHECKING, Protocol

from ambientd.core.rejection import Rejected
from ambientd.wire.outbox_messages import ControlSyncView, JoinRequest, MembershipView, OutboxView

if TYPE_CHECKING:
    from ambientd.ports.controlplane import ControlAnswer


class ControlSync(Protocol):
    """One round with the control plane on an operator's word."""

    @property
    def joined(self) -> bool:
        """Whether this node belongs to a control plane."""

    async def sync(self, *, dry_run: bool) -> ControlSyncView | Rejected:
        """One round now; a dry run only counts. Raises as `Store` does."""


class MembershipControl(ControlSync, Protocol):
    """Joining, leaving, what waits, and what the control plane shows of this node."""

    def view(self) -> MembershipView:
        """Where the node belongs."""

    async def join(self, request: JoinRequest, *, actor: str) -> MembershipView | Rejected:
        """Joins a control plane. Raises as `Store` does."""

    async def leave(self, *, actor: str) -> MembershipView | Rejected:
        """Leaves it. Raises as `Store` does."""

    async def renew(self, *, actor: str) -> MembershipView | Rejected:
        """Exchanges the credential for a new one. Raises as `Store` does."""

    async def outbox(self) -> OutboxView:
        """What waits. Raises as `Store.read` does."""

    async def ask(self, target: str) -> "ControlAnswer | Rejected":
        """Asks the control plane as this node; refusals as ours."""
