"""New prices on old rows: an explicit order, never a side effect of a new table (R3.180)."""

from collections.abc import Callable, Iterable
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

import msgspec

from ambientd.config.schema import PricingConfig
from ambientd.core.pricing import PriceTable, current_table, named_table, price_usage
from ambientd.core.records import AuditEntry, Costable, UsageRecord
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import parse_rfc3339
from ambientd.ports.clock import Clock
from ambientd.ports.store import Store, Transaction
from ambientd.wire.recost_messages import ROWS_MAX, RecostAnswer, RecostRequest

# Rows of one transaction: an ingest that waits behind it waits for some milliseconds.
BATCH_ROWS = 200
_COST_FIELDS = ("cost_usd", "cost_source", "cost_confidence", "cost_confidence_level", "pricing_version")


class Recosting(msgspec.Struct, frozen=True, kw_only=True):
    """What the use case needs, given once."""

    store: Store
    clock: Clock
    pricing: Callable[[], PricingConfig]


class Scope(NamedTuple):
    """A checked order."""

    table: PriceTable
    since: datetime | None
    until: datetime | None


class Tally(msgspec.Struct):
    """What was found so far; sums are exact."""

    read: int = 0
    changed: int = 0
    unchanged: int = 0
    unpriced: int = 0
    before: Fraction = Fraction(0)
    after: Fraction = Fraction(0)


async def recost(recosting: Recosting, order: RecostRequest, *, actor: str) -> RecostAnswer | Rejected:
    """Costs one stretch of rows anew, in batches; the same again changes nothing.

    Costs that a provider reported stay. Aggregates follow in the same transaction. A call that changed
    something leaves an audit record. Raises what the store raises; batches before it stay done.
    """
    scope = check_order(order, recosting.pricing())
    if isinstance(scope, Rejected):
        return scope
    tally, after, more = Tally(), order.after, True
    while more and tally.read < order.rows:
        limit = min(BATCH_ROWS, order.rows - tally.read)
        rows = await recosting.store.read(_reading(after, limit, scope))
        more = len(rows) == limit
        if rows:
            after = rows[-1].key
        changes = _weigh(rows, scope.table, tally)
        if changes and not order.dry_run:
            at = recosting.clock.now()
            await recosting.store.write(_writing(changes, scope.table, at))
    if tally.changed and not order.dry_run:
        entry = _entry(tally, scope.table.version, recosting.clock.now(), actor)
        await recosting.store.write(lambda tx: tx.audit.append(entry))
    return RecostAnswer(
        version=scope.table.version,
        dry_run=order.dry_run,
        read=tally.read,
        changed=tally.changed,
        unchanged=tally.unchanged,
        unpriced=tally.unpriced,
        cost_before_usd=float(tally.before),
        cost_after_usd=float(tally.after),
        next=after if more else None,
    )


def check_order(order: RecostRequest, pricing: PricingConfig) -> Scope | Rejected:
    """The table and the bounds that an order means, or what is wrong with it."""
    problems: list[tuple[str, str, str]] = []
    since = _instant(order.since, "since", problems)
    until = _instant(order.until, "until", problems)
    if not 1 <= order.rows <= ROWS_MAX:
        problems.append(("rows", "range", f"must be from 1 to {ROWS_MAX}"))
    if not 0 <= order.after < 2**63:
        problems.append(("after", "range", "must be `next` of the answer before"))
    if order.version is None:
        table = current_table(pricing)
        missing = "no price table is current: set pricing.current, or name one"
    else:
        table = named_table(pricing, order.version)
        known = ", ".join(pricing.versions) or "none"
        missing = f"is not the name of a price table; known: {known}"
    if table is None:
        problems.append(("version", "unknown", missing))
    if problems or table is None:
        return reject("VALIDATION_ERROR", "the order cannot be carried out", *sorted(problems))
    return Scope(table, since, until)


def _instant(text: str | None, name: str, problems: list[tuple[str, str, str]]) -> datetime | None:
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError:
        problems.append((name, "format", "must be RFC 3339 with an offset"))
        return None


def _reading(after: int, limit: int, scope: Scope) -> Callable[[Transaction], list[Costable]]:
    return lambda tx: tx.usage.costable(after, limit, since=scope.since, until=scope.until)


def _writing(rows: Iterable[Costable], table: PriceTable, at: datetime) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        for row in rows:
            stored = tx.usage.get(row.usage.session_id)
            if stored is None:  # retention took it in between
                continue
            priced = price_usage(stored, row.model_id, table)
            if priced.cost_usd is not None and _cost_of(priced) != _cost_of(stored):
                tx.usage.put(msgspec.structs.replace(priced, computed_at=at))
                tx.usage.account(stored.session_id)

    return work


def _weigh(rows: Iterable[Costable], table: PriceTable, tally: Tally) -> list[Costable]:
    changes = []
    for row in rows:
        tally.read += 1
        priced = price_usage(row.usage, row.model_id, table)
        if priced.cost_usd is None:
            tally.unpriced += 1
        elif _cost_of(priced) == _cost_of(row.usage):
            tally.unchanged += 1
        else:
            tally.changed += 1
            tally.before += Fraction(row.usage.cost_usd or 0)
            tally.after += Fraction(priced.cost_usd)
            changes.append(row)
    return changes


def _cost_of(usage: UsageRecord) -> tuple[object, ...]:
    return tuple(getattr(usage, name) for name in _COST_FIELDS)


def _entry(tally: Tally, version: str, at: datetime, actor: str) -> AuditEntry:
    detail = {"version": version, "changed": tally.changed, "read": tally.read}
    return AuditEntry(kind="ledger.recost", at=at, actor=actor, subject="node", detail=detail)
