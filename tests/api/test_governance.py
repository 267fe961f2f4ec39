"""`docs/governance.md` and the program say the same: its words, its definitions, its worked example."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from ambientd.config.schema import AlertsConfig, RetentionConfig
from ambientd.core.alertrules import DEFAULT_COOLDOWN_SEC, AlertRule
from ambientd.core.analytics import DEFAULT_MIN_SAMPLE
from ambientd.flows.alerts import Alerting, sweep
from ambientd.ports.store import Transaction
from ambientd.wire.enums import (
    AlertLifecycle,
    AlertMetric,
    AlertReason,
    AlertWindow,
    CostConfidence,
    CostSource,
    MetricConfidence,
    MetricSource,
)
from tests.api.ingestkit import ARRIVAL, Ingest, envelope, ingesting
from tests.api.test_analytics_oracle import Rows

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "governance.md").read_text()


def table(*head: str) -> list[list[str]]:
    """The rows of the table with that head, without the marks of code."""
    lines = TEXT.splitlines()
    first = lines.index(f"| {' | '.join(head)} |") + 2
    found = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    assert found
    return found


def words(kind: type[StrEnum]) -> list[str]:
    return [member.value for member in kind]


def test_the_words_of_every_column_are_those_of_the_program() -> None:
    kinds: dict[str, type[StrEnum]] = {
        "token_source": MetricSource,
        "runtime_source": MetricSource,
        "cost_source": CostSource,
        "token_confidence": MetricConfidence,
        "runtime_confidence": MetricConfidence,
        "cost_confidence_level": MetricConfidence,
        "cost_confidence": CostConfidence,
    }
    assert dict(table("column", "words")) == {
        column: ", ".join(words(kind)) for column, kind in kinds.items()
    }
    assert [row[0] for row in table("confidence", "tokens", "runtime", "cost")] == words(MetricConfidence)
    assert {row[0] for row in table("metric", "definition")} == set(words(AlertMetric))
    assert [row[0] for row in table("lifecycle", "meaning")] == words(AlertLifecycle)
    assert [row[0] for row in table("reason of a notification", "when")] == words(AlertReason)


def test_the_numbers_are_the_defaults() -> None:
    days = {setting: kept for _, kept, setting in table("what", "for", "setting")}
    assert days == {
        "retention.raw": f"{RetentionConfig().raw / 86400:.0f} days from their end",
        "retention.aggregates": f"{RetentionConfig().aggregates / 86400:.0f} days",
    }
    assert f"every {AlertsConfig().sweep_interval / 60:.0f} minutes" in TEXT
    assert f"fewer runs than `minSample` ({DEFAULT_MIN_SAMPLE})" in TEXT
    assert f"({DEFAULT_COOLDOWN_SEC} seconds by default)" in TEXT


# --- the worked example


async def hand_in(ingest: Ingest) -> None:
    for name, state, started, ended, runtime, cost in table(
        "session", "state", "started", "ended", "runtime ms", "cost $"
    ):
        usage: dict[str, Any] = {}
        usage |= {} if runtime == "-" else {"runtime_ms": int(runtime)}
        usage |= {} if cost == "-" else {"cost_usd": float(cost)}
        end = {} if ended == "-" else {"ended_at": ended}
        await ingest.take(envelope(state, id=name, started_at=started, model_id="m", usage=usage, **end))


async def alert_values(ingest: Ingest) -> dict[str, str]:
    """What every metric of the ledger says over every window, as the alerts keep it."""

    def work(tx: Transaction) -> None:
        for metric in AlertMetric:
            for window in AlertWindow:
                tx.alerts.put_rule(
                    AlertRule(
                        rule_id=f"alert {metric.value} over {window.value}",
                        metric=metric,
                        window=window,
                        warn_threshold=1e9,
                        critical_threshold=1e9,
                        created_at=ARRIVAL,
                        updated_at=ARRIVAL,
                    )
                )

    await ingest.real_store.write(work)
    await sweep(
        Alerting(
            store=ingest.real_store,
            clock=ingest.clock,
            gauges={},
            notifiers=(),
            node="n",
            new_id=lambda: "n-1",
            woken=lambda: None,
        )
    )
    with closing(sqlite3.connect(f"file:{ingest.path}?mode=ro", uri=True)) as link:
        found = link.execute("SELECT rule_id, last_value FROM alert_state").fetchall()
    return {rule_id: "no data" if value is None else value for rule_id, value in found}


def days(series: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for point in series:
        found[f"runs of {point['date']}"] = point["runs"]
        found[f"cost of {point['date']}"] = point["costUsd"]
    return found


async def test_the_worked_example_comes_out_as_the_document_says(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await hand_in(ingest)
        rows = Rows(ingest)
        (row,) = (await rows.get("/api/v3/analytics/performance"))["rows"]
        usage = await rows.get("/api/v3/analytics/usage")
        found = {
            "runs": row["runsTotal"],
            "success rate": row["successRate"],
            "failure rate": row["failureRate"],
            "killed": row["killedCount"],
            "cancelled": row["cancelledCount"],
            "median runtime": row["medianRuntimeMs"],
            "p95 runtime": row["p95RuntimeMs"],
            "median cost": row["medianCostUsd"],
            "costs known": row["costKnown"],
            **days(usage["series"]),
            **await alert_values(ingest),
        }
    assert usage["totals"]["runs"] == found["runs"]
    for name, value in table("figure", "value"):
        expected = value if value == "no data" else pytest.approx(float(value), abs=1e-9)
        assert found[name] == expected, name


@pytest.mark.parametrize("stored", words(CostSource))
async def test_the_source_of_a_cost_is_shown_in_the_words_of_the_document(
    stored: str, tmp_path: Path
) -> None:
    usages: dict[str, dict[str, Any]] = {
        "provider_reported": {"cost_usd": 1.0},
        "estimated_from_pricing": {"prompt_tokens": 1, "completion_tokens": 1},
        "unknown": {"total_tokens": 1},
    }
    model = "known/one" if stored == "estimated_from_pricing" else "other"
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope(model_id=model, usage=usages[stored]))
        assert ingest.row("session_usage")["cost_source"] == stored
        shown = (await ingest.detail())["usage"]["costSource"]
    assert shown == dict(table("stored", "shown"))[stored]
