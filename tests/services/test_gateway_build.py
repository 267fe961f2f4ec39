"""What a configuration makes of the gateway's link; over loopback, with files and real threads."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from ambientd.app.gateway import build_gateway_link
from ambientd.config.schema import GatewayConfig
from ambientd.ports.gateway import GatewayLink, GatewayUnavailableError, LinkPhase
from ambientd.services.gateway_link import GatewayLinkService, GatewayOff
from tests.fakes.clock import TrioWallClock
from tests.fakes.gateway import FakeGateway
from tests.fakes.log import ListLog


def build(
    config: GatewayConfig, state: Path, environ: Mapping[str, str] | None = None
) -> GatewayLinkService | GatewayOff:
    return build_gateway_link(
        config,
        node_name="edge-07",
        state_dir=state,
        environ=environ or {},
        clock=TrioWallClock(),
        log=ListLog(),
    )


async def test_without_a_token_and_a_word_there_is_no_link(tmp_path: Path) -> None:
    link: GatewayLink = build(GatewayConfig(), tmp_path)
    assert link.state.phase is LinkPhase.OFF
    assert not link.state.connected
    with pytest.raises(GatewayUnavailableError, match="no gateway is configured") as away:
        await link.call("health")
    assert not away.value.sent
    with trio.move_on_after(0.05):
        async for _news in link.news():
            pytest.fail("nothing can happen")


@pytest.mark.parametrize(
    ("enabled", "environ", "on"),
    [
        (None, {}, False),
        (None, {"OPENCLAW_AUTH_TOKEN": "t"}, True),
        (None, {"HELICARRIER_GATEWAY_TOKEN": "t"}, True),
        (True, {}, True),
        (False, {"OPENCLAW_AUTH_TOKEN": "t"}, False),
    ],
)
async def test_a_token_or_a_word_turns_it_on(
    enabled: bool | None, environ: dict[str, str], on: bool, tmp_path: Path
) -> None:
    link = build(GatewayConfig(enabled=enabled), tmp_path, environ)
    assert isinstance(link, GatewayLinkService) == on


async def test_a_token_file_that_is_not_safe_turns_it_on_and_is_said(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("planted-secret")
    file.chmod(0o644)
    link = build(GatewayConfig(token_file=str(file)), tmp_path)
    assert isinstance(link, GatewayLinkService)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with trio.fail_after(10):
            while link.state.phase is not LinkPhase.REFUSED:
                await trio.sleep(0.01)
        assert "0644" in (link.state.reason or "")
        assert "planted-secret" not in repr(link.state)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("admin", "scopes"), [(False, 2), (True, 3)])
async def test_it_links_over_loopback_as_itself(admin: bool, scopes: int, tmp_path: Path) -> None:
    async with FakeGateway().listening() as gateway, trio.open_nursery() as nursery:
        environ = {"OPENCLAW_AUTH_TOKEN": gateway.token}
        link = build(GatewayConfig(url=gateway.url, allow_agent_model=admin), tmp_path, environ)
        assert isinstance(link, GatewayLinkService)
        nursery.start_soon(link.run)
        with trio.fail_after(10):
            while link.state.phase is not LinkPhase.READY:
                await trio.sleep(0.01)
        assert (await link.call("agents.list"))["defaultId"] == "main"
        assert len(link.state.scopes) == scopes
        client = gateway.connect_params[0]["client"]
        assert (client["displayName"], client["id"]) == ("ambientd on edge-07", "gateway-client")
        assert (tmp_path / "gateway_device.key").stat().st_mode & 0o777 == 0o600
        nursery.cancel_scope.cancel()
