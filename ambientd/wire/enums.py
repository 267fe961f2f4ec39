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


class AlertMetric(StrEnum):
    """What an alert rule watches: the first three are the seed's (8.2.6), the others ours.

    The ledger's metrics look at the sessions that *ended* within the rule's window. `failure_rate` is
    failed / (success + failed), from 0 to 1; `runtime_p95_ms` the nearest-rank 95th percentile of success,
    failed and killed sessions; `daily_cost_usd` the sum of the known costs; `budget_usd` that sum since
    the UTC day (window 24h) or the UTC week (7d) began. The others are figures of this moment.
    """

    DAILY_COST_USD = "daily_cost_usd"
    RUNTIME_P95_MS = "runtime_p95_ms"
    FAILURE_RATE = "failure_rate"
    BUDGET_USD = "budget_usd"
    GATEWAY_AWAY_SEC = "gateway_away_sec"
    MISSED_HEARTBEATS = "missed_heartbeats"
    OUTBOX_DEPTH = "outbox_depth"


class AlertScopeType(StrEnum):
    """Which sessions a rule looks at."""

    GLOBAL = "global"
    AGENT = "agent"
    MODEL = "model"
    AGENT_MODEL = "agent_model"


class AlertWindow(StrEnum):
    """How far back a rule looks from the moment of its evaluation."""

    FIVE_MINUTES = "5m"
    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"


class AlertComparison(StrEnum):
    """When a threshold counts as reached: past it, or at it."""

    GT = "gt"
    GTE = "gte"


class AlertStatus(StrEnum):
    """Severity of an alert; `resolved` for the one evaluation that ended it, then `ok`."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    RESOLVED = "resolved"


class AlertLifecycle(StrEnum):
    """Whether an alert speaks up, is kept quiet, or is over (seed 9.4.3)."""

    ACTIVE = "active"
    SUPPRESSED = "suppressed"
    RESOLVED = "resolved"


class AlertReason(StrEnum):
    """Why a notification was sent: `reminder` where a rule asks for it, `test` by the test command."""

    ACTIVE = "active"
    ESCALATED = "escalated"
    RESOLVED = "resolved"
    REMINDER = "reminder"
    TEST = "test"


class UsageGroup(StrEnum):
    """What a series of usage is split by."""

    DAY = "day"
    WEEK = "week"
    AGENT = "agent"
    MODEL = "model"
    TASK = "task"


class MatrixSplit(StrEnum):
    """What the rows of the performance matrix are split by, besides the model."""

    NONE = "none"
    AGENT = "agent"
    TASK = "task"


class LedgerSort(StrEnum):
    """Orders of the ledger's list; those without a figure come last, ties by id."""

    NEWEST = "newest"
    RUNTIME = "runtime"
    COST = "cost"


class Connectivity(StrEnum):
    """Which upstream links the node has; `Unknown` only before the first probe."""

    UNKNOWN = "Unknown"
    ONLINE = "OnlineControlPlane"
    OFFLINE = "OfflineControlPlane"
    NO_UPSTREAM = "NoUpstream"
