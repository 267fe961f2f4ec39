"""What the node tells of its outbox and of its membership (keys are snake_case, as under `/api/v1`)."""

import msgspec

from ambientd.wire.outbox_enums import OutboxStream


class StreamRow(msgspec.Struct, omit_defaults=True):
    """One stream. `sent` in this round; `acknowledged`, `dropped` and `refused` since the node joined."""

    stream: OutboxStream
    waiting: int
    acknowledged: int
    dropped: int = 0
    refused: int = 0
    sent: int = 0
    problem: str | None = None


class OutboxView(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/outbox`. `bytes` of reports and results; other streams are not copied."""

    joined: bool
    streams: list[StreamRow]
    waiting: int
    bytes: int
    bytes_max: int
    oldest_at: str | None = None


class ItemsRow(msgspec.Struct, omit_defaults=True):
    """What came down in this round."""

    kind: str
    seen: int
    taken: int
    refused: int = 0


class ControlSyncView(msgspec.Struct, omit_defaults=True):
    """One round with the control plane. `reason` says why it ended before everything was sent; `refused`: it
    does not know this node's credential."""

    url: str
    node_id: str
    complete: bool
    streams: list[StreamRow]
    items: list[ItemsRow]
    started: int = 0
    dry_run: bool = False
    refused: bool = False
    reason: str | None = None


class JoinRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/membership`. Without a name the node's own is used."""

    url: str
    join_token: str
    node_id: str | None = None
    region: str | None = None
    node_type: str | None = None


class MembershipView(msgspec.Struct, omit_defaults=True):
    """Where the node belongs; never its token."""

    joined: bool
    url: str | None = None
    node_id: str | None = None
    owner_id: str | None = None
    credential_id: str | None = None
    network: str | None = None
    issuers: list[str] = []
    lease_issuers: list[str] = []
    joined_at: str | None = None
    problem: str | None = None
    audit_id: int | None = None
