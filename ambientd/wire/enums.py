"""The words of the ledger and the wire. Unlisted words are refused, never guessed."""

from enum import StrEnum


class SessionStatus(StrEnum):
    """Life of a session (seed 8.2.1). Forward only: queued, running, then one of the terminal four."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    KILLED = "killed"
    CANCELLED = "cancelled"


TERMINAL = frozenset(
    {SessionStatus.SUCCESS, SessionStatus.FAILED, SessionStatus.KILLED, SessionStatus.CANCELLED}
)
ACTIVE = frozenset({SessionStatus.QUEUED, SessionStatus.RUNNING})


class EventType(StrEnum):
    """Kinds of session events (seed 8.2.2)."""

    TOOL_CALL = "tool_call"
    MESSAGE = "message"
    STATE_TRANSITION = "state_transition"
    ARTIFACT = "artifact"
    ERROR = "error"
    METRIC = "metric"


class CostConfidence(StrEnum):
    """How far a cost can be trusted (seed 8.2.3)."""

    EXACT = "exact"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class CostSource(StrEnum):
    """Where a cost came from (seed 9.2.2)."""

    PROVIDER_REPORTED = "provider_reported"
    ESTIMATED_FROM_PRICING = "estimated_from_pricing"
    UNKNOWN = "unknown"


class MetricSource(StrEnum):
    """Where a token count or a runtime came from (seed 9.4.2)."""

    PROVIDER_REPORTED = "provider_reported"
    DERIVED = "derived"
    MISSING = "missing"


class MetricConfidence(StrEnum):
    """How far a token count, runtime or cost can be trusted (seed 9.4.2)."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    UNKNOWN = "unknown"


class AgentStatus(StrEnum):
    """Normalised status of an agent (seed 3); the order of precedence is failed, running, done, idle."""

    FAILED = "failed"
    RUNNING = "running"
    DONE = "done"
    IDLE = "idle"


class Health(StrEnum):
    """What `status --check` turns into an exit code."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"
