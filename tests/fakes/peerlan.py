"""A LAN in memory: sockets that carry whole messages between listeners, and that can be cut."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ambientd.config.peers import PeerAddress
from ambientd.ports.peers import PeerDialError, PeerGoneError, PeerSocket, Serve

# A message is on its way for so long.
LATENCY_SEC = 0.001
ON_THE_WAY_MAX = 64


class FakeWire:
    """Implements `ports.peers.PeerSocket`."""

    def __init__(self, lan: "PeerLan", own: str, address: PeerAddress, *, dialled: bool) -> None:
        self._lan = lan
        self._own = own
        self.address = address
        self.is_dialled = dialled
        self.is_known = False
        self.said: list[bytes] = []
        self.good_bye = ""
        self.send_to, self.receive_from = trio.open_memory_channel[bytes](ON_THE_WAY_MAX)

    async def receive(self) -> bytes:
        try:
            return await self.receive_from.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise PeerGoneError("the link ended") from None

    async def send(self, message: bytes) -> None:
        self.said.append(message)
        await trio.sleep(LATENCY_SEC)
        if self._lan.is_cut(self._own, self.address.host):
            return
        try:
            await self.send_to.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGoneError("the link ended") from None

    def know(self) -> None:
        self.is_known = True

    async def close(self, reason: str) -> None:
        self.good_bye = reason
        await trio.lowlevel.checkpoint()
        self.cut()

    def cut(self) -> None:
        """Ends it, at this end and at the other."""
        self.send_to.close()
        self.receive_from.close()


class PeerLan:
    """All hosts, by name; a host's address is its name."""

    def __init__(self) -> None:
        self._listeners: dict[PeerAddress, Serve] = {}
        self._nurseries: dict[PeerAddress, trio.Nursery] = {}
        self._cut: set[frozenset[str]] = set()
        self.dialled: list[tuple[str, PeerAddress]] = []
        self.wires: list[FakeWire] = []

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cut

    def cut(self, one: str, other: str) -> None:
        """Nothing goes between two hosts any more; nobody is told."""
        self._cut.add(frozenset((one, other)))

    def heal(self) -> None:
        self._cut.clear()

    def host(self, name: str) -> "LanHost":
        return LanHost(self, name)


class LanHost:
    """Implements `ports.peers.PeerDialer` and `PeerListener` for one host."""

    def __init__(self, lan: PeerLan, name: str) -> None:
        self._lan = lan
        self.address = PeerAddress(name, 7946)
        self.bound: PeerAddress | None = None
        self.offences: list[PeerAddress] = []
        self.forgiven = 0

    @asynccontextmanager
    async def dial(self, address: PeerAddress) -> AsyncIterator[PeerSocket]:
        lan, name = self._lan, self.address.host
        lan.dialled.append((name, address))
        await trio.sleep(LATENCY_SEC)
        serve = lan._listeners.get(address)
        if serve is None or lan.is_cut(name, address.host):
            raise PeerDialError("nobody listens there")
        ours = FakeWire(lan, name, address, dialled=True)
        theirs = FakeWire(lan, address.host, PeerAddress(name, 40_000), dialled=False)
        ours.send_to, theirs.send_to = theirs.send_to, ours.send_to
        lan.wires += [ours, theirs]
        lan._nurseries[address].start_soon(self._served, serve, theirs)
        try:
            yield ours
        finally:
            ours.cut()

    @staticmethod
    async def _served(serve: Serve, wire: FakeWire) -> None:
        try:
            await serve(wire)
        finally:
            wire.cut()

    async def serve(self, serve: Serve) -> None:
        async with trio.open_nursery() as nursery:
            self._lan._listeners[self.address], self._lan._nurseries[self.address] = serve, nursery
            self.bound = self.address
            try:
                await trio.sleep_forever()
            finally:
                self.bound = None
                del self._lan._listeners[self.address]

    def offended(self, socket: PeerSocket) -> None:
        self.offences.append(socket.address)

    def forgive(self) -> None:
        self.forgiven += 1
