"""Signed and numbered requests of a joined node, one at a time."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio

from ambientd.core.canonical import UNREADABLE
from ambientd.core.controlreply import number_in, read_reply
from ambientd.core.membership import Membership
from ambientd.core.outbox import Meaning, Reply, meaning_of
from ambientd.flows.controlcheck import signed_headers
from ambientd.ports.autonomy import NodeIdentity
from ambientd.ports.controlplane import ControlAnswer, ControlTransport
from ambientd.ports.errors import UnavailableError
from ambientd.ports.store import Store

T = TypeVar("T", bound=msgspec.Struct)

# So many request numbers are set aside in one write: after a crash at most as many are never used.
RESERVED = 1_000
# Numbers that another copy of this node, or an older state of it, has used are skipped; more than once in
# one request somebody else counts at the same time.
REPLAYS_MAX = 3


class DeviceLink:
    """Implements `ports.controlplane.ControlCalls` for one membership."""

    def __init__(
        self,
        membership: Membership,
        *,
        transport: ControlTransport,
        identity: NodeIdentity,
        store: Store,
        timeout: Callable[[], float],
    ) -> None:
        self.membership = membership
        self._transport = transport
        self._identity = identity
        self._store = store
        self._timeout = timeout
        self._used = -1
        self._reserved = 0
        self._lock = trio.Lock()

    @property
    def base(self) -> str:
        """The path of this node there."""
        return f"/api/v1/nodes/{self.membership.node_id}"

    async def read(self, target: str, answer: type[T]) -> T | Reply:
        """See the port."""
        found = await self.ask(target)
        return self._decoded(found, answer)

    async def ask(self, target: str) -> ControlAnswer:
        """The same, undecoded: for whoever passes the answer on."""
        async with self._lock:
            # Reading takes no number of its own, but must not come with one that was overtaken.
            found = await self._send("GET", target, b"", max(1, await self._last()))
            if meaning_of(_reply(found)) is Meaning.REPLAYED:
                self._skip(_reply(found))
                found = await self._send("GET", target, b"", max(1, await self._last()))
            return found

    async def change(
        self, method: str, target: str, body: msgspec.Struct | bytes, answer: type[T]
    ) -> T | Reply:
        """See the port."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self._lock:
            for _ in range(REPLAYS_MAX):
                found = await self._send(method, target, raw, await self._next())
                if meaning_of(_reply(found)) is not Meaning.REPLAYED:
                    break
                self._skip(_reply(found))
        return self._decoded(found, answer)

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._transport.aclose()

    # --- numbers

    async def _last(self) -> int:
        """The highest number that may have been used."""
        if self._used < 0:
            state = await self._store.read(lambda tx: tx.outbox.state())
            self._used = self._reserved = state.request_seq
        return self._used

    async def _next(self) -> int:
        number = await self._last() + 1
        if number > self._reserved:
            upto = number + RESERVED - 1
            await self._store.write(lambda tx: tx.outbox.reserve_requests(upto))
            self._reserved = upto
        self._used = number
        return number

    def _skip(self, reply: Reply) -> None:
        self._used = max(self._used, number_in(reply, "sequence") or 0)

    # --- one request

    async def _send(self, method: str, target: str, body: bytes, number: int) -> ControlAnswer:
        membership = self.membership
        headers = signed_headers(membership, self._identity, method, target, body=body, number=number)
        return await self._transport.send(method, target, headers, body, seconds=self._timeout())

    @staticmethod
    def _decoded(found: ControlAnswer, answer: type[T]) -> T | Reply:
        reply = _reply(found)
        if meaning_of(reply) is not Meaning.DONE:
            return reply
        try:
            return msgspec.json.decode(found.body, type=answer)
        except UNREADABLE:
            raise UnavailableError("the answer is not a control plane's") from None


def _reply(found: ControlAnswer) -> Reply:
    if 200 <= found.status < 300:
        return Reply(found.status)
    return read_reply(found.status, found.headers, found.body)
