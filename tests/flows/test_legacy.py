"""The import of the earlier JSON store, and its comparison with the ledger (R3.140 to R3.148)."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.contracts.registry import read
from ambientd.core.legacy import Normalised, group, normalise
from ambientd.core.records import LedgerQuery, NewEvent, SessionChange, UsageRecord
from ambientd.core.rejection import Rejected
from ambientd.flows.ingest import apply
from ambientd.flows.legacy import Importing, import_batch, import_drift, verify_batch
from ambientd.host.legacy_files import DiskLegacyFiles
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreError
from ambientd.ports.store import Store, Transaction
from ambientd.store.legacy import JsonStore, ReadOnlyError
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import EventType, SessionStatus
from ambientd.wire.legacy_messages import (
    RECORDS_MAX,
    LegacyImportAnswer,
    LegacyImportRequest,
    LegacyRecord,
)
from tests.store.kit import AT, StillClock, new_session, opened, sql_of

DATA = Path(__file__).resolve().parents[1] / "data" / "legacy"
TABLES = ("session_ledger", "session_event_rows", "session_usage_rows", "daily_usage_agg", "audit_records")


def records(name: str = "store.json") -> list[LegacyRecord]:
    found = group(json.loads((DATA / name).read_bytes()))
    assert not isinstance(found, str)
    return found.records


class Bench:
    """A ledger and what the use cases need around it."""

    def __init__(self, folder: Path, store: SqliteStore) -> None:
        self.path = folder / "ambient.db"
        self.store = store
        self.ended: list[str] = []
        self.paths: list[str] = []
        self.importing = Importing(
            store=store,
            clock=StillClock(),
            files=DiskLegacyFiles(run_sync=run_inline),
            open_legacy=JsonStore,
            paths=lambda: self.paths,
            ended=self.ended.append,
        )

    async def take(self, found: list[LegacyRecord], *, dry_run: bool = False) -> LegacyImportAnswer:
        order = LegacyImportRequest(records=found, dry_run=dry_run)
        answer = await import_batch(self.importing, order, actor="uid:0")
        assert isinstance(answer, LegacyImportAnswer)
        assert answer.dry_run is dry_run
        return answer

    def counts(self) -> dict[str, int]:
        counted = "SELECT count(*) FROM {}"
        return {table: sql_of(self.path, counted.format(table))[0][0] for table in TABLES}

    def rows(self, sql: str) -> list[Any]:
        return sql_of(self.path, sql)


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with opened(folder / "ambient.db") as store:
        yield Bench(folder, store)


def outcomes(answer: LegacyImportAnswer) -> str:
    return "".join(result.outcome.value[0] for result in answer.results)


async def test_the_store_becomes_rows_that_say_what_it_said(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        answer = await node.take(records())
        assert outcomes(answer) == "wwwwww"
        assert [result.events_written for result in answer.results] == [3, 1, 0, 2, 0, 1]
        assert [result.usage_written for result in answer.results] == [True, True, False, True, True, True]
        counts = node.counts()
        assert counts["session_ledger"] == 6
        assert counts["session_event_rows"] == 7
        assert counts["audit_records"] == 1
        costs = node.rows(
            "SELECT session_id, cost_usd, cost_source, cost_confidence, pricing_version FROM session_usage"
            " ORDER BY session_id"
        )
        assert ("legacy-1", 0.0123, "provider_reported", "exact", "provider_native") in costs
        assert ("legacy-2", 0.0006, "estimated_from_pricing", "estimated", "v4.1-default") in costs
        assert ("legacy-4", 0.0002, "estimated_from_pricing", "estimated", "legacy") in costs
        assert ("legacy-5", None, "unknown", "unknown", None) in costs
        assert ("legacy-6", 0.0, "provider_reported", "exact", "provider_native") in costs
        assert set(node.ended) == {f"legacy-{n}" for n in (1, 2, 4, 5, 6)}
        detail = json.loads(node.rows("SELECT detail_json FROM audit_records")[0][0])
        assert detail == {"sessions": 6, "events": 7}


async def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(records())
        before, node.ended[:] = node.counts(), []
        again = await node.take(records())
        assert outcomes(again) == "ssssss"
        assert node.counts() == before
        assert node.ended == []


async def test_broken_rows_are_told_and_the_rest_is_imported(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        answer = await node.take(records("broken.json"))
        assert outcomes(answer) == "weeeeeeee"[:9]
        codes = [result.code for result in answer.results]
        assert codes == [None, *["VALIDATION_ERROR"] * 4, "IDEMPOTENCY_CONFLICT", *["VALIDATION_ERROR"] * 3]
        assert all(result.details for result in answer.results if result.code)
        assert node.counts()["session_ledger"] == 1
        assert node.rows("SELECT agent_id FROM session_ledger") == [("peter",)]


async def test_a_dry_run_says_the_same_and_keeps_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        before = node.counts()
        tried = await node.take(records(), dry_run=True)
        assert node.counts() == before
        assert node.ended == []
        done = await node.take(records())
        assert tried.results == done.results


async def test_a_session_of_another_source_is_never_written_over(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        payload = {
            "session": {
                "id": "legacy-1",
                "agent_id": "peter",
                "state": "success",
                "started_at": "2026-02-01T10:00:00Z",
                "title": "Live",
            }
        }
        live = read({"envelope_version": "v1", "source": "gateway", "payload": payload})
        await node.store.write(lambda tx: apply(tx, live, AT))  # type: ignore[arg-type]
        answer = await node.take(records()[:1])
        assert answer.results[0].code == "IDEMPOTENCY_CONFLICT"
        assert node.rows("SELECT task_title FROM session_ledger") == [("Live",)]


async def test_a_record_in_several_parts_is_one_session(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        whole = records()[0]
        parts = [
            LegacyRecord(ledger=whole.ledger, usage=whole.usage, events=[event]) for event in whole.events
        ]
        for _ in range(2):
            for part in parts:
                await node.take([part])
            assert node.counts()["session_event_rows"] == 3
        assert outcomes(await node.take(parts)) == "sss"
        assert outcomes(await node.take([whole])) == "s"


async def test_a_running_session_that_ended_since_is_brought_up_to_date(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        running = records()[2]
        await node.take([running])
        ended = {**running.ledger, "status": "success", "endedAt": "2026-02-03T10:05:00Z"}
        answer = await node.take([LegacyRecord(ledger=ended, usage=None)])
        assert outcomes(answer) == "w"
        assert node.rows("SELECT status, runtime_ms FROM session_ledger") == [("success", 300_000)]
        assert outcomes(await node.take([running])) == "s"
        assert node.rows("SELECT status FROM session_ledger") == [("success",)]


async def test_too_many_records_at_once_are_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        many = [LegacyRecord(ledger={})] * (RECORDS_MAX + 1)
        order = LegacyImportRequest(records=many)
        assert isinstance(await import_batch(node.importing, order, actor="x"), Rejected)
        assert isinstance(await verify_batch(node.importing, many), Rejected)


# --- verification


async def test_a_good_import_leaves_no_difference(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(records())
        found = await verify_batch(node.importing, records())
        assert not isinstance(found, Rejected)
        assert found.differences == []
        assert (found.compared, found.unusable) == (6, 0)
        assert found.json == found.sqlite
        assert found.json.sessions == 6
        assert found.json.events == 7
        assert found.json.tokens == 300 + 300 + 100 + 900
        assert found.json.cost_usd == pytest.approx(0.0131)


async def test_every_seeded_difference_is_found(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(records()[:5])

        def change(tx: Transaction) -> None:
            usage = tx.usage.get("legacy-1")
            assert usage is not None
            tx.usage.put(
                UsageRecord(session_id="legacy-1", total_tokens=301, provider="other", computed_at=AT)
            )

        await node.store.write(change)
        sql_of(node.path, "DELETE FROM session_event_rows WHERE session_key = 2")
        sql_of(node.path, "UPDATE session_ledger SET task_text = 'other' WHERE session_id = 'legacy-5'")
        found = await verify_batch(node.importing, records())
        assert not isinstance(found, Rejected)
        assert [(item.session_id, item.field, item.json, item.sqlite) for item in found.differences] == [
            ("legacy-1", "prompt_tokens", "100", None),
            ("legacy-1", "completion_tokens", "200", None),
            ("legacy-1", "total_tokens", "300", "301"),
            ("legacy-1", "cost_usd", "0.0123", None),
            ("legacy-1", "cost_confidence", "exact", "unknown"),
            ("legacy-1", "provider", "provider", "other"),
            ("legacy-2", "events", "1", "0"),
            ("legacy-5", "task_text", "Look for the needle", "other"),
            ("legacy-6", "session", "success", None),
        ]
        assert found.difference_count == 9
        assert found.sqlite.sessions == 5


async def test_what_the_ledger_knows_besides_is_no_difference(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        await node.take(records())
        event = NewEvent(event_type=EventType.MESSAGE, at=AT, payload={})
        await node.store.write(lambda tx: tx.ledger.append("legacy-1", [event]))
        found = await verify_batch(node.importing, records())
        assert not isinstance(found, Rejected)
        assert found.differences == []


async def test_the_diagnostic_reads_the_configured_files(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        node.paths = [str(DATA / "store.json"), str(tmp_path / "never"), str(tmp_path)]
        (tmp_path / "no.json").write_text("[1]")
        (tmp_path / "syntax.json").write_text("{")
        before = (DATA / "store.json").read_bytes()
        await node.take(records())
        view = await import_drift(node.importing, sample=1000)
        assert view.drift is False
        assert (view.sessions, view.compared) == (6, 6)
        problems = {Path(source.path).name: source.problem for source in view.sources}
        assert problems["store.json"] is None
        assert "no such file" in str(problems["never"])
        assert "no JSON object" in str(problems["no.json"])
        assert "not JSON" in str(problems["syntax.json"])
        assert (DATA / "store.json").read_bytes() == before
        sampled = await import_drift(node.importing, sample=2)
        assert (sampled.sessions, sampled.compared) == (6, 2)


async def test_the_diagnostic_tells_of_drift(tmp_path: Path) -> None:
    async with bench(tmp_path) as node:
        node.paths = [str(DATA / "store.json")]
        view = await import_drift(node.importing, sample=1000)
        assert view.drift is True
        assert view.difference_count == 6
        assert view.sqlite.sessions == 0


# --- both stores behind one interface (R3.140)


Ask = Callable[[Transaction], Any]
NEEDLE = LedgerQuery(text="needle")
QUESTIONS: dict[str, Ask] = {
    "get": lambda tx: shape(tx.ledger.get("legacy-1")),
    "get nothing": lambda tx: tx.ledger.get("never"),
    "find by start": lambda tx: names(tx.ledger.find("legacy", 3)),
    "find by end": lambda tx: names(tx.ledger.find("y-4", 3)),
    "find nothing": lambda tx: tx.ledger.find("", 3),
    "newest first": lambda tx: page(tx, LedgerQuery(limit=4)),
    "the next page": lambda tx: page(
        tx, LedgerQuery(limit=2, after=(datetime(2026, 2, 5, 10, tzinfo=UTC), "legacy-5"))
    ),
    "of an agent": lambda tx: page(tx, LedgerQuery(agent_id="maria")),
    "of a model": lambda tx: page(tx, LedgerQuery(model_id="provider/model-2")),
    "of a category": lambda tx: page(tx, LedgerQuery(category="ops")),
    "of statuses": lambda tx: page(
        tx, LedgerQuery(statuses=frozenset({SessionStatus.KILLED, SessionStatus.RUNNING}))
    ),
    "since and until": lambda tx: page(
        tx,
        LedgerQuery(since=datetime(2026, 2, 2, 10, tzinfo=UTC), until=datetime(2026, 2, 5, 10, tzinfo=UTC)),
    ),
    "with a text": lambda tx: page(tx, NEEDLE),
    "none": lambda tx: page(tx, LedgerQuery(limit=0)),
    "active": lambda tx: names(tx.ledger.active()),
    "last of agents": lambda tx: {k: v.session_id for k, v in tx.ledger.last_of_agents().items()},
    # The end of legacy-5 is not known: the ledger has the moment of the import there.
    "ended since": lambda tx: [
        name
        for name in names(tx.ledger.ended_since(datetime(2026, 2, 2, tzinfo=UTC), 9))
        if name != "legacy-5"
    ],
    "events": lambda tx: [
        (event.event_id, event.seq, event.payload) for event in tx.ledger.events("legacy-1", 1, 10)
    ],
    "events of a type": lambda tx: [
        event.event_id for event in tx.ledger.events_of_type("legacy-1", "artifact", 10)
    ],
    "events of nothing": lambda tx: tx.ledger.events("never", 0, 10),
    "count": lambda tx: tx.ledger.count(),
    "usage": lambda tx: shape(tx.usage.get("legacy-1")),
    "an estimate": lambda tx: shape(tx.usage.get("legacy-2")),
    "no usage": lambda tx: tx.usage.get("never"),
}


def names(rows: Any) -> list[str]:
    return [row.session_id for row in rows]


def page(tx: Transaction, query: LedgerQuery) -> tuple[list[str], int, bool]:
    found = tx.ledger.page(query)
    return names(found.rows), found.total, found.more


def shape(row: Any) -> Any:
    """A row without the moments at which it was written."""
    assert row is not None
    moments = {"ingested_at", "computed_at"}
    return {name: getattr(row, name) for name in row.__struct_fields__ if name not in moments}


@pytest.mark.parametrize("question", list(QUESTIONS))
async def test_the_json_store_answers_as_the_ledger_does(tmp_path: Path, question: str) -> None:
    ask = QUESTIONS[question]
    async with bench(tmp_path) as node:
        await node.take(records())
        normalised = [normalise(record) for record in records()]
        legacy: Store = JsonStore([item for item in normalised if isinstance(item, Normalised)])
        assert await legacy.read(ask) == await node.store.read(ask)
        assert legacy.facts().ready


WRITES: dict[str, Ask] = {
    "add": lambda tx: tx.ledger.add(new_session("s")),
    "change": lambda tx: tx.ledger.change("legacy-3", SessionChange(status=SessionStatus.SUCCESS)),
    "append": lambda tx: tx.ledger.append("legacy-3", []),
    "usage": lambda tx: tx.usage.put(UsageRecord(session_id="legacy-3", computed_at=AT)),
    "account": lambda tx: tx.usage.account("legacy-3"),
    "costable": lambda tx: tx.usage.costable(0, 1),
}


@pytest.mark.parametrize("write", list(WRITES))
async def test_writing_to_the_json_store_is_refused(write: str) -> None:
    store = JsonStore([])
    with pytest.raises(ReadOnlyError, match="read-only"):
        await store.read(WRITES[write])
    with pytest.raises(ReadOnlyError, match="read-only"):
        await store.write(WRITES[write])


async def test_the_json_store_has_no_other_repository() -> None:
    with pytest.raises(StoreError, match="has no audit"):
        await JsonStore([]).read(lambda tx: tx.audit)
