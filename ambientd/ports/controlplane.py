"""The way to the control plane, and what others ask of the part that goes it."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec

from ambientd.core.membership import Membership
from ambientd.core.outbox import Reply

T = TypeVar("T", bound=msgspec.Struct)


class ControlAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ControlTransport(Protocol):
    """HTTP to one control plane. Redirects are not followed; the token goes to no other host."""

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        """One request. `seconds` bound all of it. Raises UnavailableError when no whole answer came."""

    async def aclose(self) -> None:
        """Closes what is open; it may be used again."""


class ControlCalls(Protocol):
    """Signed requests of this node, one at a time."""

    async def read(self, target: str, answer: type[T]) -> T | Reply:
        """Asks for something; raises UnavailableError."""

    async def change(
        self, method: str, target: str, body: msgspec.Struct | bytes, answer: type[T]
    ) -> T | Reply:
        """Changes something there; raises UnavailableError, and then it may have been changed."""


class MembershipFile(Protocol):
    """The file that holds the membership; blocking work is done off the loop."""

    @property
    def current(self) -> Membership | None:
        """The membership as it was read or written last; None without one."""

    @property
    def problem(self) -> str | None:
        """Why the file cannot be used."""

    async def write(self, membership: Membership) -> None:
        """Replaces it; durable when it returns. Raises OSError."""

    async def remove(self) -> None:
        """Removes it. Raises OSError."""
