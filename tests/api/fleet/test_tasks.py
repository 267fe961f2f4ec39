"""Tasks, their nodes, and what stays of them, over HTTP (R1.20–R1.34), on both databases."""

import json
import re

import pytest

from tests.api.fleet.kit import FleetApi, Joined, on
from tests.store.fleet.kit import Place, SqlitePlace

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
CONNECT = {
    "task_type": "connect_only",
    "inputs": {
        "session_id": "s-1",
        "requester_id": "r-1",
        "duration_seconds": 600,
        "bandwidth_limit_mbps": 10,
        "egress_profile": "allowlist_domains",
        "destination_policy_id": "web",
    },
}


def test_a_task_without_nodes_has_empty_lists_and_shows_nobody_its_inputs(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        task = await ann.submit(inputs={"secret": "MARKER"})
        found = await ann.get(f"/tasks/{task}")
        assert (found["assigned_nodes"], found["former_assigned_nodes"]) == ([], [])
        assert (found["status"], found["result"], found["proof_id"]) == ("pending", None, None)
        assert "MARKER" not in json.dumps([found, await ann.get("/tasks")])

    on(place, body)


def test_a_pending_task_is_given_to_a_node_that_comes(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        task = await ann.submit()
        await ann.register("edge-1")
        assert (await ann.get(f"/tasks/{task}"))["assigned_nodes"] == ["edge-1"]
        (given,) = (await ann.get("/nodes/edge-1/assignments"))["assignments"]
        assert (given["task_id"], given["inputs"], given["attempt"]) == (task, {"n": 1}, 1)
        assert given["away"] == {"policy": "wait", "after_sec": None}

    on(sqlite, body)


def test_formerly_assigned_nodes_are_in_list_and_single_task(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1", node_type="open_internet")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        started = await ann.post("/connect-sessions/start", {"task_id": task}, status=201)
        assert started["session_token"].startswith("cs_")
        api.later(601)
        await api.sweep()  # the session's time is up, and the task waits for a node again or has one
        session = await ann.get("/connect-sessions/s-1")
        assert (session["status"], session["internet_active"]) == ("expired", False)
        await ann.post("/nodes/edge-1/reject")
        for found in (await ann.get(f"/tasks/{task}"), (await ann.get("/tasks"))[0]):
            assert found["former_assigned_nodes"] == ["edge-1"]
            assert found["assigned_nodes"] == []
            assert found["status"] not in ("completed", "failed")

    on(place, body)


def test_a_cleared_task_leaves_a_row_at_each_node_that_has_or_had_it(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        for node in ("n1", "n2", "n3"):
            await ann.register(node)
        task = await ann.submit(requirements={"min_nodes": 2})
        assert (await ann.get(f"/tasks/{task}"))["assigned_nodes"] == ["n1", "n2"]
        await ann.post("/nodes/n1/reject")  # n1 is now a former node, n3 takes its place (R1.34)
        api.later(5)
        deleted = await ann.delete(f"/tasks/{task}")
        assert deleted["task_id"] == task
        assert (await ann.ask("GET", f"/tasks/{task}")).status == 404
        rows = api.rows(
            "SELECT node_id, health_score, active_tasks, status FROM node_heartbeat_history ORDER BY node_id"
        )
        assert rows == [(node, 0.0, 0, "task_cleared") for node in ("n1", "n2", "n3")]
        (event,) = (await ann.get("/nodes/n2/heartbeat/activity"))["events"]
        assert (event["task_id"], event["task_type"], event["event"]) == (task, "computation", "task_cleared")
        assert RFC3339.fullmatch(event["cleared_at"])
        assert event["at"] == event["cleared_at"]

    on(place, body)


def test_events_are_newest_first_and_survive_a_restart(sqlite: SqlitePlace) -> None:
    tasks: list[str] = []

    async def before(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("n1")
        for _ in range(3):
            api.later(1)
            tasks.append(await ann.submit())
            await ann.delete(f"/tasks/{tasks[-1]}")

    async def after(api: FleetApi) -> None:
        bob = await api.person("bob")
        found = await api.ask("GET", "/nodes/n1/heartbeat/activity", token=bob.token)
        assert found.status == 404
        again = await api.person("ann-again")
        await api.plane.store.write(lambda tx: None)
        api.rows("UPDATE nodes SET owner_id = 'id-of-ann-again'")
        events = (await again.get("/nodes/n1/heartbeat/activity"))["events"]
        assert [event["task_id"] for event in events] == tasks[::-1]
        limited = (await again.get("/nodes/n1/heartbeat/activity?limit=1"))["events"]
        assert [event["task_id"] for event in limited] == tasks[:1:-1]

    on(sqlite, before)
    on(sqlite, after)


def test_a_failing_history_warns_once_and_does_not_stop_the_deletion(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("n1")
        task = await ann.submit()
        if place.engine == "sqlite":
            api.rows(
                "CREATE TRIGGER broken BEFORE INSERT ON node_heartbeat_history"
                " BEGIN SELECT RAISE(ABORT, 'read only'); END"
            )
        else:
            api.rows(
                "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'read only'; END $$"
            )
            api.rows(
                "CREATE TRIGGER broken BEFORE INSERT ON node_heartbeat_history"
                " FOR EACH ROW EXECUTE FUNCTION broken()"
            )
        await ann.delete(f"/tasks/{task}")
        assert (await ann.ask("GET", f"/tasks/{task}")).status == 404
        assert api.log.events().count("fleet.history_failed") == 1

    on(place, body)


def test_both_kinds_of_events_say_when_under_both_names(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        await ann.register("edge-1", node_type="open_internet")
        task = (await ann.post("/tasks", CONNECT, status=201))["task_id"]
        await ann.post("/connect-sessions/start", {"task_id": task}, status=201)
        api.later(1)
        await ann.delete(f"/tasks/{task}")
        cleared, connected = (await ann.get("/nodes/edge-1/heartbeat/activity"))["events"]
        assert (connected["event"], connected["session_id"]) == ("task_connected", "s-1")
        assert cleared["event"] == "task_cleared"
        for event in (cleared, connected):
            assert event["at"] == event["cleared_at"]
        assert (await ann.ask("GET", "/connect-sessions/s-1")).status == 404  # it went with its task

    on(sqlite, body)


def test_a_node_owner_sees_work_of_their_node_whoever_submitted_it(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("edge-1")
        task = await bob.submit()
        assert [row["task_id"] for row in await ann.get("/tasks?node_id=edge-1")] == [task]
        assert await ann.get("/tasks") == []
        assert (await bob.ask("GET", "/tasks?node_id=edge-1")).status == 404
        assert (await ann.ask("GET", f"/tasks/{task}")).status == 404

    on(sqlite, body)


def test_lists_of_tasks_have_pages_and_filters(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        made = []
        for _ in range(3):
            api.later(1)
            made.append(await ann.submit())
        first = await ann.ask("GET", "/tasks?limit=2")
        assert [row["task_id"] for row in json.loads(first.body)] == [made[2], made[1]]
        rest = await ann.get(f"/tasks?limit=2&cursor={dict(first.headers)['X-Next-Cursor']}")
        assert [row["task_id"] for row in rest] == [made[0]]
        assert await ann.get("/tasks?status=completed") == []
        assert len(await ann.get("/tasks?status=pending&task_type=computation")) == 3
        assert (await ann.ask("GET", "/tasks?status=asleep")).status == 400

    on(place, body)


@pytest.mark.parametrize("task_id", ["not-a-uuid", "0", "00000000-0000-4000-8000-000000000000"])
def test_no_uuid_is_not_there(sqlite: SqlitePlace, task_id: str) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        for method in ("GET", "DELETE"):
            assert (await ann.ask(method, f"/tasks/{task_id}")).status == 404

    on(sqlite, body)


def test_work_of_an_agent_goes_to_any_type_of_node_and_its_result_comes_back(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1", node_type="storage")
        task = await ann.submit(
            task_type="agent_session", inputs={"agent_id": "reviewer", "prompt": "Review it", "title": "t"}
        )
        (given,) = (await edge.get("/assignments"))["assignments"]
        assert given["inputs"]["prompt"] == "Review it"
        result = edge.own(f"/assignments/{task}/result")[len(edge.own("")) :]
        running = await edge.post(result, {"status": "in_progress", "session_id": "ses_1"})
        assert running["status"] == "running"
        done = {"status": "completed", "session_id": "ses_1", "result": {"text": "fine"}}
        found = await edge.post(result, done)
        assert (found["status"], found["result"]) == ("completed", {"text": "fine"})
        assert found["former_assigned_nodes"] == ["edge-1"]
        again = await edge.post(result, done)  # its answer was lost
        assert again == found
        assert (await ann.get(f"/tasks/{task}"))["completed_at"] is not None
        assert (await edge.get("/assignments"))["assignments"] == []
        error = await edge.post(result, {"status": "failed"}, status=409)
        assert error["error"]["code"] == "CONFLICT"

    on(place, body)


def test_a_prompt_never_reaches_the_agents_of_another_owner(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        await ann.register("anns", node_type="any")
        prompt = {"agent_id": "reviewer", "prompt": "p"}
        task = await bob.submit(task_type="agent_session", inputs=prompt)
        assert (await bob.get(f"/tasks/{task}"))["assigned_nodes"] == []
        await ann.put("/nodes/anns/heartbeat")
        await api.sweep()
        assert (await bob.get(f"/tasks/{task}"))["assigned_nodes"] == []
        await bob.register("bobs", node_type="gateway")
        assert (await bob.get(f"/tasks/{task}"))["assigned_nodes"] == ["bobs"]

    on(place, body)


def test_a_failed_result_fails_the_task_when_no_node_is_left_to_do_it(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        task = await ann.submit()
        found = await edge.post(f"/assignments/{task}/result", {"status": "failed", "result": {"error": "x"}})
        assert found["status"] == "failed"
        assert (await ann.get("/cluster/stats"))["failed_tasks"] == 1

    on(sqlite, body)


async def _away_node(api: FleetApi, policy: dict[str, object]) -> tuple[Joined, str]:
    """A node that was given a task, began it, and has been away for half an hour since."""
    ann = await api.person("ann")
    edge = await ann.join("edge-1")
    task = await ann.submit(away=policy)
    await edge.post(f"/assignments/{task}/result", {"status": "in_progress", "session_id": "ses_1"})
    api.later(1800)
    await api.sweep()
    return edge, task


def test_work_that_waits_is_still_the_nodes_when_it_is_back(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        edge, task = await _away_node(api, {"policy": "wait"})
        answer = await edge.post("/assignments/reconcile", {"running": [{"task_id": task}]})
        assert answer["verdicts"] == [{"task_id": task, "verdict": "keep"}]
        assert [given["task_id"] for given in answer["assignments"]] == [task]

    on(place, body)


def test_healthy_work_that_was_moved_is_kept_and_the_idle_replacement_gives_way(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        edge, task = await _away_node(api, {"policy": "move", "after_sec": 600})
        ann = await api.person("carl")
        other = await ann.join("edge-2")
        await api.sweep()
        assert [given["task_id"] for given in (await other.get("/assignments"))["assignments"]] == [task]
        await edge.beat()
        answer = await edge.post(
            "/assignments/reconcile", {"running": [{"task_id": task, "session_id": "ses_1"}]}
        )
        assert answer["verdicts"] == [{"task_id": task, "verdict": "keep"}]
        assert (await other.get("/assignments"))["assignments"] == []
        found = await edge.post(f"/assignments/{task}/result", {"status": "completed", "result": 1})
        assert found["status"] == "completed"

    on(place, body)


def test_work_that_stops_by_itself_is_moved_only_when_it_has_surely_stopped(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        task = await ann.submit(away={"policy": "stop", "after_sec": 1000})
        (given,) = (await edge.get("/assignments"))["assignments"]
        assert given["away"] == {"policy": "stop", "after_sec": 1000}
        await ann.register("edge-2")
        api.later(1100)
        await ann.put("/nodes/edge-2/heartbeat")
        await api.sweep()
        assert (await ann.get(f"/tasks/{task}"))["assigned_nodes"] == ["edge-1"]
        api.later(200)
        await ann.put("/nodes/edge-2/heartbeat")
        await api.sweep()
        found = await ann.get(f"/tasks/{task}")
        assert (found["assigned_nodes"], found["former_assigned_nodes"]) == (["edge-2"], ["edge-1"])
        answer = await edge.post("/assignments/reconcile", {"running": [{"task_id": task}]})
        assert answer["verdicts"] == [{"task_id": task, "verdict": "stop"}]

    on(place, body)


def test_what_a_node_runs_and_nobody_gave_it_is_to_stop(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        task = await ann.submit()
        answer = await edge.post("/assignments/reconcile", {"running": [{"task_id": "odd"}]})
        assert answer["verdicts"] == [
            {"task_id": "odd", "verdict": "stop"},
            {"task_id": task, "verdict": "start"},
        ]

    on(sqlite, body)


def test_a_cleared_task_is_to_stop_at_its_node(sqlite: SqlitePlace) -> None:
    async def body(api: FleetApi) -> None:
        ann = await api.person("ann")
        edge = await ann.join("edge-1")
        task = await ann.submit()
        await ann.delete(f"/tasks/{task}")
        answer = await edge.post("/assignments/reconcile", {"running": [{"task_id": task}]})
        assert answer["verdicts"] == [{"task_id": task, "verdict": "stop"}]
        result = await edge.ask("POST", edge.own(f"/assignments/{task}/result"), {"status": "completed"})
        assert result.status == 404

    on(sqlite, body)


def test_an_account_has_so_many_open_tasks_and_no_more(place: Place) -> None:
    async def body(api: FleetApi) -> None:
        ann, bob = await api.person("ann"), await api.person("bob")
        tasks = [await ann.submit() for _ in range(3)]
        refused = await ann.post("/tasks", {"task_type": "computation", "inputs": {}}, status=409)
        assert refused["error"]["code"] == "QUOTA_EXCEEDED"
        assert "3 tasks" in refused["error"]["message"]
        assert len(await ann.get("/tasks")) == 3
        await bob.submit()  # somebody else's are counted by themselves
        await ann.delete(f"/tasks/{tasks[0]}")
        await ann.submit()

    on(place, body, max_open_tasks=3)
