"""The node's identity and its audit chain, put together."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from ambientd.api.audit import Audit, audit_routes
from ambientd.api.identity import identity_routes
from ambientd.api.router import Route
from ambientd.core.health import WARNING
from ambientd.flows.audit import Auditing
from ambientd.flows.identity import Identifying, note_rollover
from ambientd.flows.status import AutonomyStatus
from ambientd.host.checkpoint_file import DiskCheckpointFile
from ambientd.host.identity import FileIdentity
from ambientd.services.audit import AuditService
from ambientd.wire.messages import Problem

if TYPE_CHECKING:
    from ambientd.app.autonomy import Ground

Run = Callable[[], Awaitable[None]]


def build_identity(ground: "Ground") -> FileIdentity:
    """The node's key, read or made now: what it may not be used for is refused when it is asked for."""
    identity = FileIdentity(ground.state_dir, host_id=ground.host_id, environ=ground.environ)
    identity.load()
    if identity.problem is not None:
        ground.log.error("identity.refused", reason=identity.problem)
    return identity


class AuditPart:
    """Implements `app.autonomy.Part`."""

    def __init__(
        self, ground: "Ground", identity: FileIdentity, *, key_changed: Callable[[], None] = lambda: None
    ) -> None:
        """`key_changed` hears that the node has another key, or may use its own again."""
        self._ground = ground
        self._tell_key_changed = key_changed
        self._identity = identity
        self._auditing = Auditing(
            store=ground.store,
            clock=ground.clock,
            identity=identity,
            file=DiskCheckpointFile(ground.state_dir),
        )
        self._identifying = Identifying(store=ground.store, clock=ground.clock, identity=identity)
        self._service = AuditService(
            self._auditing, head=ground.audit_head, changed=ground.changed, log=ground.log
        )

    @property
    def services(self) -> Mapping[str, Run]:
        """None."""
        return {}

    @property
    def store_services(self) -> Mapping[str, Run]:
        """The one that looks after the chain."""
        return {"audit": self._run}

    async def _run(self) -> None:
        await note_rollover(self._identifying)
        await self._service.run()

    def routes(self) -> tuple[Route, ...]:
        """Of the chain and of the identity."""
        audit = Audit(auditing=self._auditing, watch=self._service, audited=self._ground.audited)
        return (
            *audit_routes(audit),
            *identity_routes(self._identifying, self._ground.audited, self._key_changed),
        )

    def _key_changed(self) -> None:
        self._service.retry()
        self._tell_key_changed()
        self._ground.changed()

    def status(self, _now: datetime) -> AutonomyStatus:
        """The chain, and a key that may not be used."""
        problems = self._service.problems()
        if self._identity.problem is not None:
            problems.append(
                Problem("identity.refused", WARNING, self._identity.problem, "ambientctl identity")
            )
        return AutonomyStatus(audit=self._service.status(), problems=tuple(problems))
