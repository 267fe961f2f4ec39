"""What flows ask of the running sessions."""

from typing import Protocol


class SessionControl(Protocol):
    """The sessions service, from outside."""

    def wake(self) -> None:
        """There may be something to start. Never blocks."""

    def holds(self, session_id: str) -> bool:
        """Whether a process of this session may exist: it is being started, followed, or not yet looked
        for after a restart. Never blocks; may be asked from any thread."""

    async def end(self, session_id: str) -> None:
        """Passes an end that is already recorded on to the session's shim, if one is live, and tells those
        who watch the session if none is.

        Raises UnavailableError when the shim does not answer in time; the record stays, so the end is
        passed on again when the shim is next heard of.
        """
