"""Asks the control plane for its health the way that everything else goes there."""

from collections.abc import Callable

import msgspec
import trio

from ambientd.config.autonomy import ControlPlaneConfig
from ambientd.config.schema import Config
from ambientd.config.upstream import ControlAddress
from ambientd.core.connectivity import Answer
from ambientd.core.controlhealth import HEALTH_PATH, judge_health
from ambientd.net.probes import Resolve, UpstreamProbes
from ambientd.ports.errors import UnavailableError


class ControlProbes(UpstreamProbes):
    """`ports.prober.Upstream`: through the proxy, with the pin and with the certificate that are configured.

    Without any of them the plain probe does, which loads nothing.
    """

    def __init__(self, config: Callable[[], Config], *, agent: str, resolve: Resolve | None = None) -> None:
        """As `UpstreamProbes`."""
        super().__init__(agent=agent, resolve=resolve)
        self._config = config
        self._as = agent

    async def ask_control(self, address: ControlAddress, *, ca_file: str | None, seconds: float) -> Answer:
        """See `Upstream`."""
        config = self._config().control_plane
        if config.proxy is None and config.pin is None and config.client_cert is None:
            return await super().ask_control(address, ca_file=ca_file, seconds=seconds)
        return await self._ask(address, config, seconds)

    async def _ask(self, address: ControlAddress, config: ControlPlaneConfig, seconds: float) -> Answer:
        from ambientd.net.control_plane_http import HttpControlTransport, settings_of

        transport = HttpControlTransport(lambda: settings_of(config, address), agent=self._as)
        began = trio.current_time()
        try:
            found = await transport.send("GET", HEALTH_PATH, {}, b"", seconds=seconds)
        except UnavailableError as error:
            return Answer(False, str(error))
        finally:
            await transport.aclose()
        judged = judge_health(found.status, found.headers.get("content-type", ""), found.body)
        latency = round((trio.current_time() - began) * 1000)
        return msgspec.structs.replace(judged, latency_ms=latency) if judged.ok else judged
