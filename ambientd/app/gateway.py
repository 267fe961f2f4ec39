"""Builds the link to the gateway, or the one that is off."""

import os
from collections.abc import Mapping
from pathlib import Path

from ambientd import __version__
from ambientd.config.gateway_address import Address, parse_address
from ambientd.config.schema import GatewayConfig
from ambientd.core.gateway.hello import ADMIN, NEEDED_SCOPES, Client
from ambientd.core.gateway_view.rows import OWN_NAME
from ambientd.host.gateway_credentials import FileGatewayCredentials, is_wanted
from ambientd.net.gateway_ws import WebSocketDialer
from ambientd.ports.clock import Clock
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
    client = Client(
        version=__version__, instance_id=os.urandom(8).hex(), display_name=f"{OWN_NAME} {node_name}"
    )
    return GatewayLinkService(
        dialer=WebSocketDialer(address, connect_timeout=config.connect_timeout),
        credentials=credentials,
        client=client,
        clock=clock,
        jitter=_jitter,
        log=log,
        scopes=(*NEEDED_SCOPES, ADMIN) if config.allow_agent_model else NEEDED_SCOPES,
    )


def _jitter() -> float:
    return int.from_bytes(os.urandom(4)) / 2**32
