"""`node activity`: what a node has to do, and the log of its work."""

import json
import re
from typing import Any

import pytest

from ambientctl.nodeview import BAD, GOOD, is_active, log_of, standing
from ambientd.wire import routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

NODE, OTHER = "edge-07", "edge-08"
ID = "0f1e2d3c-4b5a-4697-8899-{:012}"
LINE = re.compile(
    r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] Task [0-9a-f-]{12}… \[[a-z_]+\] — [a-z]+( .+)?"
)
EVENTS = f"{routes.FLEET_NODES}/{NODE}/activity"


def task(number: int, status: str = "running", **changes: Any) -> dict[str, Any]:
    """As the API tells it; on this node, unless told otherwise."""
    at = f"2026-11-20T15:{number:02}:00.000Z"
    row = {
        "task_id": ID.format(number),
        "task_type": "agent_session",
        "status": status,
        "assigned_nodes": [NODE],
        "former_assigned_nodes": [],
        "created_at": at,
        "updated_at": at,
        "completed_at": at if status in ("completed", "failed") else None,
    }
    if status in ("completed", "failed"):
        row |= {"assigned_nodes": [], "former_assigned_nodes": [NODE]}
    return row | changes


def event(number: int, name: str = "task_cleared", kind: str = "agent_session") -> dict[str, Any]:
    at = f"2026-11-20T14:{number:02}:00.123Z"
    return {"task_id": ID.format(number), "task_type": kind, "event": name, "at": at, "cleared_at": at}


def serve(daemon: FakeDaemon, tasks: list[Any], events: list[Any]) -> None:
    daemon.script[routes.FLEET_TASKS] = Reply(body=json.dumps({"tasks": tasks}).encode())
    daemon.script[EVENTS] = Reply(body=json.dumps({"events": events}).encode())


def log_lines(out: str) -> list[str]:
    _, _, log = out.partition("Activity Log\n")
    return log.splitlines()


def camel(row: dict[str, Any]) -> dict[str, Any]:
    from ambientctl.camel import camel as of

    found: dict[str, Any] = of(row)
    return found


def test_each_event_is_one_line_in_the_colour_of_an_error(ctl: Ctl, daemon: FakeDaemon) -> None:
    serve(daemon, [], [event(3), event(2, kind="computation"), event(1)])
    found = ctl("node", "activity", NODE, "--color", "always")
    assert found.code == 0
    told = [
        f"[2026-11-20T14:{n:02}:00.123Z] Task 0f1e2d3c-4b5… [{kind}] — cleared"
        for n, kind in ((3, "agent_session"), (2, "computation"), (1, "agent_session"))
    ]
    assert log_lines(found.out) == [f"\x1b[31m{line}\x1b[0m" for line in told]
    assert log_lines(ctl("node", "activity", NODE).out) == told
    assert all(LINE.fullmatch(line) for line in told)


def test_what_ended_what_runs_and_what_left_each_has_its_words(ctl: Ctl, daemon: FakeDaemon) -> None:
    left = {"assigned_nodes": [OTHER], "former_assigned_nodes": [NODE]}
    tasks = [
        task(9, "running"),
        task(8, "completed"),
        task(7, "failed"),
        task(6, "completed", task_type="connect_only"),
        task(5, "failed", task_type="connect_only"),
        task(4, "running", **left),
        task(3, "running", task_type="connect_only", **left),
        task(2, "running", assigned_nodes=[OTHER]),
        task(1, "completed", former_assigned_nodes=[OTHER]),
    ]
    serve(daemon, tasks, [event(0, "task_connected", "connect_only")])
    found = ctl("node", "activity", NODE, "--color", "always")
    lines = log_lines(found.out)
    labels = [line.partition(" — ")[2] for line in lines]
    assert labels == [
        "running (active)\x1b[0m",
        "finished (completed) ✓\x1b[0m",
        "finished (failed) ✗\x1b[0m",
        "session completed ✓\x1b[0m",
        "finished (failed) ✗\x1b[0m",
        "cleared from node\x1b[0m",
        "cleared from node\x1b[0m",
        "connected\x1b[0m",
    ]
    green, red = "\x1b[32m", "\x1b[31m"
    assert [line[:5] for line in lines] == [green, green, red, green, red, red, red, green]
    assert all(LINE.fullmatch(line) for line in log_lines(ctl("node", "activity", NODE).out))


def test_active_tasks_are_those_that_this_node_has_and_that_have_not_ended(
    ctl: Ctl, daemon: FakeDaemon
) -> None:
    mine = [task(3, "running"), task(2, "pending")]
    gone = [task(1, "completed"), task(4, "running", assigned_nodes=[OTHER])]
    serve(daemon, [*mine, *gone], [])
    out = ctl("node", "activity", NODE).out
    active = out.partition("\n\n")[0].splitlines()
    assert active[0] == "Active Tasks"
    assert [line.split()[:4] for line in active[2:]] == [
        ["0f1e2d3c-4b5…", "agent_session", "▶", "running"],
        ["0f1e2d3c-4b5…", "agent_session", "…", "pending"],
    ]
    document = json.loads(ctl("node", "activity", NODE, "--json").out)
    assert document["schema"] == routes.SCHEMA_NODE_ACTIVITY
    assert [one["taskId"] for one in document["activeTasks"]] == [one["task_id"] for one in mine]
    assert [one["label"] for one in document["log"]] == [
        "running (active)",
        "pending (active)",
        "finished (completed) ✓",
    ]
    serve(daemon, [task(3, "completed")], [])  # it has ended: in the log, and no longer active
    document = json.loads(ctl("node", "activity", NODE, "--json").out)
    assert (document["activeTasks"], len(document["log"])) == ([], 1)


def test_a_node_without_work_says_so(ctl: Ctl, daemon: FakeDaemon) -> None:
    serve(daemon, [], [])
    found = ctl("node", "activity", NODE)
    assert found.out.splitlines() == [
        "Active Tasks",
        "No tasks currently assigned to this node",
        "",
        "Activity Log",
        "Nothing has happened yet.",
    ]
    document = json.loads(ctl("node", "activity", NODE, "--json").out)
    assert (document["activeTasks"], document["log"], document["items"]) == ([], [], [])


def test_one_question_for_events_and_one_for_tasks(ctl: Ctl, daemon: FakeDaemon) -> None:
    serve(daemon, [task(1)], [event(1)])
    ctl("node", "activity", NODE)
    assert sorted(seen.path for seen in daemon.seen) == sorted([EVENTS, routes.FLEET_TASKS])


def test_another_node_is_not_found_and_nothing_is_shown(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[EVENTS] = refused("NOT_FOUND", "there is no such node")
    found = ctl("node", "activity", NODE)
    assert (found.code, found.out, found.err) == (5, "", "Error: there is no such node\n")


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("was", [True, False])
@pytest.mark.parametrize("ended", [True, False])
def test_left_is_formerly_here_not_here_now_and_not_ended(here: bool, was: bool, ended: bool) -> None:
    row = camel(
        task(
            1,
            "completed" if ended else "running",
            assigned_nodes=[NODE] if here else [OTHER],
            former_assigned_nodes=[NODE] if was else [OTHER],
        )
    )
    found = standing(row, NODE)
    assert (found == ("cleared from node", BAD)) is (was and not here and not ended)
    assert (found is None) is (not here and not was)
    assert (found == ("finished (completed) ✓", GOOD)) is (ended and (here or was))
    assert is_active(row, NODE) is (here and not ended)


def test_ids_and_words_from_outside_are_shown_as_text(ctl: Ctl, daemon: FakeDaemon) -> None:
    bad = event(1) | {"task_id": "\x1b[2Jabc", "task_type": "a\nb", "event": "task_\x1b[31m"}
    serve(daemon, [], [bad])
    assert "\x1b" not in ctl("node", "activity", NODE, "--color", "never").out
    assert len(log_of(NODE, [], [camel(bad)])) == 1
