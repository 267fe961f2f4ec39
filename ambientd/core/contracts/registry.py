"""Which contract versions exist, and the way from a decoded document to the canonical ingest (9.3.1)."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ambientd.core.contracts import checks
from ambientd.core.contracts.adapters import Adapted, GatewayAdapter, Given, Layout
from ambientd.core.contracts.canonical import CanonicalIngest
from ambientd.core.contracts.problems import Found, shown
from ambientd.core.contracts.validate import validate
from ambientd.core.decode import is_too_deep
from ambientd.core.rejection import Rejected
from ambientd.wire.messages import ErrorDetail

INVALID = "Invalid ingest payload"
ENVELOPE = ("envelope_version", "source", "payload", "idempotency_key")
MISSING = "missing"
UNSUPPORTED = "unsupported"


class Adapter(Protocol):
    """Takes the payload of one contract version apart; decides nothing."""

    def adapt(self, payload: Mapping[str, Any], found: Found) -> Adapted:
        """The payload's parts; everything wrong with its structure goes to `found`."""


class ContractRegistry:
    """Contract versions and their adapters; anything else is refused (fail closed)."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        """`adapters` by the exact word of their version."""
        self._adapters = dict(adapters)

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that are supported."""
        return tuple(self._adapters)

    def find(self, version: object) -> Adapter | None:
        """The adapter of a version; only the exact word counts: `V1` and 1 are other versions."""
        return self._adapters.get(version) if isinstance(version, str) else None

    def label(self, version: object) -> str:
        """The version for a counter: one of the supported, `unsupported` or `missing`, never foreign text."""
        if isinstance(version, str) and version in self._adapters:
            return version
        return MISSING if version is None else UNSUPPORTED


REGISTRY = ContractRegistry(
    {
        "v1": GatewayAdapter(Layout(session="session", events="events")),
        "v2": GatewayAdapter(Layout(session="run", events="timeline")),
    }
)


class Refusal(msgspec.Struct, frozen=True):
    """Why a document was not taken; `version` is a counter's label."""

    rejected: Rejected
    version: str


def invalid(*details: ErrorDetail) -> Rejected:
    """The refusal of a document that breaks its contract (R3.95)."""
    return Rejected("VALIDATION_ERROR", INVALID, details)


def parse(raw: bytes) -> Any | Refusal:
    """The document in `raw`, without types; a refusal when it is no JSON that can be looked at."""
    problem = None
    if is_too_deep(raw):
        problem = ErrorDetail("body", "depth", "is nested too deeply")
    else:
        try:
            return msgspec.json.decode(raw)
        except msgspec.ValidationError:
            problem = ErrorDetail("body", "range", "holds a number that is out of range")
        except UnicodeDecodeError:
            problem = ErrorDetail("body", "encoding", "is not valid UTF-8", expected="UTF-8")
        except (msgspec.DecodeError, RecursionError) as error:
            text = str(error) if isinstance(error, msgspec.DecodeError) else "nested too deeply"
            problem = ErrorDetail("body", "syntax", f"is not JSON: {text}", expected="application/json")
    return Refusal(invalid(problem), MISSING)


def read(document: Any, registry: ContractRegistry = REGISTRY) -> CanonicalIngest | Refusal:
    """The canonical ingest of a decoded envelope, or everything that is wrong with it.

    Equal documents get equal refusals, whatever the order of their keys (R3.166). A version that is not
    supported is refused as such, whatever else is wrong: nothing further can be said about it.
    """
    found = Found()
    if not isinstance(document, dict):
        found.wrong_type("body", "object")
        return Refusal(invalid(*found.details), MISSING)
    version = document.get("envelope_version")
    adapter = registry.find(version)
    label = registry.label(version)
    if adapter is None and isinstance(version, (str, int, float)) and not isinstance(version, bool):
        expected = ", ".join(registry.versions)
        detail = ErrorDetail(
            "envelope_version", "unsupported", "is not a supported version", expected=expected
        )
        text = "Unsupported contract version"
        return Refusal(Rejected("UNSUPPORTED_CONTRACT_VERSION", text, (detail,)), label)
    source, key = _envelope(document, found)
    payload = document.get("payload")
    if adapter is None or not isinstance(payload, dict):
        return Refusal(invalid(*found.details), label)
    adapted = adapter.adapt(payload, found)
    canonical = validate(adapted, found)
    if canonical is None or found or source is None:
        return Refusal(invalid(*found.details), label)
    session, usage, events = canonical
    return CanonicalIngest(
        source=source,
        session=session,
        usage=usage,
        events=events,
        idempotency_key=key,
        version=label,
        terms={name: given.path for name, given in adapted.session.values.items()}
        | {"events": adapted.events_name},
    )


def _envelope(document: Mapping[Any, Any], found: Found) -> tuple[str | None, str | None]:
    """Source and idempotency key; the envelope's own keys are snake_case only (CONTRACT 5)."""
    if document.get("envelope_version") is None:
        found.required("envelope_version", "string")
    elif not isinstance(document["envelope_version"], str):
        found.wrong_type("envelope_version", "string")
    source = key = None
    if document.get("source") is None:
        found.required("source", "string")
    else:
        source = checks.line(Given(document["source"], "source"), found)
    if document.get("payload") is None:
        found.required("payload", "object")
    elif not isinstance(document["payload"], dict):
        found.wrong_type("payload", "object")
    if document.get("idempotency_key") is not None:
        key = checks.line(Given(document["idempotency_key"], "idempotency_key"), found)
    for name in sorted((name for name in document if name not in ENVELOPE), key=str):
        found.add(shown(name), "unknown", "is no field of the envelope", ", ".join(ENVELOPE))
    return source, key
