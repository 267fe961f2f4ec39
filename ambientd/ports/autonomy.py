"""What the parts that work without a control plane need of each other."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from ambientd.core.connectivity import Action
from ambientd.core.signeditem import SignedItem
from ambientd.ports.store import Transaction
from ambientd.wire.enums import Connectivity


class ConnectivityView(Protocol):
    """Where the node stands with its links; asked, never remembered."""

    @property
    def state(self) -> Connectivity: ...

    def may(self, action: Action) -> bool:
        """Whether the state of this moment allows an action."""


class NodeIdentity(Protocol):
    """The node's Ed25519 key; the seed never leaves it."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """A detached signature, 64 bytes. The caller frames and tags the message."""

    def seal(self, recipient: bytes, message: bytes) -> bytes:
        """Encrypts to another node's key and authenticates as this node (libsodium box)."""

    def open(self, sender: bytes, sealed: bytes) -> bytes | None:
        """What `seal` of the sender made for this node, None for anything else."""


class TrustedClock(Protocol):
    """Wall time that never goes back behind what this node has already seen, over restarts too."""

    def now(self) -> datetime:
        """The instant to hold expiry against: the later of wall clock and high-water mark."""

    def reached(self) -> datetime:
        """The instant that has certainly been reached; never later than `now`. What is thrown away for being
        old is held against this one: a wall clock that is wrong for a minute must not cost what is kept."""

    @property
    def doubt(self) -> str | None:
        """Why the wall clock is not believed at the moment, in words; None when it is."""


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the items of one snapshot. `added` are new and in force; `kept` were known, or stand
    behind a local entry that a peer may not change; `refused` are pairs of item id (hex) and reason code.
    `recorded`: the audit has a record of it; it has none of some, where a peer brings nothing again and
    again, and whoever asked counts those."""

    added: int
    kept: int
    recorded: bool = True
    refused: tuple[tuple[str, str], ...] = ()


class PolicyItems(Protocol):
    """The signed items that this node holds, as peers exchange them. All expired ones are left out."""

    def ids(self) -> frozenset[bytes]:
        """Ids of all items that this node holds; from memory, cheap."""

    async def items(self, ids: Sequence[bytes]) -> list[SignedItem]:
        """These items, without those that are gone."""

    async def take(
        self,
        sender: str,
        items: Sequence[SignedItem],
        *,
        dry_run: bool = False,
        first: Callable[[Transaction], None] | None = None,
    ) -> Merge:
        """Merges a peer's items without ever changing or removing an entry of this node, and writes the
        audit record `peer_sync_applied` in the same transaction (also when nothing was added, but then at a
        bounded rate: see `Merge.recorded`). `first` is
        done in it before anything else; of a dry run it is all that is written."""
