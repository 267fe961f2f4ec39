"""The outbox's values: what waits for the control plane, and how far each stream has got."""

import msgspec

from ambientd.core.records import EventRecord, SessionRecord, UsageRecord
from ambientd.wire.outbox_enums import OutboxStream

ALL_EVENTS = 1  # the first number


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. `last_seq` was given last, `acked_seq` is durable at the control plane, `waiting` records
    are not; the other counts are of all time."""

    stream: OutboxStream
    last_seq: int = 0
    acked_seq: int = 0
    acknowledged: int = 0
    dropped: int = 0
    refused: int = 0
    waiting: int = 0


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """When the control plane last answered: by the wall clock and by the boot clock of one boot."""

    at_ms: int
    boot_id: str
    boot_ms: int


class OutboxState(msgspec.Struct, frozen=True, kw_only=True):
    """What the outbox remembers of the node's registration; see the table."""

    joined: bool = False
    membership: str = ""
    request_seq: int = 0
    history_after: int = 0
    history_upto: int = 0
    policies_revision: int = 0
    leases_revision: int = 0
    contact: Contact | None = None


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """What waits: `bytes` of what is kept for the control plane alone, `oldest_ms` since when."""

    streams: tuple[StreamState, ...] = ()
    bytes: int = 0
    oldest_ms: int | None = None

    @property
    def waiting(self) -> int:
        """Records of all streams."""
        return sum(stream.waiting for stream in self.streams)


class KeptReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report that waits; `body` is its JSON as it is sent. A higher priority is kept longer."""

    seq: int
    at_ms: int
    priority: int
    body: bytes


class ReportMark(msgspec.Struct, frozen=True):
    """A report without its body, to decide what has to go."""

    seq: int
    at_ms: int
    priority: int
    bytes: int


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the ledger's stream that was given a number: a session, and which of its events."""

    seq: int
    session_key: int
    first_event: int
    last_event: int


class LedgerItem(msgspec.Struct, frozen=True, kw_only=True):
    """What a flight carries now. `task_id` is the control plane's own, for work that it gave."""

    flight: Flight
    session: SessionRecord
    task_id: str | None
    events: tuple[EventRecord, ...]
    usage: UsageRecord | None


class DeltaVWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window of Δv; `seq` orders windows."""

    seq: int
    start_ms: int
    end_ms: int
    value: float
    samples: int
    refused: int
    source: str
    confidence: str
