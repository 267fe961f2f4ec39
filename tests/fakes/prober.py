"""Links and upstream as a test says they are."""

import trio

from ambientd.config.upstream import ControlAddress, Place
from ambientd.core.connectivity import Answer, Link, Links

ROUTED = Links(usable=(Link("eth0", routed=True),))
DOWN = Links(none="no link is up")


class ScriptedLinks:
    """Implements `ports.prober.LinkReader`; keeps when it was asked."""

    def __init__(self) -> None:
        self.links = ROUTED
        self.asked_at: list[float] = []
        self.takes = 0.0

    async def read(self) -> Links:
        self.asked_at.append(trio.current_time())
        await trio.sleep(self.takes)
        return self.links


class ScriptedUpstream:
    """Implements `ports.prober.Upstream`; keeps who was asked, and when the control plane was."""

    def __init__(self) -> None:
        self.control = Answer(True, latency_ms=1)
        self.targets: dict[str, Answer] = {}
        self.takes = 0.0
        self.asked: list[str] = []

    async def reach(self, target: Place, *, seconds: float) -> Answer:
        self.asked.append(target.host)
        await trio.sleep(min(self.takes, seconds))
        return self.targets.get(target.host, Answer(False, "connect timeout"))

    async def ask_control(self, address: ControlAddress, *, ca_file: str | None, seconds: float) -> Answer:
        self.asked.append(address.host)
        with trio.move_on_after(seconds):
            await trio.sleep(self.takes)
            return self.control
        return Answer(False, "no answer in time")
