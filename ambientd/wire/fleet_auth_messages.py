"""Messages of the control plane about accounts, tokens and devices (keys are snake_case).

Fields that are not known are refused, but for those requests that clients of the fleet API make.
"""

import msgspec

from ambientd.wire.fleet_enums import Role
from ambientd.wire.fleet_messages import CapabilitiesBody


class RegisterRequest(msgspec.Struct):
    """`POST /api/v1/auth/register`. `role` is heeded from administrators only."""

    username: str
    password: str
    email: str | None = None
    role: Role = Role.USER


class RegisterAnswer(msgspec.Struct):
    """The account and its first API key, which is shown this once."""

    user_id: str
    username: str
    email: str | None
    role: Role
    api_key: str
    message: str


class LoginRequest(msgspec.Struct):
    """`POST /api/v1/auth/login`."""

    username: str
    password: str


class RefreshRequest(msgspec.Struct):
    """`POST /api/v1/auth/refresh` and `/auth/logout`."""

    refresh_token: str


class PasswordRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/auth/password`: the old one and the new one. API keys go on unless `revoke_api_keys`."""

    old_password: str
    new_password: str
    revoke_api_keys: bool = False


class TokensAnswer(msgspec.Struct):
    """A pair of tokens; `expires_in` is in seconds."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


class DoneAnswer(msgspec.Struct):
    """It is done."""

    message: str


class WhoAnswer(msgspec.Struct):
    """`GET /api/v1/auth/api-key/validate`: who an API key stands for."""

    user_id: str
    username: str
    role: Role
    authenticated_via: str


class ApiKeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/auth/api-keys`. Without `expires_in` (seconds) the key is good until it is revoked."""

    name: str
    scopes: list[str] = msgspec.field(default_factory=lambda: ["tasks:read", "tasks:write"])
    expires_in: int | None = None


class ApiKeyView(msgspec.Struct, omit_defaults=True):
    """One key without its secret; `api_key` only in the answer that made it."""

    key_id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: str
    expires_at: str | None = None
    last_used_at: str | None = None
    revoked_at: str | None = None
    api_key: str | None = None


class ApiKeysAnswer(msgspec.Struct):
    """The keys of an account."""

    keys: list[ApiKeyView]


class JoinTokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/join-tokens`. `expires_in` in seconds; with `node_id` for that node alone."""

    uses: int = 1
    expires_in: int = 86_400
    node_id: str | None = None


class JoinTokenView(msgspec.Struct, omit_defaults=True):
    """One join token without its secret; `join_token` only in the answer that made it."""

    token_id: str
    created_at: str
    expires_at: str
    uses_left: int = msgspec.field(default_factory=int)
    node_id: str | None = None
    revoked_at: str | None = None
    join_token: str | None = None


class JoinTokensAnswer(msgspec.Struct):
    """An owner's join tokens, newest first."""

    tokens: list[JoinTokenView]


class EnrolRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/nodes/enrol`: a node joins by a join token and its own key.

    `public_key` is `ed25519:` and 64 hexadecimal digits; `proof` the key's signature (hexadecimal) over node
    id, key and the SHA-256 of the token.
    """

    join_token: str
    node_id: str
    public_key: str
    proof: str
    region: str
    node_type: str
    capabilities: CapabilitiesBody
    report_interval_sec: int = 60
    observability_port: int | None = None


class RotateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/nodes/{id}/credential/rotate`: as `EnrolRequest`; the proof is over the credential's id
    in place of the token."""

    public_key: str
    proof: str


class EnrolAnswer(msgspec.Struct):
    """The node's credential; `device_token` is shown this once. `issuers` sign its policies and leases."""

    node_id: str
    owner_id: str
    credential_id: str
    device_token: str
    incarnation: int
    network: str
    issuers: list[str]
    lease_issuers: list[str]
