"""What the service that speaks with the control plane works with, and what a round of it comes to."""

from collections.abc import Awaitable, Callable

import msgspec

from ambientd.core.membership import Membership
from ambientd.core.pushbodies import Condition
from ambientd.core.trustedtime import Trusted
from ambientd.flows import pulls
from ambientd.flows.assignments import Work
from ambientd.flows.policycache import PolicyCache
from ambientd.flows.push import Pushing, Step
from ambientd.ports.autonomy import ConnectivityView
from ambientd.ports.clock import Clock
from ambientd.ports.controlplane import MembershipFile
from ambientd.ports.peers import RosterIntake
from ambientd.ports.store import Store
from ambientd.services.push.link import DeviceLink
from ambientd.services.supervise import Log
from ambientd.wire.outbox_enums import OutboxStream


class PushSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, `outbox` in bytes."""

    interval: float
    pull_interval: float
    outbox: int


class PushParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the service works with. `build_link` makes the way to a membership's control plane; `condition`
    looks how the node is; `build_work` and the two below it are what comes down from the control plane."""

    store: Store
    clock: Clock
    file: MembershipFile
    links: ConnectivityView
    build_link: Callable[[Membership], DeviceLink]
    build_work: Callable[[Pushing], Work]
    policies: PolicyCache
    rosters: RosterIntake
    look_at_time: Callable[[], Trusted]
    condition: Callable[[], Awaitable[Condition]]
    settings: Callable[[], PushSettings]
    jitter: Callable[[], float]
    probe_soon: Callable[[], None]
    changed: Callable[[], None]
    log: Log


class RoundResult(msgspec.Struct, kw_only=True):
    """What one round did, by stream; `reason` is why it ended early. `more` waits to be sent at once."""

    sent: dict[OutboxStream, int] = msgspec.field(default_factory=dict)
    policies: pulls.Pulled | None = None
    leases: pulls.Pulled | None = None
    started: int = 0
    reason: str | None = None
    more: bool = False


class StopError(Exception):
    """A round ends here: its step came to nothing."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.text)
        self.step = step
