"""Local sessions: which start, how one is followed to its end."""

from ambientd.services.sessions.service import SessionsService

__all__ = ["SessionsService"]
