"""The link to an OpenClaw Gateway, as services and flows see it: calls, events, and how the link is."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from ambientd.ports.errors import UnavailableError


class LinkPhase(StrEnum):
    """Where the link is. Only in `ready` are calls answered; `draining` is connected and refuses them."""

    OFF = "off"  # no gateway is configured
    CONNECTING = "connecting"
    READY = "ready"
    DRAINING = "draining"
    WAITING = "waiting"  # between two attempts
    REFUSED = "refused"  # the gateway will not have us as we are; tried again slowly


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """How the link is at one instant. `reason` and `remedy` are sentences for people, without secrets.

    `attempt` counts since the link last stood for half a minute, 0 while it stands; `features` are the
    gateway's own hint, never proof.
    """

    phase: LinkPhase
    url: str
    since: datetime
    reason: str | None = None
    remedy: str | None = None
    attempt: int = 0
    next_try_at: datetime | None = None
    protocol: int | None = None
    server_version: str | None = None
    boot_id: str | None = None
    scopes: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()
    latency_ms: float | None = None

    @property
    def connected(self) -> bool:
        """Whether a handshake stands."""
        return self.phase in (LinkPhase.READY, LinkPhase.DRAINING)


class LinkUp(msgspec.Struct, frozen=True):
    """A handshake succeeded: nothing that was known before is certain, subscriptions are gone."""

    state: LinkState
    restarted: bool  # another `boot_id` than the last time


class LinkDown(msgspec.Struct, frozen=True):
    """The link was lost or given up."""

    state: LinkState


class GatewayEvent(msgspec.Struct, frozen=True):
    """One event frame. `payload` is decoded JSON of whatever shape the gateway's version has."""

    name: str
    payload: Any


class EventsMissed(msgspec.Struct, frozen=True):
    """Events were lost (a gap in their numbers, or a full buffer on our side): list again."""


LinkNews = LinkUp | LinkDown | GatewayEvent | EventsMissed


class GatewayRefusedError(Exception):
    """The gateway answered a call with an error; the link is as it was.

    `code` is the frame's code, `detail` its `details.code` or `details.reason`, both as sent and bounded.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        detail: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail
        self.retryable = retryable
        self.retry_after = retry_after  # seconds


class GatewayUnavailableError(UnavailableError):
    """No answer: the link is not ready, was lost while waiting, or the deadline passed.

    `sent` says that the gateway may have carried the call out.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class GatewayLink(Protocol):
    """One link for the whole node; reconnects by itself."""

    @property
    def state(self) -> LinkState:
        """How it is now; never blocks."""

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """The payload of the answer, as decoded JSON. `timeout` is in seconds.

        Raises GatewayRefusedError and GatewayUnavailableError. Cancelled: the answer is dropped when it
        comes; the gateway may have carried the call out. Calls made while the link is not ready fail at once.
        """

    def news(self) -> AsyncIterator[LinkNews]:
        """What happens from now on, in order, for one listener; begins with LinkUp when the link stands.

        Bounded: a listener that does not keep up gets one EventsMissed instead of what was dropped.
        """
