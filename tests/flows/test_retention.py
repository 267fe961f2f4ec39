"""Retention of the ledger: plan, dry run, run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ambientd.config.schema import RetentionConfig
from ambientd.core.records import LedgerQuery
from ambientd.core.retention import Plan
from ambientd.flows.upkeep import known_plan, run
from ambientd.ports.errors import Rejected
from ambientd.ports.store import Transaction
from ambientd.store.audit import SqliteAudit
from ambientd.wire.messages import RetentionAnswer
from tests.flows.test_upkeep import DAY, Kept, fill, kept


def rows(answer: RetentionAnswer) -> dict[str, int]:
    return {row.name: row.rows for row in answer.tables}


async def ids(box: Kept) -> set[str]:
    found = await box.store.read(lambda tx: tx.ledger.page(LedgerQuery(limit=1000)))
    return {row.session_id for row in found.rows}


async def audit(box: Kept) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, subject and detail of every record."""

    def work(tx: Transaction) -> list[tuple[str, str, dict[str, Any]]]:
        assert isinstance(tx.audit, SqliteAudit)
        return [(row.kind, row.subject, dict(row.detail)) for row in tx.audit.records(0, 100)]

    return await box.store.read(work)


async def test_a_dry_run_names_every_place_and_leaves_nothing_but_an_audit_record(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        await fill(box)
        await box.session("ses_ancient", 91)
        before, commits = await ids(box), box.store.facts().commits
        plan = await box.prune(dry_run=True)
        assert list(rows(plan)) == [
            "session_events", "session_usage", "session_ledger", "daily_usage_agg", "model_perf_agg",
            "inbox/done", "inbox/rejected", "inbox/blocked", "sessions",
        ]  # fmt: skip
        assert {row.name: row.keep_days for row in plan.tables}["session_ledger"] == 90
        assert await ids(box) == before
        assert box.store.facts().commits == commits + 1
        assert [(kind, subject) for kind, subject, _ in await audit(box)] == [
            ("retention.plan", plan.plan_id)
        ]
        assert rows(plan)["session_ledger"] == 1
        assert rows(plan) == rows(await box.prune(dry_run=False))


async def test_a_run_is_announced_and_its_counts_are_kept_in_the_audit(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        await box.session("ses_ancient", 91)
        answer = await box.prune(dry_run=False)
        (began, plan_id, instants), (done, _, removed) = await audit(box)
        assert (began, done) == ("retention.run", "retention.done")
        assert plan_id == answer.plan_id
        assert instants["session_ledger"] == "2026-08-22T12:00:00.000Z"
        assert removed == rows(answer)
        assert removed["session_ledger"] == 1


async def test_sessions_go_in_batches_with_a_rest_after_each(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        box.ledger_bounds = RetentionConfig(batch=10)
        for number in range(25):
            await box.session(f"ses_{number}", 100)
        await box.session("ses_new", 1)
        answer = await box.prune(dry_run=False)
        assert rows(answer)["session_ledger"] == 25
        assert await ids(box) == {"ses_new"}
        assert box.rests >= 3
        assert all(told.running for told in box.told)
        assert [rows(told)["session_ledger"] for told in box.told] == [0, 10, 20, 25, 25]


async def test_a_known_plan_removes_what_it_showed_and_not_what_came_of_age_since(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        await box.session("ses_due", 90.001)
        await box.session("ses_soon", 89.98)
        shown = await box.prune(dry_run=True)
        box.clock.step(3500)
        plan = known_plan(box.upkeep, shown.plan_id)
        assert isinstance(plan, Plan)
        await run(box.upkeep, plan, actor="uid:0", tell=box.told.append)
        assert await ids(box) == {"ses_soon"}
        box.clock.step(102)
        refused = known_plan(box.upkeep, shown.plan_id)
        assert isinstance(refused, Rejected)
        assert refused.code == "PLAN_UNKNOWN"


async def test_a_plan_is_refused_when_the_settings_changed_since(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        shown = await box.prune(dry_run=True)
        box.ledger_bounds = RetentionConfig(raw=91 * DAY)
        assert isinstance(known_plan(box.upkeep, shown.plan_id), Rejected)


async def test_a_folder_never_outlives_the_row_that_says_whose_it_is(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        box.session_bounds = replace(box.session_bounds, keep_folders=1000 * DAY)
        await box.session("ses_old", 91)
        await box.prune(dry_run=False)
        assert await ids(box) == set()
        assert box.everything() == {}
