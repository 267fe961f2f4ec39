"""Messages between administrators and the control plane (keys are snake_case)."""

import msgspec


class ThrottleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/admin/throttle-overrides`: so many requests a minute and at once, for each address of
    `client` (an address or a network), or for the account `user_id` wherever it calls from, for `expires_in`
    seconds."""

    tier: str
    rpm: int
    burst: int
    expires_in: int
    client: str | None = None
    user_id: str | None = None
    reason: str | None = None


class ThrottleView(msgspec.Struct):
    """One override. Either `client` or `user_id` is there."""

    override_id: str
    tier: str
    client: str | None
    user_id: str | None
    rpm: int
    burst: int
    reason: str | None
    created_by: str
    created_at: str
    expires_at: str


class ThrottlesAnswer(msgspec.Struct):
    """`GET /api/v1/admin/throttle-overrides`: those that have not expired, oldest first."""

    overrides: list[ThrottleView]
