"""What the links to LAN peers need from outside: sockets that carry messages, and addresses."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ambientd.config.peers import PeerAddress
from ambientd.core.rejection import Rejected
from ambientd.core.signeditem import SignedItem
from ambientd.ports.errors import UnavailableError
from ambientd.wire.peer_messages import PeersView, SyncRequest, SyncView


class PeerGoneError(UnavailableError):
    """The socket has ended, was cut, or did not take what was sent within its time."""


class PeerDialError(UnavailableError):
    """No socket came about; the message is a sentence."""


class PeerSocket(Protocol):
    """Carries whole messages, both ways, until one side ends it."""

    @property
    def address(self) -> PeerAddress:
        """The other end."""

    @property
    def is_dialled(self) -> bool:
        """Whether this node has opened it."""

    async def receive(self) -> bytes:
        """The next message, at most as long as the configuration allows. Raises PeerGoneError."""

    async def send(self, message: bytes) -> None:
        """Raises PeerGoneError, also when the other side does not read for some seconds."""

    def know(self) -> None:
        """The other end has shown who it is: it may say more than a stranger."""

    async def close(self, reason: str) -> None:
        """Says good-bye in a few words that everybody may read; bounded."""


Serve = Callable[[PeerSocket], Awaitable[None]]


class PeerDialer(Protocol):
    """Opens sockets to other nodes."""

    def dial(self, address: PeerAddress) -> AbstractAsyncContextManager[PeerSocket]:
        """A socket for the length of a block. Raises PeerDialError; PeerGoneError passes through."""


class RosterTaken(Protocol):
    """What came of rosters that came down."""

    @property
    def taken(self) -> int:
        """1 when one of them is in force now."""

    @property
    def refused(self) -> int:
        """How many this node does not go by."""


class RosterIntake(Protocol):
    """Takes rosters of the control plane in."""

    async def take(self, items: Sequence[SignedItem]) -> RosterTaken:
        """The newest of them that is newer than the one that is kept. Raises as `Store` does."""


class PeerListener(Protocol):
    """Waits for other nodes."""

    async def serve(self, serve: Serve) -> None:
        """Gives every admitted connection to `serve`, until cancelled; closes it afterwards.

        Raises OSError when the address cannot be had.
        """

    @property
    def bound(self) -> PeerAddress | None:
        """Where it listens now."""

    def offended(self, socket: PeerSocket) -> None:
        """Whoever is there has wasted our time, and has to wait before it is heard again."""

    def forgive(self) -> None:
        """Everybody may try again at once: who is trusted has changed."""


class PeerControl(Protocol):
    """What the API asks of the peers."""

    def view(self) -> PeersView:
        """How it is now; from memory."""

    async def sync(self, request: SyncRequest, *, actor: str) -> SyncView | Rejected:
        """One round now with everybody who is linked. Bounded; cancelled, it goes on by itself."""


Noticed = Callable[[PeerAddress, str], None]
"""A node was announced at an address, with the beginning of its key: a hint, and no more."""
