"""The node's clock (`/api/v1/node/clock`)."""

import msgspec


class ClockView(msgspec.Struct, omit_defaults=True):
    """`mark`: the node is certain that this instant is past; `now`: what expiry is held against.

    `confirmed`: the wall clock fitted since the machine was started. `synchronised`: the kernel says that
    the wall clock is right. `doubt` says why the wall clock is not believed.
    """

    wall: str
    mark: str
    now: str
    confirmed: bool
    synchronised: bool
    doubt: str | None = None
    audit_id: int | None = None


class ClockAcceptRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/clock/accept`: an operator answers for the wall clock as it is."""
