"""A machine whose meters say what a test wants."""

from collections.abc import Collection

import trio

from ambientd.core.delta_v_inputs import Reading
from ambientd.core.power import Metered, MeterKind
from ambientd.ports.errors import UnavailableError


class FakeMeters:
    """Implements `ports.meters.Meters`: `watts`, a load on target, a memory of 4 GiB."""

    def __init__(self, watts: float = 100.0) -> None:
        self.watts = watts
        self.silent = False
        self.asleep = 0.0
        self.cpu: dict[str, float] = {}
        self.busy = 60.0
        self.asked: list[list[str]] = []

    async def read(self, sessions: Collection[str]) -> Reading:
        """As told."""
        await trio.lowlevel.checkpoint()
        self.asked.append(sorted(sessions))
        if self.silent:
            raise UnavailableError("a meter has not answered")
        return Reading(
            seconds=60.0,
            asleep=self.asleep,
            power=(Metered(MeterKind.WHOLE, "battery", self.watts),),
            busy=self.busy,
            cores=2,
            queue=1.4,
            memory=4.0,
            sessions={name: seconds for name, seconds in self.cpu.items() if name in sessions},
        )
