import pytest
from trio.testing import MockClock

from ambientd.ports.gateway import (
    GatewayRefusedError,
    LinkPhase,
)
from tests.fakes.gateway import FakeGateway
from tests.services.gatewayrig import linked


@pytest.mark.parametrize(("protocol", "version"), [(4, "2026.9.6"), (3, "2026.5.7")])
async def test_the_link_stands_with_both_versions(
    protocol: int, version: str, autojump_clock: MockClock
) -> None:
    async with linked(FakeGateway(protocol=protocol)) as rig:
        state = rig.link.state
        assert (state.phase, state.protocol, state.server_version) == (LinkPhase.READY, protocol, version)
        assert (state.boot_id is not None) == (protocol == 4)
        assert state.connected
        assert "sessions.list" in state.features
        assert (await rig.link.call("agents.list"))["agents"][1]["id"] == "tony"


async def test_a_refused_call_says_why_and_the_link_stays(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        with pytest.raises(GatewayRefusedError) as refused:
            await rig.link.call("sessions.create", {"agentId": "nobody", "message": "x"})
        assert refused.value.code == "INVALID_REQUEST"
        assert "nobody" in refused.value.message
        assert rig.link.state.phase is LinkPhase.READY
        assert rig.gateway.connects == 1
