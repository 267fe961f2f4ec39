"""What the link to a gateway needs from outside: a websocket, a key that signs, tokens."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ambientd.ports.errors import UnavailableError


class DialError(UnavailableError):
    """No websocket came about. `status` is the HTTP status of an answer that was no upgrade."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class SocketClosedError(UnavailableError):
    """The websocket has ended. `code` is its close code, 1006 when it was cut."""

    def __init__(self, code: int, reason: str | None = None) -> None:
        super().__init__(f"close code {code}")
        self.code = code
        self.reason = reason


class GatewaySocket(Protocol):
    """An open websocket. Cancelled sends may break it: then it is to be closed."""

    async def receive(self) -> str | bytes:
        """The next message. Raises SocketClosedError."""

    async def send(self, text: str) -> None:
        """Raises SocketClosedError."""

    async def close(self, code: int, reason: str) -> None:
        """Says good-bye, bounded; what is left is cut."""


class GatewayDialer(Protocol):
    """Opens websockets to the one configured address."""

    @property
    def url(self) -> str:
        """The address in its one spelling; tokens are stored under it."""

    def dial(self) -> AbstractAsyncContextManager[GatewaySocket]:
        """A websocket for the length of a block. Raises DialError; SocketClosedError when it breaks."""


class DeviceKey(Protocol):
    """The node's key towards gateways."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    def sign(self, payload: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""


class CredentialsError(Exception):
    """A key or token that is there cannot be used; the message is a sentence without any secret."""


class GatewayCredentials(Protocol):
    """Who this node is to gateways. Read anew for each attempt, so that a new token needs no restart."""

    async def key(self) -> DeviceKey:
        """The node's key, made at the first use. Raises CredentialsError."""

    async def shared_token(self) -> str | None:
        """The gateway's own token, None when nobody gave one. Raises CredentialsError."""

    async def device_token(self, url: str) -> str | None:
        """What the gateway at `url` issued to this node; None when there is none that can be used."""

    async def keep_device_token(self, url: str, token: str) -> None:
        """Replaces it; durable when it returns. Raises UnavailableError."""

    async def drop_device_token(self, url: str) -> None:
        """Forgets it. Raises UnavailableError."""
