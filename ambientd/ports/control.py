"""What flows ask of the running sessions."""

from typing import Protocol


class SessionControl(Protocol):
    """The sessions service, from outside."""

    def wake(self) -> None:
        """There may be something to start. Never blocks."""

    async def end(self, session_id: str) -> None:
        """Passes an end that is already recorded on to the session's shim, if one is live.

        Raises UnavailableError when the shim does not answer in time; the record stays, so the end is
        passed on again when the shim is next heard of.
        """
