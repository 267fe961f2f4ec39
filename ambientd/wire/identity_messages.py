"""Messages of the identity's routes (`/api/v1/node/identity`). The seed is in none of them."""

import msgspec


class RolloverView(msgspec.Struct):
    """A key that followed another. `statement` is what both have signed, to be shown to others."""

    old_key: str
    new_key: str
    at: str
    genuine: bool
    statement: str


class IdentityView(msgspec.Struct, omit_defaults=True):
    """Who the node is. `usable` is false with a `reason` when nothing may be signed with the key; `bound_to`
    is the host it was made on, absent for a key bound to none."""

    key: str | None
    usable: bool
    place: str
    host_id: str
    from_credential: bool = False
    bound_to: str | None = None
    reason: str | None = None
    rollovers: list[RolloverView] = msgspec.field(default_factory=list)
    changed: bool | None = None
    previous: str | None = None
    audit_id: int | None = None
