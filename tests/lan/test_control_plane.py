"""A control plane and three nodes on a LAN: one is cut off for hours while all work, and nothing is lost.

Hours pass on a fast clock (see `controlled`). The short form cuts for minutes; AMBIENT_LAN_LONG=1 for hours.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bothsides import check_chain, check_equal, missing
from tests.e2e.joinedkit import AGENTS, Busy, Operator, Recorder, sync
from tests.e2e.leasekit import faketime
from tests.e2e.sessionkit import row, sh, spawn, wait_ended
from tests.lan.controlled import NEEDS_CLOCK, Controlled, ControlledNode, controlled
from tests.lan.fleet import until

LONG = bool(os.environ.get("AMBIENT_LAN_LONG"))
FACTOR = 30.0
CUT_SEC = 3 * 3600.0 if LONG else 125.0
# A node is offline before the cut is over.
OFFLINE_SEC = 900 if LONG else 110
SERVER = "" if LONG else 'unknown_after = "80s"\noffline_after = "100s"\nsweep_interval = "5s"\n'
HEAL_SEC = 20.0  # true ones, until a node is back: its next probe, and what a busy machine adds
TELL_SEC = 60.0
AWAY_PACE_SEC = 1.0 if LONG else 0.1  # true ones, between two records of one node
POLICY = {
    "id": "web",
    "revision": 1,
    "destinations": ["example.net"],
    "protocols": ["https"],
    "valid_for": "30d",
}

pytestmark = pytest.mark.skipif(faketime() is None, reason=NEEDS_CLOCK)


class Busyness:
    """All nodes get records, orders and sessions, until the end."""

    def __init__(self, fleet: Controlled) -> None:
        self.recorders = [Recorder(one.node, one.name, pace=AWAY_PACE_SEC) for one in fleet.nodes]
        self.operators = [Operator(one.node, pace=AWAY_PACE_SEC) for one in fleet.nodes]
        self._threads = [*map(Busy, self.recorders), *map(Busy, self.operators)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        for thread in self._threads:
            thread.end()
        for recorder in self.recorders:
            recorder.close()


class Watch(threading.Thread):
    """Looks again and again whether a node counts as online as soon as a report of it is there."""

    def __init__(self, one: ControlledNode) -> None:
        super().__init__(daemon=True)
        self._one = one
        self._over = threading.Event()
        self.reports = self._look()[1]
        self.first: tuple[str, int] | None = None

    def _look(self) -> tuple[str, int]:
        """Status and number of reports at one moment."""
        (found,) = (
            (status, count)
            for name, status, count in self._one.plane.rows(
                "SELECT node_id, status, (SELECT count(*) FROM node_heartbeat_history AS h"
                " WHERE h.node_id = nodes.node_id AND report_seq IS NOT NULL) FROM nodes"
            )
            if name == self._one.name
        )
        return found

    def run(self) -> None:
        while not self._over.is_set():
            status, count = self._look()
            if status == "online" or count > self.reports:
                self.first = (status, count)
                return
            time.sleep(0.002)

    def end(self) -> tuple[str, int]:
        """How the node stood when the first report was there."""
        self.join(HEAL_SEC)
        self._over.set()
        assert self.first is not None, "it never came back"
        return self.first


def test_a_node_that_was_cut_off_while_it_worked_loses_and_doubles_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    steady = sh(f"while [ ! -e {gate} ]; do sleep 0.1; done; echo over", timeout="30d", max_concurrent=2)
    config = {"agents": {**AGENTS, "steady": steady}}
    with controlled(tmp_path, 3, factor=FACTOR, config=config, server=SERVER) as fleet:
        away = fleet.nodes[0]
        task, session = begin_steady_work(fleet, away)
        own = [spawn(one.node, "sample", "words of one's own") for one in fleet.nodes]
        begin_lease(fleet, away)
        busyness = Busyness(fleet)
        try:
            fleet.cut(away)
            until(lambda: away.at_plane()["status"] == "offline", fleet.plane.clock.true(CUT_SEC) + 30)
            statuses = cut_further(fleet, away, session)
            watch = Watch(away)
            fleet.lan.heal()
            healed = time.monotonic()
            watch.start()
            status, reports = watch.end()
            took = time.monotonic() - healed
            assert status == "online"  # by its first report
            assert row(away.node, session)["status"] == "running"  # healthy work was left alone
            gate.touch()
            assert wait_ended(away.node, session)["status"] == "success"
            for one, name in zip(fleet.nodes, own, strict=True):
                assert wait_ended(one.node, name)["status"] == "success"
        finally:
            busyness.end()
        counts = {one.name: settle(one) for one in fleet.nodes}
        check_work(fleet, away, task, session, busyness)
        kinds = {kind for (kind,) in away.rows("SELECT kind FROM audit_records")}
        assert {"session_activated", "session_terminated"} <= kinds  # its lease ran out meanwhile
        print(
            f"\ncut off for {CUT_SEC / 3600:.1f} h on the fast clock, {statuses} looks while away;"
            f" back by report {reports - watch.reports} after {took:.1f} s; on both sides once: {counts}"
        )


def begin_steady_work(fleet: Controlled, away: ControlledNode) -> tuple[str, str]:
    """A task for each node that runs until it is let go; the id of the one of the node that is about to be
    away, and its session's there."""
    body = {"task_type": "agent_session", "inputs": {"agent_id": "steady", "prompt": "wait"}}
    task, *others = (fleet.plane.call("POST", "/tasks", body, status=201) for _ in fleet.nodes)
    assert task["assigned_nodes"] == [away.name]
    assert sorted(other["assigned_nodes"] for other in others) == [[one.name] for one in fleet.nodes[1:]]

    def look() -> str:
        sync(away.node)
        found = fleet.plane.call("GET", f"/nodes/{away.name}/ledger")["rows"]
        return next((one["session_id"] for one in found if one["task_id"] == task["task_id"]), "")

    session = away.node.wait_for(look, 30, "the task to run")
    until(lambda: row(away.node, session)["status"] == "running", 10)
    return str(task["task_id"]), session


def begin_lease(fleet: Controlled, away: ControlledNode) -> None:
    """A connect session, whose lease the node takes that is about to be away."""
    plane = fleet.plane
    plane.call("POST", "/policies/issue", {"policy": [POLICY]}, status=201)
    inputs = {
        "session_id": "s-1",
        "requester_id": "r-1",
        "duration_seconds": 120,
        "bandwidth_limit_mbps": 10,
        "egress_profile": "allowlist_domains",
        "destination_policy_id": "web",
    }
    task = plane.call("POST", "/tasks", {"task_type": "connect_only", "inputs": inputs}, status=201)[
        "task_id"
    ]
    plane.call("POST", "/connect-sessions/start", {"task_id": task}, status=201)
    assert plane.call("GET", f"/tasks/{task}")["assigned_nodes"] == [away.name]

    def active() -> Any:
        sync(away.node)
        return away.node.get("/api/v1/node/leases").json["rows"]

    away.node.wait_for(active, 20, "the lease to be taken")


def cut_further(fleet: Controlled, away: ControlledNode, session: str) -> int:
    """The rest of the cut; how often was looked."""
    clock, looks = fleet.plane.clock, 0
    until_true = time.monotonic() + clock.true(CUT_SEC) - clock.true(OFFLINE_SEC)
    before = fleet.plane.rows("SELECT count(*) FROM node_sessions")
    while time.monotonic() < until_true:
        time.sleep(min(1.0, clock.true(60)))
        assert away.at_plane()["status"] == "offline"
        assert row(away.node, session)["status"] == "running"
        looks += 1
    assert fleet.plane.rows("SELECT count(*) FROM node_sessions") > before  # the others went on
    assert away.node.get("/api/v1/node/outbox").json["waiting"] > 0
    return looks


def settle(one: ControlledNode) -> dict[str, int]:
    """Both sides of a node, counted while it stands still."""

    def count() -> dict[str, int]:
        sync(one.node)
        if missing(one.rows, one.plane.rows, one.name):
            return {}
        one.node.send_signal(signal.SIGSTOP)
        try:
            if missing(one.rows, one.plane.rows, one.name):
                return {}
            return check_equal(one.rows, one.plane.rows, one.name)
        finally:
            one.node.send_signal(signal.SIGCONT)

    return one.node.wait_for(count, TELL_SEC, f"{one.name} to have told everything")


def check_work(fleet: Controlled, away: ControlledNode, task: str, session: str, busyness: Busyness) -> None:
    """What was acknowledged is there, and the work's outcome; the chain can be asked for and holds."""

    def done() -> bool:
        sync(away.node)
        return bool(fleet.plane.call("GET", f"/tasks/{task}")["status"] == "completed")

    until(done, 30, "the task to be completed")
    found = fleet.plane.call("GET", f"/tasks/{task}")
    assert (found["former_assigned_nodes"], found["result"]["session_id"]) == ([away.name], session)
    assert "over" in found["result"]["output"]
    for one, recorder, operator in zip(fleet.nodes, busyness.recorders, busyness.operators, strict=True):
        told = one.plane.rows(f"SELECT session_id FROM node_sessions WHERE node_id = '{one.name}'")  # noqa: S608
        assert set(recorder.acknowledged) <= {name for (name,) in told}
        chain = asked_chain(fleet, one)
        assert set(operator.acknowledged) <= {record[0] for record in chain}
        head = check_chain(chain)
        ((last, digest),) = one.rows("SELECT seq, hash FROM audit_records ORDER BY seq DESC LIMIT 1")
        assert (chain[-1][0], head) == (last, digest)


def asked_chain(fleet: Controlled, one: ControlledNode) -> list[tuple[Any, ...]]:
    """A node's audit as the control plane tells it to its owner."""
    records: list[dict[str, Any]] = []
    while True:
        after = records[-1]["seq"] if records else 0
        page = fleet.plane.call("GET", f"/nodes/{one.name}/audit?after={after}&limit=500")
        records += page["records"]
        if len(page["records"]) < 500:
            break
    return [
        (
            r["seq"],
            r["kind"],
            r["at"],
            r["actor"],
            r["subject"],
            json.dumps(r["detail"]),
            r["prev_hash"],
            r["hash"],
        )
        for r in records
    ]
