"""Status of the parts that work without a control plane (keys are camelCase, as in the whole document)."""

import msgspec

from ambientd.wire.enums import Connectivity


class StateStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """Where the node stands with its links. `since`: when it came to be so; `offline`: told to be."""

    name: Connectivity
    since: str
    reason: str
    offline: bool = False


class ControlStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The control plane; without an address none is configured. `attempt` counts rounds in a row that it did
    not answer; while `connected`, `reason` is what the last round missed. `node_id`: as what this node has
    joined it; `refused` is why it takes nothing from this node."""

    connected: bool
    url: str | None = None
    since: str | None = None
    reason: str | None = None
    next_try_at: str | None = None
    attempt: int | None = None
    latency_ms: int | None = None
    node_id: str | None = None
    refused: str | None = None


class OutboxStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """What waits for the control plane. `bytes` of what is kept for it alone; `dropped` for lack of room and
    `refused` by it since the node joined, `dropped_now` of them since everything was told last; `reason` is
    why the last round ended early, `last_push_at` when one went well."""

    items: int
    bytes: int
    bytes_max: int
    oldest_at: str | None = None
    dropped: int = 0
    refused: int = 0
    dropped_now: int = 0
    last_push_at: str | None = None
    reason: str | None = None
    streams: dict[str, int] = {}


class PolicyStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The policy cache. `version` is the highest revision of any policy; `age_sec` since the last change."""

    policies: int
    version: int
    age_sec: int | None = None
    expired: int = 0
    held: int = 0  # known from peers, but behind a local entry
    peers: int = 0
    peers_agree: int = 0
    reason: str | None = None


class PeersStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """LAN peers."""

    enabled: bool
    trusted: int = 0
    linked: int = 0
    address: str | None = None
    reason: str | None = None
    refused: int = 0  # messages since the start


class LeasesStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """Session leases."""

    active: int
    bytes: int = 0
    clock_doubt: str | None = None


class AuditStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The audit chain. `checkpoint_seq` is the last record under a signed checkpoint; `broken_at` the first
    record that does not hold."""

    records: int
    head_seq: int
    checkpoint_seq: int = 0
    acknowledged_seq: int = 0
    broken_at: int | None = None
    reason: str | None = None


class DeltaVStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """The efficiency metric: its sum since `since`, and over the last window."""

    value: float | None
    since: str
    samples: int = 0
    refused: int = 0
    window_sec: int = 3600
    window_value: float | None = None
    spark: list[float] = msgspec.field(default_factory=list)
    source: str | None = None
    confidence: str | None = None
    reason: str | None = None
