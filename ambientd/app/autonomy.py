"""The parts that keep the node useful without its control plane, put together.

Each part is built in a module of its own (`app/<subject>_parts.py`) and loaded only where it is wanted.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from ambientd.api.router import Audited, Route
from ambientd.config.schema import Config
from ambientd.flows.status import AutonomyStatus
from ambientd.host.log import Logger
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store

Run = Callable[[], Awaitable[None]]


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts stand on. `config` gives the configuration in force; `changed` tells that the status
    may look different; `offline`: the operator said so when starting."""

    config: Callable[[], Config]
    store: Store
    clock: Clock
    host_id: str
    node_name: str
    state_dir: Path
    environ: Mapping[str, str]
    audited: Audited
    changed: Callable[[], None]
    log: Logger
    offline: bool = False


class Part(Protocol):
    """One part: built, not started. `services` need nothing but the network, `store_services` the store."""

    @property
    def services(self) -> Mapping[str, Run]: ...
    @property
    def store_services(self) -> Mapping[str, Run]: ...
    def routes(self) -> Sequence[Route]:
        """Its routes of the local API."""

    def status(self, now: datetime) -> AutonomyStatus:
        """What it says of itself, from memory."""


def _parts(ground: Ground) -> Iterator[Part]:
    """Those that are wanted; what is not is not loaded."""
    config = ground.config()
    if config.delta_v.enabled:
        from ambientd.app.delta_v_parts import DeltaVPart

        yield DeltaVPart(ground)
    else:
        from ambientd.app.delta_v_off import DeltaVOff

        yield DeltaVOff()


class Autonomy:
    """All parts of this node."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._parts = tuple(_parts(ground))

    @property
    def services(self) -> dict[str, Run]:
        """By name; started at once."""
        return {name: run for part in self._parts for name, run in part.services.items()}

    @property
    def store_services(self) -> dict[str, Run]:
        """By name; started when the store is ready."""
        return {name: run for part in self._parts for name, run in part.store_services.items()}

    def routes(self) -> tuple[Route, ...]:
        """The routes of all parts."""
        return tuple(route for part in self._parts for route in part.routes())

    def status(self) -> AutonomyStatus:
        """What the parts say of themselves, in one."""
        now = self._ground.clock.now()
        told = [part.status(now) for part in self._parts]
        fields = {
            name: value
            for one in told
            for name in AutonomyStatus.__struct_fields__
            if (value := getattr(one, name)) is not None
        }
        fields["problems"] = tuple(problem for one in told for problem in one.problems)
        return AutonomyStatus(**fields)
