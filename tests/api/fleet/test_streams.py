"""What nodes push: at least once in, kept once, acknowledged when durable (R1.55), on both databases."""

import json
from typing import Any

import pytest

from ambientd.core.audit import GENESIS, record_hash
from tests.api.fleet.kit import FleetApi, on
from tests.store.fleet.kit import Place, SqlitePlace


def chain(count: int, *, start: int = 1, prev: str = GENESIS, actor: str = "node") -> list[dict[str, Any]]:
    """Records as a node has them."""
    records = []
    for seq in range(start, start + count):
        fields: dict[str, Any] = {
            "seq": seq,
            "kind": "transition",
            "at": f"2026-11-20T12:00:{seq % 60:02}.000Z",
            "actor": actor,
            "subject": "links",
            "detail": {"n": seq},
        }
        digest = record_hash(prev_hash=prev, **fields)
        records.append({**fields, "prev_hash": prev, "hash": digest})
        prev = digest
    return records


def report(seq: int, **fields: Any) -> dict[str, Any]:
    return {"seq": seq, "at": f"2026-11-20T11:{seq % 60:02}:00Z", "cpu_usage": float(seq % 100), **fields}


def session(seq: int, session_id: str, status: str = "running", **fields: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "session_id": session_id,
        "session": {
            "agent_id": "reviewer",
            "agent_label": "Reviewer",
            "model_id": "m-1",
            "status": status,
            "started_at": "2026-11-20T11:00:00Z",
            **fields,
        },
    }


def test_reports_that_waited_come_in_batches_and_twice_is_once(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        batch = {"reports": [report(seq) for seq in range(1, 61)]}
        found = await edge.post("/reports", batch)
        assert (found["acked_seq"], found["taken"], found["duplicates"]) == (60, 60, 0)
        batch["reports"].append(report(61, health_score=77))
        found = await edge.post("/reports", batch)  # the first answer was lost
        assert (found["acked_seq"], found["taken"], found["duplicates"]) == (61, 1, 60)
        assert api.rows("SELECT count(*) FROM node_heartbeat_history") == [(61,)]
        assert (await edge.get(""))["health_score"] == 77
        (row,) = (await ann.get("/nodes/edge-1/history?limit=1"))["rows"]
        assert row["sampled_at"] == "2026-11-20T11:01:00.000Z"

    on(place, body)


@pytest.mark.parametrize(
    ("reports", "field"),
    [
        ([], "reports"),
        ([{}], "reports[0].seq"),
        ([report(2), report(1)], "reports[1].seq"),
        ([report(1), report(1)], "reports[1].seq"),
        ([report(1), report(2, cpu_usage=200)], "reports[1].cpu_usage"),
        ([report(n) for n in range(1, 502)], "reports"),
    ],
)
def test_one_bad_report_refuses_its_batch_and_is_named(
    sqlite: SqlitePlace, reports: list[Any], field: str
) -> None:
    async def body(api: FleetApi) -> None:
        edge = await (await api.person("ann")).join("edge-1")
        error = (await edge.post("/reports", {"reports": reports}, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == [field]
        assert api.rows("SELECT count(*) FROM node_heartbeat_history") == [(0,)]

    on(sqlite, body)


def test_an_audit_chain_grows_behind_its_head_and_overlaps_change_nothing(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        records = chain(10)
        found = await edge.post("/audit", {"records": records[:6]})
        assert (found["acked_seq"], found["head_hash"], found["taken"]) == (6, records[5]["hash"], 6)
        found = await edge.post("/audit", {"records": records[3:]})
        assert (found["acked_seq"], found["taken"], found["duplicates"]) == (10, 4, 3)
        assert (await ann.get("/nodes/edge-1/audit?after=8"))["records"] == records[8:]
        assert (await ann.get("/nodes/edge-1/streams"))["streams"][0]["acked_seq"] == 10
        assert await edge.post("/audit", {"records": []}) == {
            "acked_seq": 10,
            "head_hash": records[9]["hash"],
            "taken": 0,
            "duplicates": 0,
        }

    on(place, body)


def test_a_fork_a_gap_and_a_broken_chain_are_refused_with_the_head(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        edge = await (await api.person("ann")).join("edge-1")
        records = chain(5)
        await edge.post("/audit", {"records": records})
        fork = chain(3, start=4, prev=records[2]["hash"], actor="somebody else")
        stranger = chain(2, start=6, prev="ab" * 32)
        gap = chain(8)[6:]
        for batch in (fork, stranger, gap):
            error = (await edge.post("/audit", {"records": batch}, status=409))["error"]
            details = {detail["field"]: detail["expected"] for detail in error["details"]}
            assert details == {"head_seq": "5", "head_hash": records[4]["hash"]}
        broken = chain(2, start=6, prev=records[4]["hash"])
        broken[1]["detail"] = {"n": 0}
        error = (await edge.post("/audit", {"records": broken}, status=400))["error"]
        assert error["details"][0]["expected"] == "7"
        assert (await edge.get("/streams"))["streams"][0]["acked_seq"] == 5

    on(place, body)


def test_ledger_rows_are_taken_once_whatever_comes_again(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        events = [
            {"seq": n, "event_type": "message", "at": "2026-11-20T11:00:01Z", "payload": {"n": n}}
            for n in (1, 2)
        ]
        usage = {
            "computed_at": "2026-11-20T11:05:00Z",
            "total_tokens": 120,
            "cost_usd": 0.25,
            "cost_confidence": "exact",
            "cost_source": "provider_reported",
        }
        first = [
            session(1, "ses_1", task_id="t-1"),
            {"seq": 2, "session_id": "ses_1", "events": events[:1]},
        ]
        last = [
            {"seq": 4, "session_id": "ses_1", "events": events},  # number 3 was dropped at the node
            session(5, "ses_1", "success", ended_at="2026-11-20T11:05:00Z", runtime_ms=300_000),
            {"seq": 6, "session_id": "ses_1", "usage": usage},
        ]
        assert (await edge.post("/ledger", {"after": 0, "records": first}))["acked_seq"] == 2
        for _ in range(2):
            found = await edge.post("/ledger", {"after": 0, "records": first + last})
            assert (found["acked_seq"], found["left_out"]) == (6, [])
        assert (found["taken"], found["duplicates"]) == (0, 5)
        page = await ann.get("/nodes/edge-1/ledger")
        assert [row["status"] for row in page["rows"]] == ["success"]
        detail = await ann.get("/nodes/edge-1/ledger/ses_1")
        assert [event["payload"] for event in detail["events"]] == [{"n": 1}, {"n": 2}]
        assert (detail["usage"]["total_tokens"], detail["usage"]["cost_usd"]) == (120, 0.25)
        assert await ann.get("/nodes/edge-1/usage") == {
            "sessions": 1,
            "total_tokens": 120,
            "cost_usd": 0.25,
            "runtime_ms": 300_000,
        }
        assert (await ann.get("/nodes/edge-1/usage?from=2026-11-21T00:00:00Z"))["sessions"] == 0
        assert (await ann.ask("GET", "/nodes/edge-1/usage?from=soon")).status == 400

    on(place, body)


def test_a_database_that_was_put_back_says_where_the_stream_goes_on(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        edge = await (await api.person("ann")).join("edge-1")
        error = (await edge.post("/ledger", {"after": 9, "records": [session(10, "ses_1")]}, status=409))[
            "error"
        ]
        assert error["details"][0]["expected"] == "0"
        found = await edge.post("/ledger", {"after": 0, "records": [session(10, "ses_1")]})
        assert found["acked_seq"] == 10

    on(sqlite, body)


def test_rows_of_a_session_that_was_never_pushed_are_left_out_and_named(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        edge = await (await api.person("ann")).join("edge-1")
        orphan = {
            "seq": 1,
            "session_id": "ses_lost",
            "events": [{"seq": 1, "event_type": "message", "at": "2026-11-20T11:00:01Z"}],
        }
        found = await edge.post("/ledger", {"after": 0, "records": [orphan, session(2, "ses_1")]})
        assert (found["acked_seq"], found["taken"]) == (2, 1)
        assert [one["seq"] for one in found["left_out"]] == [1]

    on(place, body)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (session(1, ""), "records[0].session_id"),
        (session(1, "s", started_at="today"), "records[0].session.started_at"),
        (session(1, "s", "asleep"), "records[0].session.status"),
        (session(1, "s", runtime_ms=-1), "records[0].session.runtime_ms"),
        (session(0, "s"), "records[0].seq"),
        (
            {"seq": 1, "session_id": "s", "usage": {"computed_at": "2026-11-20T11:00:00Z", "cost_usd": -1}},
            "records[0].usage.cost_usd",
        ),
    ],
)
def test_a_ledger_row_that_cannot_be_is_refused_by_name(
    sqlite: SqlitePlace, record: dict[str, Any], field: str
) -> None:
    async def body(api: FleetApi) -> None:
        edge = await (await api.person("ann")).join("edge-1")
        error = (await edge.post("/ledger", {"after": 0, "records": [record]}, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == [field]

    on(sqlite, body)


def test_windows_of_delta_v_are_kept_and_replaced(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")

        def window(seq: int, minute: int, value: float | None) -> dict[str, Any]:
            return {
                "seq": seq,
                "window_start": f"2026-11-20T11:{minute:02}:00Z",
                "window_end": f"2026-11-20T11:{minute + 1:02}:00Z",
                "value": value,
                "samples": 60,
                "source": "cpu",
            }

        records = [window(1, 0, 1.5), window(2, 1, None), window(3, 0, 2.5)]
        assert (await edge.post("/delta-v", {"after": 0, "records": records}))["acked_seq"] == 3
        found = (await ann.get("/nodes/edge-1/delta-v"))["windows"]
        assert [one["value"] for one in found] == [2.5, None]
        late = (await ann.get("/nodes/edge-1/delta-v?from=2026-11-20T11:01:00Z"))["windows"]
        assert len(late) == 1

    on(place, body)


def test_streams_begin_anew_when_a_node_is_enrolled_with_another_key(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        await edge.post("/audit", {"records": chain(3)})
        await edge.post("/ledger", {"after": 0, "records": [session(9, "ses_1")]})
        again = await ann.join("edge-1", bytes([5]) * 32)
        assert (await again.get("/streams"))["streams"] == []
        fresh = chain(2, actor="another chain")
        assert (await again.post("/audit", {"records": fresh}))["acked_seq"] == 2
        assert (await again.post("/ledger", {"after": 0, "records": [session(1, "ses_2")]}))["acked_seq"] == 1

    on(place, body)


def test_another_owners_ledger_is_not_there(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        edge = await ann.join("edge-1")
        await edge.post("/ledger", {"after": 0, "records": [session(1, "ses_1", task_title="MARKER")]})
        for path in ("ledger", "ledger/ses_1", "usage", "delta-v", "streams", "audit", "policies", "leases"):
            here = await bob.ask("GET", f"/nodes/edge-1/{path}")
            nowhere = await bob.ask("GET", f"/nodes/nowhere/{path}")
            assert here.status == nowhere.status == 404
            assert here.body == nowhere.body
            assert "MARKER" not in json.dumps(here.body.decode())

    on(sqlite, body)
