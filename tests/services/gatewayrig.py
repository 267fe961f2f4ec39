"""A link to a fake gateway in memory, under virtual time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from nacl.signing import SigningKey

from ambientd.config.gateway_address import Address, parse_address
from ambientd.core.gateway.hello import NEEDED_SCOPES, Client
from ambientd.host.gateway_credentials import FileDeviceKey
from ambientd.net.gateway_ws import WebSocketDialer
from ambientd.ports.gateway import LinkNews, LinkPhase
from ambientd.ports.gateway_socket import CredentialsError
from ambientd.services.gateway_link import GatewayLinkService
from tests.fakes.clock import TrioWallClock
from tests.fakes.gateway import FakeGateway
from tests.fakes.log import ListLog

CLIENT = Client(version="0.1.0", instance_id="instance-1", display_name="ambientd on test")


class MemoryCredentials:
    """Implements `ports.gateway_socket.GatewayCredentials`."""

    def __init__(self, shared: str | None = None) -> None:
        self.shared = shared
        self.kept: dict[str, str] = {}
        self.dropped = 0
        self.broken: str | None = None

    async def key(self) -> FileDeviceKey:
        if self.broken is not None:
            raise CredentialsError(self.broken)
        return FileDeviceKey(SigningKey(bytes(range(32))))

    async def shared_token(self) -> str | None:
        return self.shared

    async def device_token(self, url: str) -> str | None:
        return self.kept.get(url)

    async def keep_device_token(self, url: str, token: str) -> None:
        self.kept[url] = token

    async def drop_device_token(self, url: str) -> None:
        self.dropped += 1
        self.kept.pop(url, None)


@dataclass
class Rig:
    """The link under test and all around it."""

    gateway: FakeGateway
    link: GatewayLinkService
    credentials: MemoryCredentials
    log: ListLog
    heard: list[LinkNews] = field(default_factory=list)

    async def wait_phase(self, *phases: LinkPhase, seconds: float = 700.0) -> None:
        """Until the link is in one of these phases."""
        await self.wait_until(lambda: self.link.state.phase in phases, seconds)

    async def wait_until(self, is_so: Callable[[], bool], seconds: float = 700.0) -> None:
        """Looks again and again, in virtual time."""
        with trio.fail_after(seconds):
            while not is_so():
                await trio.sleep(0.01)


def address() -> Address:
    found = parse_address("ws://127.0.0.1:18789")
    assert isinstance(found, Address)
    return found


@asynccontextmanager
async def linked(
    gateway: FakeGateway | None = None,
    *,
    credentials: MemoryCredentials | None = None,
    jitter: Callable[[], float] = lambda: 0.5,
    scopes: tuple[str, ...] = NEEDED_SCOPES,
    wait: bool = True,
    call_timeout: float = 10.0,
) -> AsyncIterator[Rig]:
    """A running link; it has the gateway's token unless other credentials are given."""
    gateway = gateway or FakeGateway()
    async with gateway.running(), trio.open_nursery() as nursery:
        credentials, log = credentials or MemoryCredentials(gateway.token), ListLog()
        link = GatewayLinkService(
            dialer=WebSocketDialer(address(), open_stream=gateway.open_stream),
            credentials=credentials,
            client=CLIENT,
            clock=TrioWallClock(),
            jitter=jitter,
            log=log,
            scopes=scopes,
            call_timeout=call_timeout,
        )
        rig = Rig(gateway, link, credentials, log)
        news = link.news()

        async def listen() -> None:
            async for one in news:
                rig.heard.append(one)

        nursery.start_soon(listen)
        nursery.start_soon(link.run)
        if wait:
            await rig.wait_phase(LinkPhase.READY)
        yield rig
        nursery.cancel_scope.cancel()
