"""Everything around the link to a gateway: the view, its runs in the ledger, and control. Loaded only where a
gateway is configured."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import trio

from ambientd.app.gateway import build_gateway_link
from ambientd.config.schema import GatewayConfig
from ambientd.core.pricing import PriceTable
from ambientd.flows.gateway_control import GatewayControl
from ambientd.flows.gateway_ledger import GatewayLedger
from ambientd.flows.preferred_models import PreferredModels
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store
from ambientd.services.bell import Bell
from ambientd.services.gateway_ledger import GatewayLedgerService
from ambientd.services.gateway_link import GatewayLinkService, GatewayOff
from ambientd.services.gateway_view import GatewayViewService
from ambientd.services.supervise import Log


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts need of the node."""

    store: Store
    clock: Clock
    models: PreferredModels
    prices: Callable[[], PriceTable | None]
    changed: Callable[[str], None]
    ended: Callable[[str], None]
    status_changed: Callable[[], None]
    new_key: Callable[[], str]
    log: Log


class GatewayParts:
    """Built, not started: `services` need nothing but the network, `store_services` the store too."""

    def __init__(self, config: GatewayConfig, around: Around, *, link: GatewayLinkService) -> None:
        self._link = link
        bell = Bell()
        self.view = GatewayViewService(
            link=link,
            clock=around.clock,
            log=around.log,
            runs_changed=self._runs_changed,
            linked=self._linked,
            changed=around.status_changed,
            interval=config.reconcile_interval,
            recent=config.recent,
        )
        ledger = GatewayLedger(
            link=link,
            view=self.view.view,
            store=around.store,
            clock=around.clock,
            prices=around.prices,
            changed=around.changed,
            ended=around.ended,
        )
        self._ledger = GatewayLedgerService(
            ledger=ledger, is_live=lambda: self.view.is_live, bell=bell, log=around.log
        )
        self.control = GatewayControl(
            link=link,
            view=self.view.view,
            ledger=ledger,
            store=around.store,
            clock=around.clock,
            models=around.models,
            allowed_models=lambda: config.allow_models,
            may_set_agents=lambda: config.allow_agent_model,
            new_key=around.new_key,
            pause=trio.sleep,
        )
        self.services: Mapping[str, Callable[[], Awaitable[None]]] = {
            "gateway": link.run,
            "gateway view": self.view.run,
        }
        self.store_services: Mapping[str, Callable[[], Awaitable[None]]] = {
            "gateway ledger": self._ledger.run
        }

    def _runs_changed(self) -> None:
        self._ledger.wake()

    def _linked(self, restarted: bool) -> None:
        self._ledger.linked(restarted)


def build_gateway(
    config: GatewayConfig, around: Around, *, node_name: str, state_dir: Path, environ: Mapping[str, str]
) -> GatewayParts | None:
    """All parts; None where the link turns out to be off. Reads the credentials (blocks)."""
    link = build_gateway_link(
        config,
        node_name=node_name,
        state_dir=state_dir,
        environ=environ,
        clock=around.clock,
        log=around.log,
    )
    return None if isinstance(link, GatewayOff) else GatewayParts(config, around, link=link)
