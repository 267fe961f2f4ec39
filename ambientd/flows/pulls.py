"""What comes down from the control plane signed: policies and tombstones, leases and revocations."""

from collections.abc import Sequence

import msgspec

from ambientd.core.controlreply import words_of
from ambientd.core.lease import Lease, parse_body
from ambientd.core.outbox import Meaning, Reply, is_number, meaning_of
from ambientd.core.policybundle import item_of
from ambientd.core.rejection import Rejected
from ambientd.core.signeditem import SignedItem
from ambientd.flows.leases import Leases
from ambientd.flows.policycache import ITEMS_MAX, PolicyCache
from ambientd.flows.push import Pushing, Step
from ambientd.ports.peers import RosterIntake
from ambientd.wire.fleet_api_messages import ItemRow, ItemsAnswer
from ambientd.wire.fleet_enums import ItemKind
from ambientd.wire.policy_messages import PolicyItem

ACTOR = "control-plane"
PAGE = 200
PAGES_MAX = 1000  # of one round; an answer that always has more is no answer


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What one round brought: items seen, items that changed something, items that this node refuses."""

    seen: int = 0
    taken: int = 0
    refused: int = 0
    step: Step = Step()


class _FailedError(Exception):
    def __init__(self, step: Step) -> None:
        super().__init__(step.text)
        self.step = step


async def pull_policies(pushing: Pushing, cache: PolicyCache, rosters: RosterIntake) -> Pulled:
    """Policies and tombstones that are new, through the policy cache's own checks, and the owner's roster.

    The place is kept after each page, so nothing is skipped: what the cache cannot take now (read-only while
    the node is offline) is asked for again.
    """
    state = await pushing.store.read(lambda tx: tx.outbox.state())
    revision, seen, taken, refused = state.policies_revision, 0, 0, 0
    try:
        for _ in range(PAGES_MAX):
            page = await _page(pushing, "policies", revision)
            items, bad = _read(page.items)
            if items:
                reports = await cache.update(items[:ITEMS_MAX], actor=ACTOR)
                if isinstance(reports, Rejected):
                    return Pulled(seen=seen, taken=taken, refused=refused, step=_held(reports))
                taken += sum(report.outcome.value in ("added", "replaced", "removed") for report in reports)
                refused += sum(report.outcome.value == "refused" for report in reports)
            listed = [item for row in page.items if row.kind is ItemKind.ROSTER and (item := _item(row))]
            if listed:
                outcome = await rosters.take(listed)
                taken, refused = taken + outcome.taken, refused + outcome.refused
            seen += len(page.items)
            refused += bad
            if page.revision != revision:
                revision = page.revision
                await pushing.store.write(
                    lambda tx: tx.outbox.put_policies_revision(revision)  # noqa: B023 - called at once
                )
            if not page.more:
                break
    except _FailedError as failed:
        return Pulled(seen=seen, taken=taken, refused=refused, step=failed.step)
    return Pulled(seen=seen, taken=taken, refused=refused)


async def pull_revocations(pushing: Pushing, leases: Leases) -> Pulled:
    """Revocations that are new end their leases; leases wait for their assignments."""
    state = await pushing.store.read(lambda tx: tx.outbox.state())
    revision, seen, taken, refused = state.leases_revision, 0, 0, 0
    try:
        for _ in range(PAGES_MAX):
            page = await _page(pushing, "leases", revision)
            for row in page.items:
                seen += 1
                item = _item(row)
                if row.kind is not ItemKind.REVOCATION:
                    continue
                outcome = "no item" if item is None else await leases.revoke(item, ACTOR)
                good = item is not None and not isinstance(outcome, Rejected)
                taken += good
                refused += not good
            if page.revision != revision:
                revision = page.revision
                await pushing.store.write(
                    lambda tx: tx.outbox.put_leases_revision(revision)  # noqa: B023 - called at once
                )
            if not page.more:
                break
    except _FailedError as failed:
        return Pulled(seen=seen, taken=taken, refused=refused, step=failed.step)
    return Pulled(seen=seen, taken=taken, refused=refused)


async def find_lease(pushing: Pushing, session_id: str) -> SignedItem | Step | None:
    """The newest lease of a session among those that the control plane offers this node."""
    revision, found = 0, None
    try:
        for _ in range(PAGES_MAX):
            page = await _page(pushing, "leases", revision)
            for row in page.items:
                item = _item(row) if row.kind is ItemKind.LEASE else None
                if item is not None and _session_of(item) == session_id:
                    found = item
            revision = page.revision
            if not page.more:
                break
    except _FailedError as failed:
        return failed.step
    return found


def _session_of(item: SignedItem) -> str | None:
    content = parse_body(item.body)
    return content.session_id if isinstance(content, Lease) else None


async def _page(pushing: Pushing, what: str, revision: int) -> ItemsAnswer:
    target = f"{pushing.base}/{what}?since_revision={revision}&limit={PAGE}"
    answer = await pushing.calls.read(target, ItemsAnswer)
    if isinstance(answer, Reply):
        raise _FailedError(Step(meaning=meaning_of(answer), reply=answer, text=words_of(answer)))
    if not is_number(answer.revision):
        raise _FailedError(Step(meaning=Meaning.AGAIN, text=f"it names no revision of {what}"))
    if answer.more and not answer.items:
        raise _FailedError(Step(meaning=Meaning.AGAIN, text="it has more items and sends none"))
    return answer


def _held(refused: Rejected) -> Step:
    return Step(meaning=Meaning.AGAIN, text=refused.message)


def _read(rows: Sequence[ItemRow]) -> tuple[list[SignedItem], int]:
    found = [
        item for row in rows if row.kind in (ItemKind.POLICY, ItemKind.TOMBSTONE) and (item := _item(row))
    ]
    wanted = sum(row.kind in (ItemKind.POLICY, ItemKind.TOMBSTONE) for row in rows)
    return found, wanted - len(found)


def _item(row: ItemRow) -> SignedItem | None:
    found = item_of(PolicyItem(body=row.body, issuer=row.issuer, signature=row.signature))
    return found if isinstance(found, SignedItem) else None
