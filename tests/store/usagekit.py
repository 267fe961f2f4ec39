"""Sessions in whatever state with whatever figures, straight into the tables: for sums and medians."""

from datetime import datetime
from typing import Any

from ambientd.core.ingest import StoredSession
from ambientd.core.records import UsageRecord
from ambientd.ports.store import Transaction
from ambientd.wire.enums import ACTIVE, CostSource, MetricSource, SessionStatus
from tests.store.kit import AT


def add(
    tx: Transaction,
    session_id: str,
    *,
    at: datetime = AT,
    agent: str = "a",
    model: str = "m",
    category: str | None = None,
    status: str = "success",
    runtime_ms: int | None = None,
    title: str | None = None,
) -> None:
    """A session's row."""
    tx.ingest.add(
        StoredSession(
            session_id=session_id,
            run_id=None,
            agent_id=agent,
            agent_label=agent,
            model_id=model,
            task_title=title,
            task_text=None,
            task_category=category,
            status=SessionStatus(status),
            started_at=at,
            ended_at=None if SessionStatus(status) in ACTIVE else at,
            runtime_ms=runtime_ms,
            running_since=None,
            artifact_count=0,
            error_code=None,
            error_message=None,
            source_version=None,
            source=None,
        )
    )


def use(tx: Transaction, session_id: str, **figures: Any) -> None:
    """A usage row; the sources follow from which figures there are."""
    has_tokens = any(value is not None for name, value in figures.items() if name.endswith("tokens"))
    has_cost = figures.get("cost_usd") is not None
    tx.usage.put(
        UsageRecord(
            session_id=session_id,
            computed_at=AT,
            token_source=MetricSource.PROVIDER_REPORTED if has_tokens else MetricSource.MISSING,
            runtime_source=MetricSource.DERIVED,
            cost_source=CostSource.PROVIDER_REPORTED if has_cost else CostSource.UNKNOWN,
            pricing_version="provider_native" if has_cost else None,
            **figures,
        )
    )


def ended(tx: Transaction, session_id: str, *, cost_usd: float | None = None, **facts: Any) -> None:
    """A session that has ended, with its cost, and accounted."""
    add(tx, session_id, **facts)
    use(tx, session_id, cost_usd=cost_usd, runtime_ms=facts.get("runtime_ms"))
    tx.usage.account(session_id)
