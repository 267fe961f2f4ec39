"""Power, load and memory of this machine, as Δv needs them."""

from collections.abc import Collection
from typing import Protocol

from ambientd.core.delta_v_inputs import Reading


class Meters(Protocol):
    """Whatever of this machine can be measured."""

    async def read(self, sessions: Collection[str]) -> Reading:
        """What the meters say now, and since the reading before; the first one has no `before`.

        `sessions` are those whose processor time is wanted; those whose processes are not found are absent.
        What cannot be read is None and costs nothing else. Raises UnavailableError when a meter does not
        answer in time. May be cancelled at any time.
        """
