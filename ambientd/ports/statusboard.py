"""The status as the routes ask for it: made once, given to many."""

from collections.abc import AsyncIterator
from typing import Protocol

from ambientd.wire.messages import StatusDocument


class Shot(Protocol):
    """The status of one moment."""

    @property
    def document(self) -> StatusDocument:
        """As a value; not to be changed."""

    @property
    def body(self) -> bytes:
        """As JSON."""


class StatusShots(Protocol):
    """Where the status comes from."""

    async def latest(self, *, fresh: bool = False) -> Shot:
        """A status that is not older than a second, and never older than the last order to this node.

        With `fresh` it was begun after the call, or after the last change if another asks at the same time.
        Raises StoreError when the store is not ready.
        """

    def follow(self) -> AsyncIterator[Shot | None]:
        """The status now and whenever it has changed; None now and then, when it has not. Ends when the
        node stops. Raises as `latest`."""

    @property
    def followers(self) -> int:
        """How many follow now."""
