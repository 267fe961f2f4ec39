"""Announces this node on the LAN and hears of others, by DNS-SD over multicast (`_ambient-peer._tcp`).

The library (extra `discovery`) is loaded when this runs, and works in a thread of its own. What it hears are
addresses and the beginning of a key: hints whom to dial, believed by nobody. It answers and remembers as
mDNS does, for whoever asks; so a flood is not endured but left: the thread ends for a while, for longer each
time, and with it goes everything that it has heard.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ambientd.config.peers import PeerAddress
from ambientd.ports.errors import UnavailableError
from ambientd.ports.peers import Noticed

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo

SERVICE = "_ambient-peer._tcp.local."
KEY_FIELD = b"k"
# The thread looks after itself so often, and more often while names come in.
CHECK_SEC = 5.0
# Of a core, over one look: a LAN of hundreds of nodes costs a hundredth of that.
BUSY_SHARE = 0.1
# Names in one look; so many nodes may start at once after a power cut.
NAMES_PER_CHECK = 300
# Addresses come one after another when a link comes up.
AGAIN_SEC = 1.0
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 30.0, 600.0
MISSING = "the extra `discovery` is not installed: pip install 'ambient-node[discovery]'"


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What this node says of itself; `hint` is the beginning of its key."""

    name: str
    port: int
    hint: str


class FloodError(Exception):
    """More came than a LAN says."""


class DnsSd:
    """`pause`: how long to leave it alone after it failed, in seconds. `is_missing`: it never works here."""

    def __init__(self, addresses: Callable[[], Sequence[str]]) -> None:
        """`addresses` are this machine's IPv4 addresses on its links, in one order; it must not block."""
        self._addresses = addresses
        self.pause = FIRST_PAUSE_SEC
        self.is_missing = False

    async def run(
        self,
        announcement: Callable[[], Announcement | None],
        noticed: Noticed,
        flooded: Callable[[float], None],
    ) -> None:
        """Until cancelled. `announcement` is asked when the thread starts and every few seconds; None: only
        listen. `flooded` tells for how many seconds nothing is heard. Raises UnavailableError when the
        library is missing or there is no network for it."""
        while True:
            began = trio.current_time()
            try:
                await self._hear(announcement, noticed)
                await trio.sleep(AGAIN_SEC)
            except FloodError:
                if trio.current_time() - began > LONGEST_PAUSE_SEC:
                    self.pause = FIRST_PAUSE_SEC
                flooded(self.pause)
                await trio.sleep(self.pause)
                self.pause = min(self.pause * 2, LONGEST_PAUSE_SEC)

    async def _hear(self, announcement: Callable[[], Announcement | None], noticed: Noticed) -> None:
        try:
            import zeroconf  # noqa: F401 - so that its absence is told before a thread starts
        except ImportError:
            self.is_missing = True
            raise UnavailableError(MISSING) from None
        ear = _Ear(announcement, noticed, self._addresses, trio.lowlevel.current_trio_token())
        failed: FloodError | UnavailableError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cancelled, ear)
            try:
                # Not abandoned: it ends when it is told to, within a moment.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(ear.listen)
            except (FloodError, UnavailableError) as error:
                failed = error  # raised behind the nursery, which would wrap it
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    @staticmethod
    async def _stop_when_cancelled(ear: "_Ear") -> None:
        try:
            await trio.sleep_forever()
        finally:
            ear.stop()


class _Ear:
    """One life of the thread."""

    def __init__(
        self,
        announcement: Callable[[], Announcement | None],
        noticed: Noticed,
        addresses: Callable[[], Sequence[str]],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self._announcement = announcement
        self._noticed = noticed
        self._addresses = addresses
        self._token = token
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._stopped = False
        self._names = 0
        self._announced: AsyncServiceInfo | None = None
        self._said: Announcement | None = None

    def stop(self) -> None:
        """Ends it; from any thread."""
        self._stopped = True
        if self._loop is not None and self._wake is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # it has ended by itself
                return

    def listen(self) -> None:
        """The thread. Raises FloodError, UnavailableError."""
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        addresses = list(self._addresses())
        if not addresses:
            raise UnavailableError("no multicast here: no link has an address")
        try:
            # Named, so that the library does not ask for them over netlink, which the unit's sandbox closes.
            ear = AsyncZeroconf(interfaces=addresses, ip_version=IPVersion.V4Only)
        except OSError as error:
            raise UnavailableError(f"no multicast here: {(error.strerror or str(error)).lower()}") from None
        try:
            browser = AsyncServiceBrowser(ear.zeroconf, SERVICE, handlers=[self._heard])
            try:
                await self._look_after(ear, addresses)
            finally:
                await browser.async_cancel()
        finally:
            await ear.async_close()

    async def _look_after(self, ear: Any, addresses: Sequence[str]) -> None:
        """Until it is stopped, or this machine has other addresses."""
        wake = self._wake
        while not self._stopped and wake is not None and list(self._addresses()) == addresses:
            await self._announce(ear, addresses)
            cpu, began = time.thread_time(), self._time()
            with suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), CHECK_SEC)
            spent = (time.thread_time() - cpu) / max(self._time() - began, 0.001)
            if self._names > NAMES_PER_CHECK or (spent > BUSY_SHARE and not self._stopped):
                raise FloodError
            self._names = 0

    def _time(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0

    async def _announce(self, ear: Any, addresses: Sequence[str]) -> None:
        """Says what is true now: where this node listens, and nothing while it does not."""
        from zeroconf.asyncio import AsyncServiceInfo

        say = self._announcement()
        if say == self._said:
            return
        before, self._announced, self._said = self._announced, None, say
        if before is not None:
            await (await ear.async_unregister_service(before))
        if say is not None:
            self._announced = AsyncServiceInfo(
                SERVICE,
                f"{say.name}.{SERVICE}",
                say.port,
                parsed_addresses=list(addresses),
                properties={KEY_FIELD: say.hint.encode()},
                server=f"{say.name}.local.",
            )
            await (await ear.async_register_service(self._announced, allow_name_change=True))

    def _heard(
        self, zeroconf: "Zeroconf", service_type: str, name: str, state_change: "ServiceStateChange"
    ) -> None:
        """The library's callback. Uses only what came with the packet: no question follows from a packet."""
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if state_change is ServiceStateChange.Removed:
            return
        self._names += 1
        if self._names > NAMES_PER_CHECK:
            if self._wake is not None:
                self._wake.set()
            return
        info = AsyncServiceInfo(service_type, name)
        if not info.load_from_cache(zeroconf) or info.port is None:
            return
        hint = (info.properties.get(KEY_FIELD) or b"").decode("ascii", "replace")
        for address in info.parsed_scoped_addresses()[:4]:
            self._tell(PeerAddress(address, info.port), hint)

    def _tell(self, address: PeerAddress, hint: str) -> None:
        try:
            self._token.run_sync_soon(self._noticed, address, hint)
        except trio.RunFinishedError:
            self._stopped = True
