"""`<state>/control_plane.json`: where this node belongs, with the token that proves it. 0600."""

import os
from functools import partial
from pathlib import Path

from ambientd.core.membership import Membership, parse_membership, show_membership
from ambientd.host.private_file import drop_drafts, replace_private, sync_folder
from ambientd.host.secrets import SecretError, read_secret_file
from ambientd.host.threads import RunSync, run_in_thread

NAME = "control_plane.json"


class DiskMembershipFile:
    """Implements `ports.controlplane.MembershipFile`."""

    def __init__(self, state_dir: Path, *, run_sync: RunSync = run_in_thread) -> None:
        """Nothing is read before `load` or `look`."""
        self.path = state_dir / NAME
        self._run_sync = run_sync
        self._current: Membership | None = None
        self._problem: str | None = None

    @property
    def current(self) -> Membership | None:
        """See the port."""
        return self._current

    @property
    def problem(self) -> str | None:
        """See the port."""
        return self._problem

    def load(self) -> None:
        """Reads the file; never raises: `problem` says what is wrong with it. Blocks."""
        drop_drafts(self.path)
        self.look()

    def look(self) -> None:
        """The same for who is not the daemon: drafts stay."""
        self._current, self._problem = None, None
        if not os.path.lexists(self.path):
            return
        try:
            found = parse_membership(read_secret_file(str(self.path)).reveal())
        except SecretError as error:
            self._problem = str(error)
            return
        if isinstance(found, str):
            self._problem = f"{self.path} {found}"
        else:
            self._current = found

    async def write(self, membership: Membership) -> None:
        """Replaces it in one step."""
        await self._run_sync(partial(replace_private, self.path, show_membership(membership)))
        self._current, self._problem = membership, None

    async def remove(self) -> None:
        """Removes it; durable when it returns."""
        await self._run_sync(self._remove)
        self._current, self._problem = None, None

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)
