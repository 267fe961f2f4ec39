"""Δv from outside: a real daemon without any link, killed and started again, and what its operator sees."""

import json
from collections.abc import Callable
from typing import Any

from tests.e2e.harness import Node
from tests.e2e.sessionkit import sh, spawn, wait_status

MakeNode = Callable[..., Node]
FAST = {"delta_v": {"interval": "1s"}}


def ask(node: Node, query: str = "") -> dict[str, Any]:
    answer = node.get(f"/api/v1/node/delta-v{query}")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def wait_samples(node: Node, count: int) -> dict[str, Any]:
    """The answer once so many samples were taken."""

    def enough() -> dict[str, Any]:
        found = ask(node)
        return found if found["samples"] >= count else {}

    return node.wait_for(enough, 20, f"{count} samples")


def test_it_grows_without_a_control_plane_and_is_shown(new_node: MakeNode) -> None:
    node = new_node(FAST)
    first = wait_samples(node, 1)
    assert first["value"] > 0
    later = wait_samples(node, 3)
    assert later["value"] > first["value"]
    assert later["seconds"] >= 2.9
    assert {one["symbol"] for one in later["inputs"]} == {"P", "w", "v", "M"}
    assert all(one["source"] and one["confidence"] for one in later["inputs"])
    status = node.status()["deltaV"]
    assert status["windowValue"] > 0
    assert len(status["spark"]) == 8
    row = next(line for line in node.ctl("status").stdout.splitlines() if line.startswith("  Δv"))
    assert " over 1h (" in row
    told = node.ctl("delta-v")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("Δv  ")
    assert "ambient.node/1" in told.stdout
    document = json.loads(node.ctl("delta-v", "--since", "1h", "--json").stdout)
    assert document["schema"] == "ambient.delta-v/1"
    assert document["window"]["samples"] >= 3
    node.pass_cycles(3)  # the loop has never waited for any of it


def test_a_kill_costs_one_interval_at_most_and_a_stop_no_more(new_node: MakeNode) -> None:
    node = new_node(FAST)
    for end in (node.kill9, node.stop):
        before = wait_samples(node, ask(node)["samples"] + 2)
        end()
        node.start()
        after = ask(node)
        assert after["since"] == before["since"]
        assert after["generation"] == 1
        assert after["samples"] >= before["samples"]
        assert after["value"] >= before["value"]
        assert wait_samples(node, after["samples"] + 1)["value"] > before["value"]


def test_other_parameters_begin_anew_and_say_so(new_node: MakeNode) -> None:
    node = new_node(FAST)
    old = wait_samples(node, 2)
    node.stop()
    node.configure({"delta_v": {"interval": "1s", "alpha": 0.2}})
    node.start()
    found = ask(node)
    assert found["generation"] == 2
    assert found["since"] > old["since"]
    assert found["reason"] == "the parameters were changed"
    assert "the parameters were changed" in node.ctl("delta-v").stdout


def test_a_session_has_its_part_by_processor_time(new_node: MakeNode) -> None:
    busy = sh("while :; do :; done")
    node = new_node({**FAST, "agents": {"busy": busy}})
    session = spawn(node, "busy")
    wait_status(node, session, "running")

    def known() -> dict[str, Any]:
        found: list[dict[str, Any]] = ask(node, f"?session={session}")["sessions"]
        return found[0] if found and found[0]["source"].startswith("cpu-time") else {}

    part = node.wait_for(known, 20, "the session's part")
    assert 0 < part["value"] < ask(node)["value"]
    assert part["joules"] > 0
    shown = node.ctl("delta-v", "--session", session[-8:])
    assert session[-8:] in shown.stdout
    node.post("/api/control/kill", {"sessionId": session})
    wait_status(node, session, "killed")


def test_it_can_be_turned_off(new_node: MakeNode) -> None:
    node = new_node({"delta_v": {"enabled": False}})
    assert "deltaV" not in node.status()
    assert node.get("/api/v1/node/delta-v").status == 404
    done = node.ctl("delta-v")
    assert done.returncode == 5
    assert "delta_v.enabled" in done.stderr


def test_doctor_says_what_is_measured(new_node: MakeNode) -> None:
    node = new_node(FAST)
    wait_samples(node, 1)
    done = node.ambientd("doctor", "--json", "power")
    (check,) = json.loads(done.stdout)["checks"]
    assert check["id"] == "power.meter"
    assert check["result"] in ("ok", "skip")
    assert "no power meter was found" in check["text"] or " W, " in check["text"] or "Δv" in check["text"]
