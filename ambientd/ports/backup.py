"""What a backup needs from outside: a consistent copy of the database, and a place to keep it for a while."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from ambientd.core.rejection import Rejected
from ambientd.wire.backup_messages import BackupView

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total) now and then, from any thread; must not block or raise."""

COPYING = "copying"
CHECKING = "checking"
HASHING = "hashing"


class SnapshotFacts(NamedTuple):
    """A checked copy: its size, the newest migration in it, and the rows of every table."""

    bytes: int
    schema_version: int
    counts: Mapping[str, int]


class Snapshots(Protocol):
    """Copies of the database that is in use."""

    async def snapshot(self, target: str, progress: Progress) -> SnapshotFacts:
        """Writes the database as it is at one instant to the new file `target`, checks the copy wholly.

        Writers go on meanwhile. Raises StoreError (not ready, or the copy is damaged), StoreFullError;
        no file is left then, and none when cancelled.
        """


class Held(Protocol):
    """A file that lasts as long as it is held: its name is gone already, so no crash leaves it behind."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def sha256(self) -> str:
        """Of the whole content, in hexadecimal digits."""

    def read(self, offset: int, length: int) -> bytes:
        """A piece of it. Blocks."""

    def close(self) -> None:
        """Gives the space back; harmless when repeated."""


class BackupPlace(Protocol):
    """Where snapshots stand while they are made."""

    async def prepare(self) -> str:
        """A path for a new file; removes what an earlier process left there. Raises OSError."""

    async def hold(self, path: str, progress: Progress) -> Held:
        """Takes the file over: hashes it and unlinks its name. Raises OSError."""

    async def discard(self, path: str) -> None:
        """Removes a file that was given up; never raises."""


class ExtraFile(NamedTuple):
    """A small file that goes into the backup beside the database."""

    name: str
    content: bytes


class BackupControl(Protocol):
    """The one backup that the node makes or keeps, as the routes see it."""

    def order(self, *, with_identity: bool, actor: str) -> BackupView | Rejected:
        """Begins one; refused while another is made or fetched."""

    def view(self, backup_id: str) -> BackupView | Rejected:
        """How far it is."""

    async def piece(self, backup_id: str, offset: int) -> bytes | Rejected:
        """Bytes of it from `offset` on, as many as one answer takes; empty at its end. Raises OSError."""
