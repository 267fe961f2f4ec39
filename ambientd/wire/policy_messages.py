"""Messages of the policy cache's routes (`/api/v1/node/policies`). Keys are only ever added."""

import msgspec


class PolicyItem(msgspec.Struct):
    """A signed item: the canonical JSON of its body as text, the issuer's key (`ed25519:` and hexadecimal
    digits), the signature in hexadecimal digits. A line of a bundle is one of these."""

    body: str
    issuer: str
    signature: str


class PolicyImportRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/policies/import`."""

    items: list[PolicyItem]
    dry_run: bool = False


class PolicyItemResult(msgspec.Struct, omit_defaults=True):
    """What became of the item at a place of the request (from 0).

    `outcome` is added, replaced, removed, held (newer, kept behind what is in force), known, older or
    refused; then `code` and `message` say why.
    """

    place: int
    outcome: str
    policy_id: str | None = None
    revision: int | None = None
    kind: str | None = None
    code: str | None = None
    message: str | None = None


class PolicyImportAnswer(msgspec.Struct):
    """What an import came to. `may_change`: whether the node's state let it replace and remove."""

    state: str
    may_change: bool
    dry_run: bool
    added: int
    replaced: int
    removed: int
    held: int
    kept: int
    refused: int
    results: list[PolicyItemResult]


class PolicyExportAnswer(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/policies/export`: the highest item of each policy, as peers are told them.

    `next`, given as `after`, goes on.
    """

    items: list[PolicyItem]
    next: str | None = None


class PolicyItemView(msgspec.Struct, omit_defaults=True):
    """One item. `way` is how it came: control_plane, operator or peer; `sender` who brought it."""

    kind: str
    revision: int
    item_id: str
    issuer: str
    issued_at: str
    not_after: str
    way: str
    sender: str
    received_at: str
    not_before: str | None = None
    destinations: list[str] | None = None
    protocols: list[str] | None = None


class PolicyView(msgspec.Struct, omit_defaults=True):
    """One policy id. `state` is in_force, not_yet_valid, expired or removed; `held` is what is newer but
    may not take its place yet."""

    policy_id: str
    state: str
    item: PolicyItemView
    held: PolicyItemView | None = None


class PoliciesPage(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/policies`, by id. `total` counts the policies in force, whatever is listed."""

    total: int
    rows: list[PolicyView]
    next: str | None = None


class PolicyCheckRequest(msgspec.Struct):
    """`GET /api/v1/node/policies/check`. `address` is what the destination's name was resolved to."""

    destination: str
    protocol: str | None = None
    policy_id: str | None = None
    address: str | None = None


class PolicyCheckAnswer(msgspec.Struct, omit_defaults=True):
    """Whether traffic may leave now. `reason` is a code, `message` says it for people; `policy_allows` is
    what policies say whatever the links are; `destination` how the destination was read."""

    allowed: bool
    reason: str
    message: str
    state: str
    policy_allows: bool
    destination: str | None = None
    policy_id: str | None = None
