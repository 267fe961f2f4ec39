"""LAN peers under `/api/v1/node`, keys in snake_case. `name` and `address` are what a peer says of itself."""

import msgspec

from ambientd.wire.outbox_messages import ControlSyncView

NAME_MAX = 64


class PeerView(msgspec.Struct, omit_defaults=True):
    """One key. `trusted` tells who said so: `configuration`, `operator`, `roster` (the control
    plane's), or nothing for a stranger.

    `state` is `linked`, `away` or `stranger`. `agrees`: whether it holds the same policies, as far as is
    known. `synced_at`: when a comparison with it last ended, or both were last seen to hold the same.
    `clock_offset_ms` is its clock less ours. `refused` counts its messages by reason code, since the start.
    `called` is the operator's name for it, else the id that the roster gives it.
    """

    key: str
    state: str
    trusted: str = ""
    called: str = ""
    name: str = ""
    address: str = ""
    since: str | None = None
    seen_at: str | None = None
    synced_at: str | None = None
    agrees: bool | None = None
    policies: int | None = None
    clock_offset_ms: int | None = None
    refused: dict[str, int] = {}
    reason: str | None = None


class PeersView(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/peers`. `key` is this node's own, to be trusted by others; `reason` tells why peers
    are off, or why nobody can connect."""

    enabled: bool
    network: str
    key: str | None = None
    listening: str | None = None
    discovery: str = "off"
    receive_only: bool = False
    reason: str | None = None
    peers: list[PeerView] = []


class TrustRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/peers/trust`."""

    key: str
    name: str = ""


class TrustAnswer(msgspec.Struct):
    """What is trusted, or not any more. `changed` is false where it was so before."""

    ok: bool
    key: str
    name: str
    changed: bool
    audit_id: int


class SyncRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/sync`: one round now; without either of the two, with everything there is."""

    peers: bool = False
    control_plane: bool = False
    dry_run: bool = False


class SyncRefusal(msgspec.Struct):
    """One item that was not taken, or a whole message (then without `item`)."""

    code: str
    item: str = ""


class SyncedPeer(msgspec.Struct):
    """What one peer brought. `kept` of its items were known here, or stand behind an entry of this node;
    `policies` is how many it holds; `error` tells why there was no round."""

    key: str
    name: str = ""
    called: str = ""
    policies: int | None = None
    seen_at: str | None = None
    added: int = 0
    kept: int = 0
    refused: list[SyncRefusal] = []
    agrees: bool | None = None
    error: str | None = None


class SyncView(msgspec.Struct, omit_defaults=True):
    """The outcome of a round. `receive_only`: without an upstream nothing is passed on."""

    dry_run: bool
    receive_only: bool
    added: int
    kept: int
    refused: int
    peers: list[SyncedPeer] = []
    control_plane: str | None = None
    control: ControlSyncView | None = None
