"""A joined node exchanges its credential for a new one, without a moment in which it has none."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec

from ambientd.core.controlreply import words_of
from ambientd.core.ed25519 import show_key
from ambientd.core.fleet.signing import enrol_bytes
from ambientd.core.membership import Membership
from ambientd.core.outbox import Meaning, Reply, meaning_of
from ambientd.core.rejection import Rejected
from ambientd.flows.membership import DEVICE_TOKEN, Joining, note, view_membership
from ambientd.ports.controlplane import ControlCalls
from ambientd.ports.errors import IdentityError, UnavailableError
from ambientd.wire.fleet_api_messages import NodeDone
from ambientd.wire.fleet_auth_messages import EnrolAnswer, RotateRequest
from ambientd.wire.outbox_messages import MembershipView

OpenLink = Callable[[Membership], AbstractAsyncContextManager[ControlCalls]]
_STILL = "the new credential is in use, and the old one still counts; renew it once more"


async def renew(joining: Joining, open_link: OpenLink, *, actor: str) -> MembershipView | Rejected:
    """A new credential for the same key, kept here before the old one is given up there.

    Whatever is lost on the way, one of the two counts; it may be repeated. Raises as `Store` does.
    """
    current = joining.file.current
    if current is None:
        return Rejected("NO_CONTROL_PLANE", "this node belongs to no control plane")
    if why := joining.offline():
        return Rejected("LINKS_REFUSE", f"no call is made: {why}")
    detail = {"url": current.url, "node": current.node_id}
    await note(joining, "control.renew", actor, detail)
    try:
        new = await _renewed(current, joining, open_link)
    except IdentityError as error:
        new = Rejected("IDENTITY_REFUSED", str(error))
    except UnavailableError as error:
        new = Rejected("CONTROL_UNREACHABLE", f"{current.url}: {error}")
    if isinstance(new, Rejected):
        await note(joining, "control.renew.result", "node", detail | {"code": new.code})
        return new
    result = detail | {"credential": new.credential_id, "before": current.credential_id}
    audit_id = await note(joining, "control.renew.result", "node", result)
    unconfirmed = await _confirmed(new, open_link)
    if unconfirmed is not None:
        return Rejected("CONTROL_UNREACHABLE", f"{new.url}: {unconfirmed}; {_STILL}")
    view = view_membership(joining.file)
    view.audit_id = audit_id
    return view


async def _renewed(current: Membership, joining: Joining, open_link: OpenLink) -> Membership | Rejected:
    key = joining.identity.public_key
    message = enrol_bytes(node_id=current.node_id, public_key=key, join_token=current.credential_id)
    body = RotateRequest(public_key=show_key(key), proof=joining.identity.sign(message).hex())
    async with open_link(current) as link:
        answer = await link.change("POST", f"{_path(current)}/rotate", body, EnrolAnswer)
    if isinstance(answer, Reply):
        code = "NOT_AUTHENTICATED" if meaning_of(answer) is Meaning.GONE else "CONTROL_UNREACHABLE"
        return Rejected(code, f"{current.url}: {words_of(answer)}")
    if answer.node_id != current.node_id or DEVICE_TOKEN.fullmatch(answer.device_token) is None:
        return Rejected("CONTROL_UNREACHABLE", f"{current.url}: its answer is not sound")
    new = msgspec.structs.replace(
        current,
        credential_id=answer.credential_id,
        device_token=answer.device_token,
        incarnation=answer.incarnation,
        public_key=show_key(key),
    )
    try:
        await joining.file.write(new)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        return Rejected("STORAGE_UNAVAILABLE", f"the membership cannot be written: {why}")
    return new


async def _confirmed(new: Membership, open_link: OpenLink) -> str | None:
    """Gives the old credential up there; else why that could not be done."""
    try:
        async with open_link(new) as link:
            answer = await link.change("POST", f"{_path(new)}/confirm", b"", NodeDone)
    except UnavailableError as error:
        return str(error)
    return words_of(answer) if isinstance(answer, Reply) else None


def _path(membership: Membership) -> str:
    return f"/api/v1/nodes/{membership.node_id}/credential"
