"""Showing the node's identity, binding it to this host, and making a new one."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from ambientd.core.ed25519 import show_key
from ambientd.core.identity import Rollover, parse_rollover
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected
from ambientd.ports.clock import Clock
from ambientd.ports.errors import IdentityError
from ambientd.ports.identity import IdentityControl
from ambientd.ports.store import Store, Transaction
from ambientd.wire.identity_messages import IdentityView, RolloverView

NODE = "node"
KEEP, RENEW = "identity.keep", "identity.renew"


class Identifying(msgspec.Struct, frozen=True, kw_only=True):
    """What the use cases need, given once."""

    store: Store
    clock: Clock
    identity: IdentityControl


async def show(identifying: Identifying) -> IdentityView:
    """Who the node is, with all keys before. Raises what `Store.read` raises."""
    identity = identifying.identity

    def work(tx: Transaction) -> IdentityView:
        key = identity.known_key
        return IdentityView(
            key=None if key is None else show_key(key),
            usable=identity.problem is None,
            place=identity.place,
            host_id=identity.host_id,
            from_credential=identity.from_credential,
            bound_to=identity.bound_to,
            reason=identity.problem,
            rollovers=[_rollover_view(text) for text in tx.identity.rollovers()],
        )

    return await identifying.store.read(work)


def _rollover_view(text: str) -> RolloverView:
    found = parse_rollover(text)
    if found is None:
        return RolloverView(old_key="", new_key="", at="", genuine=False, statement=text)
    return RolloverView(
        old_key=show_key(found.old_key),
        new_key=show_key(found.new_key),
        at=found.at,
        genuine=found.is_genuine,
        statement=text,
    )


async def keep(identifying: Identifying, *, actor: str) -> IdentityView | Rejected:
    """Binds the key to this host: a copy of another node's state becomes that node.

    The intent is recorded before, what came of it after. Raises what `Store.write` raises.
    """
    identity = identifying.identity
    if identity.problem is None and identity.bound_to == identity.host_id:
        return msgspec.structs.replace(await show(identifying), changed=False)
    detail = {"from_host": identity.bound_to or "", "to_host": identity.host_id}

    async def act() -> AuditEntry:
        await identity.keep()
        return _entry(identifying, "identity.kept", actor, detail)

    return await _ordered(identifying, KEEP, actor, detail, act)


async def renew(identifying: Identifying, *, actor: str) -> IdentityView | Rejected:
    """Makes a new key; the old file stays beside it, the statement that one follows the other is kept.

    The intent is recorded before, what came of it after. Raises what `Store.write` raises.
    """
    identity, previous = identifying.identity, ""

    async def act() -> AuditEntry:
        nonlocal previous
        kept = await identity.renew(identifying.clock.now())
        previous = "" if kept is None else kept.name
        return _renewed(identifying, identity.rollover, actor, previous)

    answer = await _ordered(identifying, RENEW, actor, {"place": identity.place}, act)
    if isinstance(answer, Rejected):
        return answer
    return msgspec.structs.replace(answer, previous=previous or None)


def _renewed(identifying: Identifying, rollover: Rollover | None, actor: str, previous: str) -> AuditEntry:
    """The statement is part of the record, so that whoever gets the chain can show it."""
    detail: dict[str, object] = {"previous": previous}
    if rollover is None:
        key = identifying.identity.known_key
        detail |= {"new_key": "" if key is None else show_key(key)}
    else:
        detail |= {
            "old_key": show_key(rollover.old_key),
            "new_key": show_key(rollover.new_key),
            "statement": rollover.text,
        }
    return _entry(identifying, "identity.renewed", actor, detail)


async def note_rollover(identifying: Identifying) -> None:
    """Keeps the statement of the key file where a crash, or an older database, has left it out."""
    rollover = identifying.identity.rollover
    if rollover is None:
        return

    def work(tx: Transaction) -> None:
        if _keep_rollover(tx, rollover):
            tx.audit.append(_renewed(identifying, rollover, NODE, ""))

    await identifying.store.write(work)


def _keep_rollover(tx: Transaction, rollover: Rollover) -> bool:
    return tx.identity.keep_rollover(
        old_key=show_key(rollover.old_key), new_key=show_key(rollover.new_key), statement=rollover.text
    )


async def _ordered(
    identifying: Identifying,
    kind: str,
    actor: str,
    detail: dict[str, str],
    act: Callable[[], Awaitable[AuditEntry]],
) -> IdentityView | Rejected:
    intent = _entry(identifying, kind, actor, detail)
    await identifying.store.write(lambda tx: tx.audit.append(intent))
    try:
        done = await act()
    except (IdentityError, OSError) as error:
        reason = str(error) if isinstance(error, IdentityError) else f"the key cannot be written: {error}"
        failed = _entry(identifying, f"{kind}.refused", actor, {"code": "IDENTITY_REFUSED"})
        await identifying.store.write(lambda tx: tx.audit.append(failed))
        return Rejected("IDENTITY_REFUSED", reason)

    def work(tx: Transaction) -> int:
        rollover = identifying.identity.rollover
        if rollover is not None:
            _keep_rollover(tx, rollover)
        return tx.audit.append(done)

    audit_id = await identifying.store.write(work)
    return msgspec.structs.replace(await show(identifying), changed=True, audit_id=audit_id)


def _entry(identifying: Identifying, kind: str, actor: str, detail: Mapping[str, object]) -> AuditEntry:
    return AuditEntry(kind=kind, at=identifying.clock.now(), actor=actor, subject=NODE, detail=detail)
