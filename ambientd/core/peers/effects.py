"""What a link asks its shell to do, and what it tells it."""

from enum import StrEnum

import msgspec

from ambientd.core.peers.frames import CloseReason
from ambientd.core.snapshot import Checked, Refused


class Send(msgspec.Struct, frozen=True):
    """Send these bytes; `sealed`: put them into a box for the link's `peer` first (`NodeIdentity.seal`)."""

    frame: bytes
    sealed: bool


class Load(msgspec.Struct, frozen=True):
    """Read these items, as many as are still there, for `PeerLink.loaded`. At most one is open."""

    ids: tuple[bytes, ...]


class Deliver(msgspec.Struct, frozen=True):
    """A snapshot that passed every check: write `checked.floor` down, merge its items (`PolicyItems.take`
    with `dry_run`), bring the node's ItemSet up to date, then call `PeerLink.merged`. In order.

    `ids` are the items' ids, in the items' order. `pushed`: it came unasked, as a fresh change.
    """

    checked: Checked
    ids: tuple[bytes, ...]
    dry_run: bool
    pushed: bool


class Rejected(msgspec.Struct, frozen=True):
    """A snapshot was refused; the audit wants to know (R1.64). Nothing of it was used."""

    refused: Refused


class Opened(msgspec.Struct, frozen=True):
    """The peer has proved its key. `label` is what it calls itself."""

    peer: bytes
    label: str
    version: int


class Outcome(StrEnum):
    """How a round of comparing ended."""

    EQUAL = "equal"  # both held the same from the beginning
    DONE = "done"
    NOT_NOW = "not_now"  # one of both may not, at the moment
    FAILED = "failed"  # a snapshot was refused
    LOST = "lost"  # the link ended


class RoundEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A round is over. `listed` ids were compared, `asked` of them wanted, `missing` not sent by the peer.
    `added`, `kept`, `refused` are what merging said. `received` and `sent` are bytes of frames of the link
    during the round. `forced`: it answers a call of `PeerLink.sync`."""

    outcome: Outcome
    forced: bool = False
    dry_run: bool = False
    listed: int = 0
    asked: int = 0
    missing: int = 0
    added: int = 0
    kept: int = 0
    refused: int = 0
    received: int = 0
    sent: int = 0


class Closed(msgspec.Struct, frozen=True):
    """The link is over: close the connection, once what was to be sent before is sent. The last effect."""

    reason: CloseReason
    text: str


Effect = Send | Load | Deliver | Rejected | Opened | RoundEnded | Closed
