"""Waiting for something to happen to a session, without polling."""

from typing import Protocol


class SessionWatch(Protocol):
    """One watcher's place; take it before reading, so that nothing falls between."""

    async def wait(self, seconds: float) -> bool:
        """True when the session had news within `seconds`, else False."""


class SessionNews(Protocol):
    """Who hears of sessions."""

    def watch(self, session_id: str) -> SessionWatch:
        """Hears of everything that happens from now on."""

    def tell(self, session_id: str) -> None:
        """Something happened to this session. Never blocks."""
