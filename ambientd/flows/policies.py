"""What an operator asks of the policy cache, and answers for people and programs."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ambientd.core.connectivity import Action
from ambientd.core.ed25519 import show_key
from ambientd.core.policy import POLICY, REASONS, TOMBSTONE, Policy, Verdict, parse_body
from ambientd.core.policybundle import item_of, text_of
from ambientd.core.policymerge import REFUSALS, Outcome
from ambientd.core.policyrecords import PolicyQuery, PolicyRecord
from ambientd.core.rejection import Rejected, reject
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import from_ms, rfc3339_ms, to_ms
from ambientd.flows.policycache import ITEMS_MAX, ItemReport, PolicyCache
from ambientd.ports.autonomy import ConnectivityView, TrustedClock
from ambientd.wire.enums import Connectivity
from ambientd.wire.policy_messages import (
    PoliciesPage,
    PolicyCheckAnswer,
    PolicyCheckRequest,
    PolicyExportAnswer,
    PolicyImportAnswer,
    PolicyImportRequest,
    PolicyItemResult,
    PolicyItemView,
    PolicyView,
)

PAGE_MAX = 500
EXPORT_PAGE = 200  # with bodies of 16 KiB at most an answer of some megabytes, ordinarily of 100 KiB
CANDIDATES_SHOWN = 10
_LOOKED_AT = 500
NO_LINK = {
    Connectivity.NO_UPSTREAM: ("no_upstream", "nothing leaves this node: it has no upstream"),
    Connectivity.UNKNOWN: ("not_probed", "nothing leaves this node before its links were probed"),
}


class PolicyDesk(msgspec.Struct, frozen=True, kw_only=True):
    """What the use cases need, given once."""

    cache: PolicyCache
    links: ConnectivityView
    clock: TrustedClock


# --- reading


async def list_policies(desk: PolicyDesk, query: PolicyQuery) -> PoliciesPage:
    """One page of policies by id."""
    now = desk.clock.now()
    pages, totals = await desk.cache.page(msgspec.structs.replace(query, limit=query.limit + 1))
    rows = [_view(records, now) for records in pages[: query.limit]]
    more = len(pages) > query.limit
    return PoliciesPage(total=totals.policies, rows=rows, next=rows[-1].policy_id if more else None)


async def show_policy(desk: PolicyDesk, fragment: str) -> PolicyView | Rejected:
    """One policy by its id, or by a unique beginning or end of it."""
    records = await desk.cache.show(fragment)
    if not records:
        pages, _ = await desk.cache.page(PolicyQuery(text=fragment, limit=_LOOKED_AT))
        found = [
            one
            for one in pages
            if one[0].policy_id.startswith(fragment) or one[0].policy_id.endswith(fragment)
        ]
        if not found:
            return Rejected("NOT_FOUND", f"no policy has the id {fragment[:64]!r}")
        if len(found) > 1:
            shown = [(one[0].policy_id, "candidate", one[0].kind) for one in found[:CANDIDATES_SHOWN]]
            text = f"{fragment[:64]!r} fits {len(found)} policies; give more of the id"
            return reject("AMBIGUOUS", text, *shown)
        records = found[0]
    return _view(records, desk.clock.now())


def _view(records: Sequence[PolicyRecord], now: datetime) -> PolicyView:
    first = _item_view(records[0])
    held = _item_view(records[1]) if len(records) > 1 else None
    return PolicyView(
        policy_id=records[0].policy_id, state=_state(records[0], first, to_ms(now)), item=first, held=held
    )


def _state(record: PolicyRecord, view: PolicyItemView, now: int) -> str:
    if record.not_after <= now:
        return "expired"
    if record.kind == TOMBSTONE:
        return "removed"
    return (
        "not_yet_valid"
        if view.not_before is not None and rfc3339_ms(from_ms(now)) < view.not_before
        else "in_force"
    )


def _item_view(record: PolicyRecord) -> PolicyItemView:
    content = parse_body(record.item.body)
    view = PolicyItemView(
        kind=record.kind,
        revision=record.revision,
        item_id=record.item_id.hex(),
        issuer=show_key(record.item.issuer),
        issued_at=_time(record.issued_at),
        not_after=_time(record.not_after),
        way=record.way.value,
        sender=record.sender,
        received_at=_time(record.received_at),
    )
    if isinstance(content, Policy):
        view.not_before = _time(content.not_before)
        view.destinations = list(content.destinations)
        view.protocols = [protocol.value for protocol in content.protocols]
    return view


def _time(ms: int) -> str:
    return rfc3339_ms(from_ms(ms))


# --- checking


async def check_egress(desk: PolicyDesk, request: PolicyCheckRequest) -> PolicyCheckAnswer:
    """Whether traffic may leave now: first by the links, then by the policies (R1.51)."""
    state, may_leave = desk.links.state, desk.links.may(Action.EGRESS)
    verdict = await desk.cache.check(
        request.destination, request.protocol, policy_id=request.policy_id, address=request.address
    )
    reason, message = verdict.reason, say(verdict)
    if not may_leave:
        reason, told = NO_LINK.get(state, ("not_allowed", f"nothing leaves this node while {state}"))
        message = f"{told} (policies: {message})"
    return PolicyCheckAnswer(
        allowed=may_leave and verdict.allowed,
        reason=reason,
        message=message,
        state=state.value,
        policy_allows=verdict.allowed,
        destination=verdict.destination or None,
        policy_id=verdict.policy_id,
    )


def say(verdict: Verdict) -> str:
    """A verdict for people."""
    text = REASONS[verdict.reason]
    return f"{text}: {verdict.detail}" if verdict.detail else text


# --- bundles


async def import_items(
    desk: PolicyDesk, request: PolicyImportRequest, *, actor: str
) -> PolicyImportAnswer | Rejected:
    """What an issuer made, brought by an operator; every item is reported."""
    if len(request.items) > ITEMS_MAX:
        text = f"holds more than {ITEMS_MAX} items; hand them in by parts"
        return reject("VALIDATION_ERROR", f"the import {text}", ("items", "length", text))
    parsed = [item_of(one) for one in request.items]
    good = [one for one in parsed if isinstance(one, SignedItem)]
    may_change, state = desk.cache.may_change, desk.links.state
    reports = iter(await desk.cache.bring(good, actor=actor, dry_run=request.dry_run))
    results = [
        PolicyItemResult(place=place, outcome=Outcome.REFUSED.value, code="malformed", message=one)
        if isinstance(one, str)
        else _result(place, next(reports))
        for place, one in enumerate(parsed)
    ]
    counts = {outcome: sum(one.outcome == outcome for one in results) for outcome in Outcome}
    return PolicyImportAnswer(
        state=state.value,
        may_change=may_change,
        dry_run=request.dry_run,
        added=counts[Outcome.ADDED],
        replaced=counts[Outcome.REPLACED],
        removed=counts[Outcome.REMOVED],
        held=counts[Outcome.HELD],
        kept=counts[Outcome.KNOWN] + counts[Outcome.OLDER],
        refused=counts[Outcome.REFUSED],
        results=results,
    )


def _result(place: int, report: ItemReport) -> PolicyItemResult:
    text = REFUSALS.get(report.code, "")
    return PolicyItemResult(
        place=place,
        outcome=report.outcome.value,
        policy_id=report.policy_id or None,
        revision=report.revision or None,
        kind=(TOMBSTONE if report.is_tombstone else POLICY) if report.policy_id else None,
        code=report.code or None,
        message=f"{text}: {report.detail}" if report.detail else text or None,
    )


async def export_items(desk: PolicyDesk, after: str) -> PolicyExportAnswer:
    """Items of policies whose ids follow `after`, one page, as another node imports them."""
    pages, _ = await desk.cache.page(PolicyQuery(after=after, limit=EXPORT_PAGE))
    now = to_ms(desk.clock.now())
    # The last one is the held one, where there is one: the highest that is known.
    items = [text_of(records[-1].item) for records in pages if records[-1].not_after > now]
    following = pages[-1][0].policy_id if len(pages) == EXPORT_PAGE else None
    return PolicyExportAnswer(items=items, next=following)
