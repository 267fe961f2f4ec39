"""The registry, reports and history over HTTP, on both databases."""

import json

import pytest

from ambientd.wire.fleet_enums import Role
from tests.api.fleet.kit import REGISTRATION, FleetApi, json_of, on
from tests.store.fleet.kit import Place, SqlitePlace

ORIGINAL_NODE_KEYS = {
    "node_id",
    "region",
    "node_type",
    "capabilities",
    "owner_id",
    "health_score",
    "status",
    "registered_at",
    "last_seen",
    "observability_port",
}


def test_a_node_is_registered_listed_deleted_and_brought_back(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        made = await ann.register("edge-1", observability_port=9090)
        assert made.keys() >= ORIGINAL_NODE_KEYS
        assert (made["status"], made["health_score"], made["owner_id"]) == ("online", 100.0, ann.user_id)
        assert [node["node_id"] for node in await ann.get("/nodes")] == ["edge-1"]
        assert await ann.get("/nodes/edge-1") == made
        assert (await ann.delete("/nodes/edge-1"))["node_id"] == "edge-1"
        assert await ann.get("/nodes") == []
        assert (await ann.delete("/nodes/edge-1", status=404))["error"]["code"] == "NOT_FOUND"
        api.later(3600)
        back = await ann.register("edge-1", region="us")  # the name is not burned (S1)
        assert (back["status"], back["region"]) == ("online", "us")

    on(place, body)


def test_an_id_that_another_owner_has_had_is_refused_without_telling_whose(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("edge-1")
        refused = await bob.post("/nodes", {"node_id": "edge-1", **REGISTRATION}, status=409)
        assert "ann" not in json.dumps(refused)
        await ann.delete("/nodes/edge-1")
        await bob.post("/nodes", {"node_id": "edge-1", **REGISTRATION}, status=409)

    on(sqlite, body)


def test_everything_that_is_wrong_with_a_registration_is_told_at_once(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        bad = {
            "node_id": "no spaces",
            "region": "x" * 33,
            "node_type": "toaster",
            "capabilities": {"bandwidth_mbps": 1, "cpu_cores": 0, "memory_gb": 1e9},
        }
        error = (await ann.post("/nodes", bad, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == [
            "capabilities.bandwidth_mbps",
            "capabilities.cpu_cores",
            "capabilities.memory_gb",
            "node_id",
            "node_type",
            "region",
        ]
        await ann.post("/nodes", {"node_id": "enrol", **REGISTRATION}, status=400)

    on(sqlite, body)


def test_lists_have_pages_and_filters(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        for number in range(5):
            api.later(1)
            await ann.register(f"n{number}", node_type="gateway" if number == 2 else "compute")
        first = await ann.ask("GET", "/nodes?limit=2")
        assert [node["node_id"] for node in json_of(first)] == ["n4", "n3"]
        headers = dict(first.headers)
        assert headers["Link"].startswith("</api/v1/nodes?")
        assert headers["Link"].endswith('rel="next"')
        second = await ann.ask("GET", f"/nodes?limit=2&cursor={headers['X-Next-Cursor']}")
        assert [node["node_id"] for node in json_of(second)] == ["n2", "n1"]
        last = await ann.ask("GET", f"/nodes?limit=2&cursor={dict(second.headers)['X-Next-Cursor']}")
        assert [node["node_id"] for node in json_of(last)] == ["n0"]
        assert "X-Next-Cursor" not in dict(last.headers)
        assert [node["node_id"] for node in await ann.get("/nodes?node_type=gateway")] == ["n2"]
        await ann.post("/nodes/n3/reject")
        assert [node["node_id"] for node in await ann.get("/nodes?status=rejected")] == ["n3"]
        assert "n3" not in [node["node_id"] for node in await ann.get("/nodes")]
        for cursor in ("x", "W10", "*", "WzEsIlx1MDAwMCJd"):
            assert (await ann.ask("GET", f"/nodes?cursor={cursor}")).status == 400

    on(place, body)


def test_administrators_read_every_node_and_change_their_own_only(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann, root = await api.person("ann"), await api.person("root", Role.ADMIN)
        await ann.register("edge-1")
        assert [node["node_id"] for node in await root.get("/nodes")] == ["edge-1"]
        assert await root.get("/nodes?owner=me") == []
        assert (await root.get("/nodes/edge-1"))["owner_id"] == ann.user_id
        for method, path in (("DELETE", "/nodes/edge-1"), ("POST", "/nodes/edge-1/reject")):
            assert (await root.ask(method, path)).status == 404
        assert (await root.ask("PUT", "/nodes/edge-1/heartbeat")).status == 404

    on(sqlite, body)


def test_a_bare_report_is_valid_and_answers_what_the_node_has(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        task = await ann.submit()
        found = await ann.put("/nodes/edge-1/heartbeat")
        assert found["message"] == "Heartbeat updated successfully"
        assert (found["node_id"], found["node_status"], found["active_tasks"]) == ("edge-1", "online", 1)
        assert found["assigned_task_ids"] == [task]
        assert found["assigned_tasks"] == [
            {"task_id": task, "task_type": "computation", "execution_status": "assigned"}
        ]
        assert found["internet_active"] is False
        assert (await api.ask("PUT", "/nodes/edge-1/heartbeat")).status == 401

    on(place, body)


def test_every_report_is_a_row_with_what_it_said_and_the_live_number_of_tasks(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        for number in range(1, 6):
            if number == 3:
                await ann.submit()
            await ann.put(
                "/nodes/edge-1/heartbeat",
                {
                    "seq": number,
                    "health_score": 90 + number,
                    "cpu_usage": 12.5,
                    "memory_usage": 40,
                    "disk_usage": 70,
                    "network_latency_ms": 21,
                    "state": "OnlineControlPlane",
                    "delta_v": 1.5,
                    "audit_head_seq": number,
                    "audit_head_hash": f"{number:064x}",
                    "metadata": {"version": "0.1"},
                },
            )
        rows = api.rows(
            "SELECT report_seq, health_score, active_tasks, status FROM node_heartbeat_history"
            " ORDER BY heartbeat_id"
        )
        assert rows == [(n, 90.0 + n, int(n >= 3), "online") for n in range(1, 6)]
        history = await ann.get("/nodes/edge-1/history?limit=3")
        assert [row["seq"] for row in history["rows"]] == [5, 4, 3]
        assert history["rows"][0]["cpu_usage"] == 12.5
        assert history["rows"][0]["metadata"] == {"version": "0.1"}
        assert history["rows"][0]["score"] == {
            "value": 0.3845,  # 0.3 of a latency of 21 ms, and 0.2 of the loads
            "most": 0.5,
            "unmeasured": ["bandwidth", "reputation"],
        }
        older = await ann.get(f"/nodes/edge-1/history?limit=3&before={history['next']}")
        assert ([row["seq"] for row in older["rows"]], older["next"]) == ([2, 1], None)
        node = await ann.get("/nodes/edge-1")
        assert (node["state"], node["delta_v"], node["report_seq"]) == ("OnlineControlPlane", 1.5, 5)
        assert (node["audit_head_seq"], node["audit_head_hash"]) == (5, f"{5:064x}")

    on(place, body)


@pytest.mark.parametrize(
    ("report", "field"),
    [
        ({"cpu_usage": 101}, "cpu_usage"),
        ({"health_score": -1}, "health_score"),
        ({"seq": 0}, "seq"),
        ({"state": "Sleeping"}, "state"),
        ({"metadata": {"a": "x" * 5000}}, "metadata"),
        ({"cpu_usage": "12"}, "cpu_usage"),
        ({"at": "yesterday"}, "at"),
    ],
)
def test_a_report_that_cannot_be_true_is_refused_and_writes_nothing(
    sqlite: SqlitePlace, report: dict[str, object], field: str
) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        error = (await ann.put("/nodes/edge-1/heartbeat", report, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == [field]
        assert api.rows("SELECT count(*) FROM node_heartbeat_history") == [(0,)]

    on(sqlite, body)


def test_a_silent_node_becomes_unknown_then_offline_and_any_report_brings_it_back(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")

        async def status_after(seconds: float) -> str:
            api.later(seconds)
            await api.sweep()
            return str((await ann.get("/nodes/edge-1"))["status"])

        assert await status_after(170) == "online"
        assert await status_after(20) == "unknown"
        assert await status_after(700) == "unknown"
        assert await status_after(30) == "offline"
        waiting = await ann.submit()
        assert (await ann.get(f"/tasks/{waiting}"))["status"] == "pending"
        assert (await ann.put("/nodes/edge-1/heartbeat"))["node_status"] == "online"
        found = await ann.get(f"/tasks/{waiting}")
        assert (found["status"], found["assigned_nodes"]) == ("running", ["edge-1"])

    on(place, body)


def test_a_rejected_node_stays_rejected_whatever_it_reports(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1")
        task = await ann.submit()
        assert (await ann.post("/nodes/edge-1/reject"))["status"] == "rejected"
        assert (await ann.put("/nodes/edge-1/heartbeat"))["node_status"] == "rejected"
        found = await ann.get(f"/tasks/{task}")
        assert (found["assigned_nodes"], found["former_assigned_nodes"]) == ([], ["edge-1"])

    on(sqlite, body)


def test_statistics_are_sums_over_all_owners(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("a1")
        await bob.register("b1")
        await bob.put("/nodes/b1/heartbeat", {"health_score": 50})
        await ann.submit()
        assert await ann.get("/cluster/stats") == {
            "total_nodes": 2,
            "online_nodes": 2,
            "healthy_nodes": 1,
            "total_tasks": 1,
            "completed_tasks": 0,
            "failed_tasks": 0,
            "avg_health_score": 75.0,
            "total_compute_capacity": 2048.0,
        }

    on(place, body)
