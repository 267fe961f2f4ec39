"""The efficiency metric, put together."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from ambientd.api.delta_v import delta_v_routes
from ambientd.api.router import Route
from ambientd.app.autonomy import Ground, Run
from ambientd.config.autonomy import DeltaVConfig
from ambientd.config.schema import Config
from ambientd.core.delta_v import Parameters
from ambientd.core.delta_v_account import Basis
from ambientd.core.delta_v_inputs import Yardstick
from ambientd.flows.status import AutonomyStatus
from ambientd.host.gateway_credentials import is_wanted
from ambientd.host.meters import HostMeters
from ambientd.services.delta_v import DeltaVService


def basis_of(config: DeltaVConfig) -> Basis:
    """What the settings make of the sum."""
    return Basis(
        parameters=Parameters(isp=config.isp, eta=config.eta, alpha=config.alpha, v0=config.v0),
        yardstick=Yardstick(
            target_load=config.target_load,
            nominal_rate=config.nominal_rate,
            idle_power=config.idle_power,
            core_power=config.core_power,
        ),
    )


def _is_gateway_here(ground: Ground, config: Config) -> bool:
    """Whether there is a gateway and it runs on this machine."""
    if not is_wanted(config.gateway, ground.state_dir, ground.environ):
        return False
    from ambientd.config.gateway_address import Address, parse_address

    address = parse_address(config.gateway.url, allow_plain=config.gateway.allow_plain)
    return isinstance(address, Address) and address.is_loopback


class DeltaVPart:
    """Implements `app.autonomy.Part`."""

    def __init__(self, ground: Ground) -> None:
        config = ground.config()
        self._ground = ground
        self._service = DeltaVService(
            store=ground.store,
            meters=HostMeters(monotonic=ground.clock.monotonic),
            clock=ground.clock,
            basis=basis_of(config.delta_v),
            interval=config.delta_v.interval,
            gateway=_is_gateway_here(ground, config),
            changed=ground.changed,
            log=ground.log,
        )

    @property
    def services(self) -> Mapping[str, Run]:
        """None."""
        return {}

    @property
    def store_services(self) -> Mapping[str, Run]:
        """The one that samples."""
        return {"delta_v": self._service.run}

    def routes(self) -> Sequence[Route]:
        """See `Part`."""
        return delta_v_routes(self._service, store=self._ground.store, clock=self._ground.clock)

    def status(self, now: datetime) -> AutonomyStatus:
        """See `Part`."""
        return AutonomyStatus(delta_v=self._service.status())
