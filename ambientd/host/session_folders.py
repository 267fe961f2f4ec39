"""The private folders of sessions, for retention."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from ambientd.host.threads import RunSync, run_in_thread


class DiskSessionFolders:
    """Implements `ports.spool.SessionFolders` over `<state>/sessions`; `discard` is the runner's."""

    def __init__(
        self,
        state_dir: Path,
        *,
        discard: Callable[[str], Awaitable[None]],
        run_sync: RunSync = run_in_thread,
    ) -> None:
        self._folder = state_dir / "sessions"
        self._discard = discard
        self._run = run_sync

    async def folders(self) -> list[tuple[str, int]]:
        """Session ids that have a folder, with its size in bytes; links are not followed."""
        return await self._run(self._list)

    def _list(self) -> list[tuple[str, int]]:
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        return [(name, _size(self._folder / name)) for name in names]

    async def discard(self, session_id: str) -> None:
        """Removes a session's folder."""
        await self._discard(session_id)


def _size(folder: Path) -> int:
    """Bytes of everything in it that can be seen. No depth and no path that an agent can make fails: one
    session's folder must not keep retention from all others."""
    total, places = 0, [str(folder)]
    while places:
        try:
            with os.scandir(places.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        places.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
