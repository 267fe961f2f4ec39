"""The audit chain and the statements of keys, as flows see them."""

from collections.abc import Sequence
from typing import Protocol

from ambientd.core.audit import (
    AuditQuery,
    AuditRecord,
    Break,
    ChainState,
    KnownBreak,
    Place,
    StoredRecord,
)
from ambientd.core.records import AuditEntry


class AuditRepository(Protocol):
    """The append-only hash chain, its checkpoints, and how far it was acknowledged."""

    def append(self, entry: AuditEntry) -> int:
        """Appends a record in O(1); returns its sequence number."""

    def head(self) -> Place:
        """The last record; `BEGINNING` of an empty chain, the anchor of one that was pruned wholly."""

    def state(self) -> ChainState:
        """How far it was acknowledged and pruned."""

    def hash_at(self, seq: int) -> str | None:
        """The hash of a record, or of the anchor; None where there is none."""

    def page(self, query: AuditQuery) -> list[AuditRecord]:
        """Records that fit, newest first."""

    def records(self, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records behind a number, in order."""

    def stored(self, after_seq: int, limit: int) -> list[StoredRecord]:
        """Records behind a number, in order, as they stand there: for checks, also of damaged ones."""

    def latest(self, kind: str, limit: int) -> list[AuditRecord]:
        """The newest records of exactly this kind. Looks at all records when there are none."""

    # --- what a control plane has taken over

    def acknowledge(self, seq: int) -> None:
        """A control plane has made all records up to `seq` durable. Forward only: less than before changes
        nothing. Raises ValueError for a number that the chain does not have."""

    def unacknowledged(self, limit: int) -> list[AuditRecord]:
        """The oldest records that are not acknowledged, in order."""

    def prune(self, upto: int, limit: int) -> int:
        """Removes the oldest records up to `upto`, at most `limit` of them; returns how many. The chain goes
        on behind the last of them. Raises ValueError for a record that was not acknowledged."""

    # --- checkpoints and breaks

    def keep_checkpoint(self, seq: int, note: str) -> None:
        """Keeps the signed note of a head."""

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """The one kept last: its record and the note."""

    def checkpoints(self, after_seq: int, upto_seq: int, limit: int) -> list[tuple[int, int, str]]:
        """Key, record and note of those for records behind `after_seq` up to `upto_seq`, in order."""

    def breaks(self) -> list[KnownBreak]:
        """Every break that was noted, oldest first."""

    def note_break(self, found: Break, *, found_at: str, note: str | None) -> bool:
        """Notes a break; False when this one was noted before."""

    def accept_breaks(self, *, at: str, by: str) -> list[KnownBreak]:
        """Marks all open breaks as looked into; returns them."""


class IdentityRepository(Protocol):
    """Statements that one key of this node followed another; they are kept for ever."""

    def rollovers(self) -> list[str]:
        """All statements, oldest first."""

    def keep_rollover(self, *, old_key: str, new_key: str, statement: str) -> bool:
        """Keeps a statement; False when it is there. Raises ValueError for a second one about a key."""


class NewHead(Protocol):
    """Where the chain ends, from memory."""

    @property
    def seq(self) -> int:
        """Number of the record committed last; 0 before the store is open."""


class CheckpointFile(Protocol):
    """The newest checkpoint beside the database, so that a table that was cut is noticed."""

    async def read(self) -> str | None:
        """The note, None when there is no file. Raises OSError."""

    async def write(self, note: str) -> None:
        """Replaces it; durable when it returns. Raises OSError."""

    async def set_aside(self, why: str, stamp: str) -> None:
        """Renames it to a name that tells why and when; nothing where there is none. Raises OSError."""


Notes = Sequence[str]
"""Checkpoints from elsewhere that a chain is held against."""
