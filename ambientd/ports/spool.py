"""The inbox folder, as the intake sees it. Every file ends in `done`, `rejected` or `blocked`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ambientd.core.pruning import Kept
from ambientd.core.spool import Refusal

DONE = "done"
REJECTED = "rejected"
BLOCKED = "blocked"
RUNNING = "running"


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in the inbox: names to look at in order, how many odd names, and what is under way."""

    names: tuple[str, ...]
    odd: int
    running: tuple[str, ...]


class SpoolFolder(Protocol):
    """Blocking file work, run off the event loop by the caller's adapter."""

    async def prepare(self) -> None:
        """Makes the folders; raises OSError."""

    async def scan(self) -> Scan:
        """Lists the inbox; raises OSError."""

    async def read(self, name: str, folder: str | None = None) -> bytes | Refusal | None:
        """A file's content; None while somebody has it open for writing, or when it is gone."""

    async def exists(self, path: str) -> bool:
        """Whether a path relative to the state directory exists, without leaving it by a link."""

    async def move(
        self,
        name: str,
        to: str,
        *,
        source: str | None = None,
        note: tuple[str, Mapping[str, Any]] | None = None,
    ) -> str:
        """Moves a file into a folder, giving it a free name; writes `<name>.<note kind>.json` beside it
        first, durably. Returns the name it got. Raises OSError."""

    async def has_result(self, name: str) -> bool:
        """Whether `done` holds a result for this file name."""


class KeptFiles(Protocol):
    """Ended files that retention may remove."""

    async def kept(self, folder: str) -> tuple[Kept, ...]:
        """Ended files of one folder, each with its notes; raises OSError."""

    async def remove(self, folder: str, names: Sequence[str]) -> None:
        """Removes files of one folder; raises OSError."""


class SessionFolders(Protocol):
    """Private folders of sessions."""

    async def folders(self) -> list[tuple[str, int]]:
        """Session ids that have a folder, with its size in bytes."""

    async def discard(self, session_id: str) -> None:
        """Removes a session's folder."""
