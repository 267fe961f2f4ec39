"""Ingest from outside: over the route, with a real database that another library looks at."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from ambientd.ports.errors import StoreError, StoreFullError
from tests.api.ingestkit import (
    ARRIVAL,
    DATA,
    OPERATOR,
    READER,
    TABLES,
    envelope,
    event,
    ingesting,
    session,
)
from tests.api.kit import fits

SHAPES = json.loads((DATA.parent / "v3_shapes.json").read_text())
MALFORMED = [json.loads(line) for line in (DATA / "malformed.jsonl").read_text().splitlines()]


# --- the gate


async def test_every_malformed_payload_is_refused_and_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("running", id="bad-1", agent_id="peter"))
        before = ingest.state()
        for case in MALFORMED:
            raw = case["raw"].encode() if "raw" in case else json.dumps(case["body"]).encode()
            status, answer = await ingest.send(raw or b" ")
            error = answer["error"]
            assert (status, error["code"]) == (case["status"], case["code"]), (case["name"], answer)
            assert error["requestId"] == "req-1"
            found = [[item["field"], item["issue"]] for item in error["details"]]
            assert found == sorted(case["found"]), case["name"]
            assert ingest.state() == before, case["name"]
        await ingest.take(envelope("success", id="after"))


async def test_broken_json_is_refused_in_the_one_shape(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        status, answer = await ingest.send(b'{"envelope_version": ')
        assert status == 400
        assert answer["error"]["code"] == "VALIDATION_ERROR"
        assert answer["error"]["message"] == "Invalid ingest payload"
        assert [item["field"] for item in answer["error"]["details"]] == ["body"]


async def test_who_may_only_read_is_refused_before_anything_is_looked_at(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        for body in (b"{", json.dumps(envelope()).encode()):
            status, answer = await ingest.send(body, caller=READER)
            assert (status, answer["error"]["code"]) == (401, "INGEST_NOT_AUTHORIZED")
        assert ingest.counts()["session_ledger"] == 0


async def test_another_media_type_and_a_query_are_refused(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        status, _ = await ingest.send(envelope(), content_type="text/plain")
        assert status == 415
        answer = await ingest.ask("POST", "/api/v3/ingest/session?x=1", json.dumps(envelope()).encode())
        assert answer.status == 400


async def test_a_fault_of_the_storage_is_no_fault_of_the_sender(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        for trouble, status, code in (
            (StoreFullError("the disk is full; nothing was written"), 503, "STORAGE_FULL"),
            (StoreError("closed"), 503, "NOT_READY"),
            (RuntimeError("no such column: secret"), 500, "INGEST_INTERNAL_ERROR"),
        ):
            ingest.store.trouble = trouble
            found, answer = await ingest.send(envelope())
            assert (found, answer["error"]["code"]) == (status, code)
            assert "secret" not in json.dumps(answer)
        ingest.store.trouble = None
        await ingest.take(envelope())


async def test_refusals_are_counted_by_code_and_version(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.send(b"{")
        await ingest.send(envelope() | {"envelope_version": "v9"})
        await ingest.send(envelope() | {"envelope_version": "x" * 99})
        await ingest.send(envelope(state="exploded"))
        await ingest.take(envelope())
        await ingest.send(envelope(agent_id="tony"))
        assert dict(ingest.rejections.totals()) == {
            ("IDEMPOTENCY_CONFLICT", "v1"): 1,
            ("UNSUPPORTED_CONTRACT_VERSION", "unsupported"): 2,
            ("VALIDATION_ERROR", "missing"): 1,
            ("VALIDATION_ERROR", "v1"): 1,
        }


# --- what is taken


@pytest.mark.parametrize("path", sorted((DATA / "valid").glob("*.json")), ids=lambda path: path.stem)
async def test_a_valid_payload_is_in_the_ledger_in_the_recorded_shape(path: Path, tmp_path: Path) -> None:
    case = json.loads(path.read_text())
    async with ingesting(tmp_path) as ingest:
        await ingest.take(case["envelope"])
        detail = await ingest.detail("s-1")
        assert detail["ledger"]["status"] == case["status"]
        assert fits(detail, SHAPES["GET /api/v3/ledger/{id}"] | {"ledger": "object"}) == []
        assert fits(detail["ledger"], SHAPES["GET /api/v3/ledger"]["rows"][0]) == []


async def test_every_field_arrives_where_it_belongs(tmp_path: Path) -> None:
    case = json.loads((DATA / "valid" / "v2_full.json").read_text())
    async with ingesting(tmp_path) as ingest:
        await ingest.take(case["envelope"])
        row = ingest.row("session_ledger", "s-1")
        expected = {
            "agent_id": "peter",
            "agent_label": "Peter",
            "model_id": "gpt-5",
            "task_title": "Fix the gate",
            "task_text": "Look at it",
            "task_category": "review",
            "status": "success",
            "started_at": "2026-02-18T00:00:00.000Z",
            "ended_at": "2026-02-18T00:00:09.000Z",
            "runtime_ms": 9000,
            "artifact_count": 1,
            "source": "gateway",
            "ingested_at": "2026-02-18T12:00:00.000Z",
        }
        assert {name: row[name] for name in expected} == expected
        events = ingest.sql("SELECT event_id, seq, event_type, event_ts FROM session_events ORDER BY seq")
        assert events == [
            ("e-1", 1, "message", "2026-02-18T00:00:01.000Z"),
            ("e-2", 2, "artifact", "2026-02-18T00:00:02.000Z"),
        ]
        assert (await ingest.detail("s-1"))["artifacts"] == [{"name": "a.txt", "bytes": 0}]


@pytest.mark.parametrize("path", sorted((DATA / "partial").glob("*.json")), ids=lambda path: path.stem)
async def test_partial_telemetry_says_what_is_known_and_how_well(path: Path, tmp_path: Path) -> None:
    case = json.loads(path.read_text())
    async with ingesting(tmp_path) as ingest:
        await ingest.take(case["envelope"])
        usage = ingest.row("session_usage")
        assert {name: usage.get(name) for name in case["expect"]} == case["expect"]
        assert ingest.row("session_ledger")["runtime_ms"] == usage["runtime_ms"]
        detail = await ingest.detail(usage["session_id"])
        assert fits(detail, SHAPES["GET /api/v3/ledger/{id}"]) == []
        assert "null" not in json.dumps(detail)


async def test_a_cost_is_estimated_by_the_table_in_force_and_keeps_its_version(tmp_path: Path) -> None:
    tokens = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000}
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope(model_id="known/one", usage=tokens))
        usage = ingest.row("session_usage")
        assert (usage["cost_usd"], usage["pricing_version"]) == (4.5, "2026-02")
        assert (usage["cost_source"], usage["cost_confidence"]) == ("estimated_from_pricing", "estimated")
        assert usage["cost_confidence_level"] == "medium"
        ingest.prices = None
        await ingest.take(envelope(model_id="known/one", usage=tokens, task_title="late"))
        assert ingest.row("session_usage")["pricing_version"] == "2026-02"
        shown = (await ingest.detail())["usage"]
        assert (shown["costSource"], shown["tokenSource"]) == ("derived", "derived")


async def test_no_fixture_leaves_a_cost_without_its_origin(tmp_path: Path) -> None:
    costs = []
    for number, path in enumerate(sorted(DATA.glob("*/*.json"))):
        (tmp_path / str(number)).mkdir()
        async with ingesting(tmp_path / str(number)) as ingest:
            await ingest.take(json.loads(path.read_text())["envelope"])
            costs += ingest.sql(
                "SELECT cost_usd, pricing_version, cost_source, cost_confidence, cost_confidence_level"
                " FROM session_usage"
            )
    assert len([cost for cost in costs if cost[0] is not None]) >= 4
    for cost, version, source, confidence, level in costs:
        if cost is None:
            assert (version, source, confidence, level) == (None, "unknown", "unknown", "unknown")
        else:
            assert version
            reported = source == "provider_reported"
            assert (version == "provider_native", confidence == "exact") == (reported, reported)
            assert level != "unknown"


# --- once


async def test_the_same_payload_five_times_is_one_session(tmp_path: Path) -> None:
    document = envelope(events=[event(1), event(2, "artifact")], usage={"total_tokens": 5})
    async with ingesting(tmp_path) as ingest:
        await ingest.take(document)
        before, counts = ingest.state(), ingest.counts()
        assert counts["session_ledger"] == counts["session_search_docsize"] == 1
        assert counts["session_event_rows"] == 2
        log = tmp_path / "ambient.db-wal"
        written = log.read_bytes()
        for _ in range(4):
            await ingest.take(document, replay=True)
        assert (ingest.state(), ingest.counts()) == (before, counts)
        assert log.read_bytes() == written
        assert ingest.changed == ["ses-1"]
        assert ingest.ended == ["ses-1"]


async def test_a_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    for replay in (False, True):
        async with ingesting(tmp_path) as ingest:
            await ingest.take(envelope(events=[event(1)]), replay=replay)
            await ingest.take(envelope("running", id="ses-2"), replay=replay)
            await ingest.take(envelope(id="ses-3", key="k"), replay=replay)


async def test_shuffled_keys_and_the_other_contract_are_the_same_payload(tmp_path: Path) -> None:
    one = json.loads((DATA / "valid" / "v1_full.json").read_text())["envelope"]
    async with ingesting(tmp_path) as ingest:
        await ingest.take(one)
        await ingest.take(dict(reversed(list(one.items()))), replay=True)
        for name in ("v2_full", "public_v1_full", "public_v2_full"):
            other = json.loads((DATA / "valid" / f"{name}.json").read_text())["envelope"]
            await ingest.take(other, replay=True)


async def test_one_explicit_key_stands_for_one_payload(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope(key="k"))
        await ingest.take(envelope(key="k"), replay=True)
        for other in (envelope(key="k", task_title="x"), envelope(key="k", id="ses-2")):
            found = await ingest.refuse(other, 409, "IDEMPOTENCY_CONFLICT")
            assert found == [("idempotency_key", "conflict")]
        await ingest.take(envelope(key="k", source="other", id="ses-3"))
        await ingest.take(envelope(key="k2"))


async def test_a_refused_payload_can_be_corrected_under_the_same_key(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        bad = envelope(key="k", events=[event(1), event(2, "exploded")])
        found = await ingest.refuse(bad, 400, "VALIDATION_ERROR")
        assert found == [("events[1].event_type", "enum")]
        assert set(ingest.counts().values()) == {0}
        await ingest.take(envelope(key="k", events=[event(1), event(2)]))


async def test_open_updates_merge_and_the_terminal_one_closes(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("queued"))
        await ingest.take(envelope("running", model_id="m/1", events=[event(1)]))
        assert ingest.row("session_ledger")["running_since"] == "2026-02-18T10:00:00.000Z"
        await ingest.take(envelope("running", usage={"prompt_tokens": 5}, events=[event(1), event(2)]))
        await ingest.take(envelope("running", usage={"prompt_tokens": 3}))
        assert ingest.row("session_usage")["prompt_tokens"] == 5
        assert ingest.ended == []
        end = envelope(ended_at="2026-02-18T10:00:09Z", usage={"prompt_tokens": 4, "completion_tokens": 1})
        await ingest.take(end)
        row, usage = ingest.row("session_ledger"), ingest.row("session_usage")
        assert (row["status"], row["model_id"], row["runtime_ms"]) == ("success", "m/1", 9000)
        assert (usage["prompt_tokens"], usage["total_tokens"]) == (4, 5)
        assert ingest.ended == ["ses-1"]
        assert ingest.counts()["session_event_rows"] == 2


async def test_a_late_update_fills_in_and_never_resurrects(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(
            envelope(task_title="first", ended_at="2026-02-18T10:00:09Z", usage={"prompt_tokens": 5})
        )
        late = envelope(
            "running",
            task_title="second",
            task_category="review",
            model_id="m/1",
            usage={"prompt_tokens": 3, "completion_tokens": 2},
            events=[event(1)],
        )
        await ingest.take(late)
        row, usage = ingest.row("session_ledger"), ingest.row("session_usage")
        assert (row["status"], row["ended_at"]) == ("success", "2026-02-18T10:00:09.000Z")
        assert (row["task_title"], row["task_category"], row["model_id"]) == ("first", "review", "m/1")
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 2, 7)
        assert row["running_since"] is None
        assert ingest.ended == ["ses-1"]
        await ingest.take(late, replay=True)
        assert ingest.sql("SELECT status FROM session_ledger") == [("success",)]


async def test_an_end_that_was_guessed_gives_way_to_one_that_is_told(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope())
        assert ingest.row("session_ledger")["ended_at"] == "2026-02-18T12:00:00.000Z"
        assert ingest.row("session_usage")["runtime_ms"] is None
        await ingest.take(envelope(usage={"total_tokens": 5}))
        assert ingest.row("session_usage")["runtime_source"] == "missing"
        await ingest.take(envelope(ended_at="2026-02-18T10:00:07Z"))
        row, usage = ingest.row("session_ledger"), ingest.row("session_usage")
        assert (row["ended_at"], row["runtime_ms"]) == ("2026-02-18T10:00:07.000Z", 7000)
        assert (usage["runtime_confidence"], usage["total_tokens"]) == ("medium", 5)
        await ingest.take(envelope(ended_at="2026-02-18T10:00:08Z"))
        assert ingest.row("session_ledger")["runtime_ms"] == 7000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"agent_id": "tony"}, "session.agent_id"),
        ({"started_at": "2026-02-18T10:00:01Z"}, "session.started_at"),
        ({"run_id": "r2"}, "session.run_id"),
        ({"source": "elsewhere"}, "source"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("state", ["running", "success"])
async def test_identity_never_changes(change: dict[str, Any], field: str, state: str, tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("running", run_id="r1", task_title="first"))
        other = envelope(state, **({"run_id": "r1", "task_title": "second"} | change))
        other["payload"]["events"] = [event(1)]
        assert await ingest.refuse(other, 409, "IDEMPOTENCY_CONFLICT") == [(field, "conflict")]
        row = ingest.row("session_ledger")
        assert (row["agent_id"], row["task_title"]) == ("peter", "first")


async def test_one_end_contradicts_another(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("success"))
        for state in ("failed", "killed", "cancelled"):
            found = await ingest.refuse(envelope(state), 409, "IDEMPOTENCY_CONFLICT")
            assert found == [("session.state", "conflict")]


async def test_a_conflict_is_told_in_the_senders_own_words(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("running", events=[event(1)]))
        run = {
            "sessionId": "ses-1",
            "state": "completed",
            "agentId": "tony",
            "startedAt": "2026-02-18T10:00:00Z",
        }
        other = {"envelope_version": "v2", "source": "gateway", "payload": {"run": run}}
        assert await ingest.refuse(other, 409, "IDEMPOTENCY_CONFLICT") == [("run.agentId", "conflict")]
        run["agentId"] = "peter"
        other["payload"] = {"run": run, "timeline": [event(2), event(1, payload={"text": "other"})]}
        assert await ingest.refuse(other, 409, "IDEMPOTENCY_CONFLICT") == [("timeline[1]", "conflict")]


async def test_a_session_of_this_node_is_not_overwritten_from_outside(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        from tests.store.kit import new_session

        await ingest.real_store.write(lambda tx: tx.ledger.add(new_session("ses-1", agent_id="peter")))
        found = await ingest.refuse(envelope(), 409, "IDEMPOTENCY_CONFLICT")
        assert ("source", "conflict") in found


# --- events


async def test_events_are_appended_once_by_number_or_id_in_any_order(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("running", events=[event(3), event(1, event_id="one")]))
        await ingest.take(envelope("running", events=[event(2), event(3), event(1, event_id="one")]))
        unnumbered = event(None, event_id="free", event_ts="2026-02-18T10:00:07Z")
        await ingest.take(envelope("running", events=[unnumbered, event(4)]))
        await ingest.take(envelope("running", events=[unnumbered]))
        found = ingest.sql("SELECT seq, event_id FROM session_events ORDER BY seq")
        assert found == [(1, "one"), (2, "ses-1:2"), (3, "ses-1:3"), (4, "ses-1:4"), (5, "free")]


async def test_events_without_number_and_id_are_known_by_their_content(tmp_path: Path) -> None:
    first, second = event(None), event(None, payload={"text": "second"})
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("running", events=[first, first]))
        await ingest.take(envelope("running", events=[first, first, second]))
        await ingest.take(envelope("success", events=[second]))
        texts = ingest.sql("SELECT json_extract(payload_json, '$.text') FROM session_events ORDER BY seq")
        assert [text for (text,) in texts] == ["line None", "line None", "second"]


async def test_an_event_id_belongs_to_one_session(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope(events=[event(1, event_id="mine"), event(2)]))
        for event_id in ("mine", "ses-1:2"):
            other = envelope(id="ses-2", events=[event(1, event_id=event_id)])
            assert await ingest.refuse(other, 409, "IDEMPOTENCY_CONFLICT") == [("events[0]", "conflict")]
        await ingest.take(envelope(id="ses-2", events=[event(1, event_id="ses-1:3")]))
        found = await ingest.refuse(envelope(events=[event(3)]), 409, "IDEMPOTENCY_CONFLICT")
        assert found == [("events[0]", "conflict")]


async def test_artifacts_are_counted_once(tmp_path: Path) -> None:
    async with ingesting(tmp_path) as ingest:
        await ingest.take(envelope("running", events=[event(1, "artifact"), event(2)]))
        await ingest.take(envelope("running", events=[event(3, "artifact"), event(1, "artifact")]))
        assert ingest.row("session_ledger")["artifact_count"] == 2
        await ingest.take(envelope(artifact_count=5))
        assert ingest.row("session_ledger")["artifact_count"] == 5


# --- together


async def test_fifty_equal_ingests_at_once_are_one(tmp_path: Path) -> None:
    async with ingesting(tmp_path, inline=False) as ingest:
        answers: list[Any] = []

        async def one() -> None:
            answers.append(await ingest.send(envelope(events=[event(1)], usage={"total_tokens": 5})))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert [status for status, _ in answers] == [200] * 50
        assert sorted(answer["idempotent_replay"] for _, answer in answers) == [False] + [True] * 49
        counts = ingest.counts()
        assert (counts["session_ledger"], counts["session_event_rows"]) == (1, 1)
        assert ingest.ended == ["ses-1"]


async def test_fifty_conflicting_ingests_at_once_have_one_winner(tmp_path: Path) -> None:
    async with ingesting(tmp_path, inline=False) as ingest:
        answers: dict[str, Any] = {}

        async def one(agent: str) -> None:
            answers[agent] = await ingest.send(envelope(agent_id=agent, key="k", events=[event(1)]))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, f"agent-{number}")
        winners = [agent for agent, (status, _) in answers.items() if status == 200]
        assert len(winners) == 1
        assert {status for status, _ in answers.values()} == {200, 409}
        assert ingest.sql("SELECT agent_id FROM session_ledger") == [(winners[0],)]


async def test_the_order_of_arrival_within_a_state_makes_no_difference(tmp_path: Path) -> None:
    """Forwards, backwards and with every message twice: the same rows."""
    parts = [
        envelope("running", model_id="m/1", events=[event(1)], usage={"prompt_tokens": 1}),
        envelope("running", events=[event(2)], usage={"prompt_tokens": 7, "completion_tokens": 2}),
        envelope("running", task_category="review", usage={"prompt_tokens": 4}, events=[event(1)]),
    ]
    end = envelope("success", ended_at="2026-02-18T10:00:09Z")
    seen = set()
    for number, order in enumerate((parts, parts[::-1], [*parts, *parts])):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with ingesting(folder) as ingest:
            for part in (*order, end, *order):
                await ingest.send(part)
            row, usage = ingest.row("session_ledger"), ingest.row("session_usage")
            seen.add(json.dumps([row, usage, ingest.sql("SELECT * FROM session_events")], sort_keys=True))
    assert len(seen) == 1


def test_the_kit_looks_at_every_table_that_is_written() -> None:
    assert len(set(TABLES)) == len(TABLES)
    assert OPERATOR.may_write
    assert ARRIVAL.tzinfo is not None
    assert session()["state"] == "success"
