"""Builds the link to the gateway, or the one that is off; and tries a handshake for who asks from outside."""

import os
from collections.abc import Mapping
from pathlib import Path

import trio

from ambientd import __version__
from ambientd.config.gateway_address import Address, parse_address
from ambientd.config.schema import GatewayConfig
from ambientd.core.gateway.hello import ADMIN, NEEDED_SCOPES, Client
from ambientd.core.gateway_view.rows import OWN_NAME
from ambientd.host.gateway_credentials import FileGatewayCredentials, is_wanted
from ambientd.host.jitter import jitter
from ambientd.net.gateway_ws import WebSocketDialer
from ambientd.ports.clock import Clock
from ambientd.ports.gateway import LinkDown, LinkState, LinkUp
from ambientd.ports.gateway_socket import GatewayCredentials
from ambientd.services.gateway_link import GatewayLinkService, GatewayOff
from ambientd.services.supervise import Log


def build_gateway_link(
    config: GatewayConfig,
    *,
    node_name: str,
    state_dir: Path,
    environ: Mapping[str, str],
    clock: Clock,
    log: Log,
) -> GatewayLinkService | GatewayOff:
    """The link as configured. Reads whether there is a token (blocks), loads no library for it."""
    credentials = FileGatewayCredentials(state_dir, environ=environ, token_file=config.token_file)
    enabled = is_wanted(config, state_dir, environ)
    address = parse_address(config.url, allow_plain=config.allow_plain)
    if not enabled or not isinstance(address, Address):  # the configuration's own check has refused others
        return GatewayOff(url=config.url, clock=clock)
    return _link(config, address, credentials, node_name=node_name, clock=clock, log=log)


def _link(
    config: GatewayConfig,
    address: Address,
    credentials: GatewayCredentials,
    *,
    node_name: str,
    clock: Clock,
    log: Log,
) -> GatewayLinkService:
    client = Client(
        version=__version__, instance_id=os.urandom(8).hex(), display_name=f"{OWN_NAME} {node_name}"
    )
    return GatewayLinkService(
        dialer=WebSocketDialer(address, connect_timeout=config.connect_timeout),
        credentials=credentials,
        client=client,
        clock=clock,
        jitter=jitter,
        log=log,
        scopes=(*NEEDED_SCOPES, ADMIN) if config.allow_agent_model else NEEDED_SCOPES,
        call_timeout=config.call_timeout,
    )


async def probe_gateway(
    config: GatewayConfig,
    address: Address,
    credentials: GatewayCredentials,
    *,
    node_name: str,
    clock: Clock,
    seconds: float,
) -> LinkState:
    """How one handshake goes; the state is still `connecting` when the time was up before it was decided."""
    link = _link(config, address, credentials, node_name=node_name, clock=clock, log=_Quiet())
    news = link.news()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with trio.move_on_after(seconds):
            async for item in news:
                if isinstance(item, LinkUp | LinkDown):
                    break
        found = link.state
        nursery.cancel_scope.cancel()
    return found


class _Quiet:
    """A log for those who look at the state instead."""

    def info(self, event: str, **facts: object) -> None: ...
    def warning(self, event: str, **facts: object) -> None: ...
    def error(self, event: str, **facts: object) -> None: ...
