"""The JSON store of the earlier generation, read through the same contract as every other source (9.2.5).

The store is one JSON object. `ledger` holds a row per session (`sessionId`, `agentId`, `modelId`, `status`,
`startedAt` and, when known, `endedAt`, task, error and run fields; `runtimeMs` is 0 when nobody knew),
`usage` at most one row per session (tokens, `runtimeMs`, `costUsd` with `costConfidence`), `events` the
events of all sessions (`eventId`, `seq`, `eventType`, `eventTs`, `payload`). A row becomes the `v1` envelope
that its sender would send today; whatever that contract refuses is refused here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ambientd.core.contracts import checks, registry
from ambientd.core.contracts.adapters import Given
from ambientd.core.contracts.canonical import CanonicalIngest
from ambientd.core.contracts.problems import Found
from ambientd.core.pricing import PROVIDER_NATIVE, Cost
from ambientd.core.rejection import Rejected
from ambientd.wire.enums import CostConfidence, CostSource, MetricConfidence
from ambientd.wire.legacy_messages import LegacyRecord

SOURCE = "legacy-json"
# The earlier generation's estimates named their table, or nothing before they did.
UNNAMED_TABLE = "legacy"
COLLECTIONS = ("ledger", "events", "usage")

# Not the sender's words but the store's own notes; the rest of a row goes to the contract as it is.
_LEDGER_NOTES = frozenset({"ingestedAt", "runtimeMs"})
_USAGE_NOTES = frozenset(
    {
        "sessionId",
        "computedAt",
        "costUsd",
        "costConfidence",
        "costConfidenceLevel",
        "costSource",
        "pricingVersion",
        "runtimeConfidence",
        "runtimeMs",
        "runtimeSource",
        "tokenConfidence",
        "tokenSource",
        "totalTokens",
    }
)


class Normalised(NamedTuple):
    """A record as the contract reads it. `estimate` is a cost that the earlier generation had estimated."""

    ingest: CanonicalIngest
    estimate: Cost | None


def normalise(record: LegacyRecord) -> Normalised | Rejected:
    """The record as a canonical ingest, or everything that is wrong with it."""
    ledger, usage = record.ledger, record.usage
    found = Found()
    if not isinstance(ledger, dict):
        found.wrong_type("ledger", "object")
    if usage is not None and not isinstance(usage, dict):
        found.wrong_type("usage", "object")
    estimate = None
    if isinstance(usage, dict):
        estimate = _check_cost(usage, found)
    if found:
        return registry.invalid(*found.details)
    session = {name: value for name, value in ledger.items() if name not in _LEDGER_NOTES}
    document = {
        "envelope_version": "v1",
        "source": SOURCE,
        "payload": {
            "session": session,
            "usage": _usage(ledger, usage or {}),
            "events": _events(record.events),
        },
    }
    read = registry.read(document)
    return read.rejected if isinstance(read, registry.Refusal) else Normalised(read, estimate)


def _usage(ledger: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in usage.items() if name not in _USAGE_NOTES}
    runtime = _said_runtime(ledger, usage)
    if runtime is not None:
        said["runtimeMs"] = runtime
    if _said_total(usage):
        said["totalTokens"] = usage["totalTokens"]
    if usage.get("costConfidence") == CostConfidence.EXACT and usage.get("costUsd") is not None:
        said["costUsd"] = usage["costUsd"]
    return said


def _said_runtime(ledger: Mapping[str, Any], usage: Mapping[str, Any]) -> Any:
    """The runtime where it says more than start and end do: 0 stood for unknown, and most were derived."""
    value = usage.get("runtimeMs", ledger.get("runtimeMs"))
    if value in (None, 0) or usage.get("runtimeSource") == "derived":
        return None
    return value if ledger.get("endedAt") is None or not _is_span(ledger, value) else None


def _is_span(ledger: Mapping[str, Any], runtime: object) -> bool:
    found = Found()
    start = checks.instant(Given(ledger.get("startedAt"), "startedAt"), found)
    end = checks.instant(Given(ledger.get("endedAt"), "endedAt"), found)
    if start is None or end is None:
        return False
    return bool((end - start).total_seconds() * 1000 == runtime)


def _said_total(usage: Mapping[str, Any]) -> bool:
    """Whether the total was reported: with one class of tokens alone it was made up from that one."""
    total, parts = usage.get("totalTokens"), (usage.get("promptTokens"), usage.get("completionTokens"))
    if total is None:
        return False
    return None not in parts or total not in parts


def _events(events: Sequence[Any]) -> list[Any]:
    """The events in order. Numbers that this ledger cannot keep as they are are left out, all of them."""
    numbers = [event.get("seq") for event in events if isinstance(event, dict)]
    usable = [number for number in numbers if type(number) is int and number >= 1]
    if len(usable) == len(numbers) == len(set(usable)):
        return list(events)
    known = [event for event in events if isinstance(event, dict)]
    others = [event for event in events if not isinstance(event, dict)]
    known.sort(key=lambda event: event["seq"] if type(event.get("seq")) is int else 0)
    return [{name: value for name, value in event.items() if name != "seq"} for event in known] + others


def _check_cost(usage: Mapping[str, Any], found: Found) -> Cost | None:
    """The estimate in the row, if there is one; a cost without its confidence says nothing."""
    cost, confidence = usage.get("costUsd"), usage.get("costConfidence")
    words = [word.value for word in CostConfidence]
    if confidence is None and cost is not None:
        found.required("usage.costConfidence", ", ".join(words))
    elif confidence is not None and confidence not in words:
        found.add("usage.costConfidence", "enum", "is not a word of this store", ", ".join(words))
    if confidence != CostConfidence.ESTIMATED or cost is None:
        return None
    amount = checks.amount(Given(cost, "usage.costUsd"), found)
    version = usage.get("pricingVersion")
    table = UNNAMED_TABLE
    if version not in (None, "", PROVIDER_NATIVE):
        table = checks.line(Given(version, "usage.pricingVersion"), found) or UNNAMED_TABLE
    if amount is None:
        return None
    return Cost(
        usd=amount,
        source=CostSource.ESTIMATED_FROM_PRICING,
        confidence=CostConfidence.ESTIMATED,
        level=MetricConfidence.LOW,  # one flat rate for every model and class of tokens
        pricing_version=table,
    )


class Grouped(NamedTuple):
    """The records of a document, and how many rows belong to none of them."""

    records: list[LegacyRecord]
    stray: int


def group(document: object) -> Grouped | str:
    """The records of a store, or a sentence that says why it is none."""
    if not isinstance(document, dict):
        return "it is no JSON object"
    if not any(isinstance(document.get(name), list) for name in COLLECTIONS):
        return "it has none of the lists of that store (ledger, events, usage)"
    records: list[LegacyRecord] = []
    by_id: dict[str, LegacyRecord] = {}
    stray = 0
    for row in _rows(document, "ledger"):
        record = LegacyRecord(ledger=row, events=[])
        records.append(record)
        session_id = row.get("sessionId") if isinstance(row, dict) else None
        if isinstance(session_id, str):
            by_id.setdefault(session_id, record)
    for name in ("usage", "events"):
        for row in _rows(document, name):
            owner = _owner(by_id, row)
            if owner is None:
                stray += 1
            elif name == "usage":
                owner.usage = row
            else:
                owner.events.append(row)
    return Grouped(records, stray)


def _owner(by_id: Mapping[str, LegacyRecord], row: object) -> LegacyRecord | None:
    session_id = row.get("sessionId") if isinstance(row, dict) else None
    return by_id.get(session_id) if isinstance(session_id, str) else None


def _rows(document: Mapping[str, Any], name: str) -> Iterable[Any]:
    rows = document.get(name)
    return rows if isinstance(rows, list) else ()
