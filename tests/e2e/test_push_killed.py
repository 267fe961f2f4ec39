"""`kill -9` of the control plane, of a node and of PostgreSQL while a real node pushes everything it has.

A short form runs always; AMBIENT_PUSH_KILLS=100 is the long one (so many kills on each database, in turn).
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.bothsides import Rows, at_plane, check_equal, missing
from tests.e2e.fleetkit import Plane
from tests.e2e.harness import Node
from tests.e2e.joinedkit import AGENTS, Busy, Operator, Pusher, Recorder, Submitter, join, rows_of, sync
from tests.lan.fleet import until
from tests.pgkit import PgServer

KILLS = int(os.environ.get("AMBIENT_PUSH_KILLS", "3"))
SEED = int(os.environ.get("AMBIENT_PUSH_SEED", "20261121"))
NAME = "edge-1"
CONFIG: dict[str, Any] = {
    "agents": dict(AGENTS),
    "connectivity": {"interval": "1s", "timeout": "2s", "hold": "0s", "misses": 1},
    "control_plane": {"interval": "5s", "timeout": "5s", "pull_interval": "10s"},
    "delta_v": {"interval": "1s"},
}
# How long after a round has begun the kill comes, at most; a round with something to tell takes longer.
DEEPEST_SEC = 0.03
BETWEEN_SEC = (0.15, 0.7)
LOOK_EVERY_KILLS = 10
DRAIN_SEC = 90.0


class Sides(NamedTuple):
    """The three processes, and how their databases are asked."""

    node: Node
    plane: Plane
    here: Rows
    there: Rows


Kill = Callable[[], None]


@contextmanager
def joined(tmp_path: Path, address: str | None, there: Rows | None) -> Iterator[Sides]:
    """A node that has joined a control plane on a database; both run."""
    plane = Plane(tmp_path / "cp", config='[server]\naccess_lifetime = "1d"\n')
    database = () if address is None else ("--database", address)
    made = plane.init(*database)
    with plane.start(*database), Node(CONFIG) as node:
        plane.log_in("admin", made["password"])
        answer = join(node, f"http://127.0.0.1:{plane.port}", made["joinToken"], NAME)
        assert answer.status == 200, answer
        yield Sides(
            node, plane, rows_of(node.state / "ambient.db"), there or rows_of(plane.state / "fleet.db")
        )


def under_load(sides: Sides, kills: list[Kill], chance: random.Random) -> dict[str, Any]:
    """Everything of the node grows and is pushed while each of `kills` strikes; what was acknowledged."""
    recorder, operator, pusher = Recorder(sides.node, "rec"), Operator(sides.node), Pusher(sides.node)
    submitter = Submitter(sides.plane)
    threads = [Busy(recorder), Busy(operator), Busy(pusher)]
    for thread in threads:
        thread.start()
    in_the_middle = 0
    try:
        for number, kill in enumerate(kills):
            submitter()
            time.sleep(chance.uniform(*BETWEEN_SEC))
            pusher.under_way.wait(5)
            time.sleep(chance.uniform(0, DEEPEST_SEC))
            in_the_middle += pusher.under_way.is_set()
            kill()
            if number % LOOK_EVERY_KILLS == 0:
                missing(sides.here, sides.there, NAME)  # nothing acknowledged is
    finally:
        for thread in threads:
            thread.end()
        recorder.close()
    assert recorder.acknowledged
    assert operator.acknowledged
    return {
        "sessions": recorder.acknowledged,
        "audit": operator.acknowledged,
        "tasks": submitter.tasks,
        "in the middle of a round": in_the_middle,
        "rounds": (pusher.whole, pusher.cut),
    }


def settle(sides: Sides) -> dict[str, int]:
    """After the last heal: everything is told, and the node stands still while both sides are counted."""

    def told() -> bool:
        sync(sides.node)
        return not missing(sides.here, sides.there, NAME)

    def count() -> dict[str, int]:
        if not told():
            return {}
        sides.node.send_signal(signal.SIGSTOP)
        try:
            # A report may have been sampled since.
            if missing(sides.here, sides.there, NAME):
                return {}
            return check_equal(sides.here, sides.there, NAME)
        finally:
            sides.node.send_signal(signal.SIGCONT)

    until(told, DRAIN_SEC, "everything to be told")
    return sides.node.wait_for(count, DRAIN_SEC, "both sides to be counted")


def check(sides: Sides, told: dict[str, Any]) -> dict[str, int]:
    """Raises AssertionError when something is missing, is there twice, or in another order."""

    def ended() -> bool:
        sync(sides.node)
        for task in told["tasks"]:
            answer = sides.plane.ask("GET", f"/api/v1/tasks/{task}", token=sides.plane.token)
            # The database may have been away a moment ago.
            if answer.status != 200 or answer.json["status"] != "completed":
                return False
        return True

    until(ended, DRAIN_SEC, "all work to be done")
    counts = settle(sides)
    there = at_plane(sides.there, NAME)
    assert set(told["sessions"]) - {row[0] for row in there.sessions} == set()
    assert set(told["audit"]) - {row[0] for row in there.audit} == set()
    runs = sides.there(
        "SELECT task_id, count(*) FROM node_sessions WHERE task_id IS NOT NULL GROUP BY task_id"
    )
    assert dict(runs) == dict.fromkeys(told["tasks"], 1)  # each was begun once
    assert sides.plane.call("GET", f"/nodes/{NAME}")["status"] == "online"
    streams = sides.node.get("/api/v1/node/outbox").json["streams"]
    assert {
        one["stream"]: (one.get("dropped", 0), one.get("refused", 0)) for one in streams
    } == dict.fromkeys(("reports", "audit", "ledger", "delta_v", "results"), (0, 0))
    return counts


def tell(what: str, told: dict[str, Any], counts: dict[str, int], kills: dict[str, int]) -> None:
    said = {name: value if isinstance(value, int | tuple) else len(value) for name, value in told.items()}
    print(f"\n{what}: killed {kills}; acknowledged {said}; on both sides once {counts}")


def kill_plane(sides: Sides, *arguments: str) -> Kill:
    def kill() -> None:
        sides.plane.kill()
        sides.plane.start(*arguments)

    return kill


def kill_node(sides: Sides) -> Kill:
    def kill() -> None:
        sides.node.kill9()
        sides.node.start()

    return kill


def test_kills_while_a_node_pushes_lose_and_double_nothing_on_sqlite(tmp_path: Path) -> None:
    with joined(tmp_path, None, None) as sides:
        victims = {"control plane": kill_plane(sides), "node": kill_node(sides)}
        names = [list(victims)[number % 2] for number in range(KILLS - KILLS % 2)]
        told = under_load(sides, [victims[name] for name in names], random.Random(SEED))
        counts = check(sides, told)
        tell("SQLite", told, counts, {name: names.count(name) for name in victims})
        assert sides.there("PRAGMA integrity_check") == sides.here("PRAGMA integrity_check") == [("ok",)]


def test_kills_while_a_node_pushes_lose_and_double_nothing_on_postgresql(
    tmp_path: Path, postgresql: PgServer
) -> None:
    database = postgresql.new_database()
    address = postgresql.address(database)

    def kill_database() -> None:
        postgresql.kill()
        postgresql.start()

    with joined(tmp_path, address, lambda sql: postgresql.run(database, sql)) as sides:
        victims = {
            "database": kill_database,
            "control plane": kill_plane(sides, "--database", address),
            "node": kill_node(sides),
        }
        names = [list(victims)[number % 3] for number in range(KILLS)]
        told = under_load(sides, [victims[name] for name in names], random.Random(SEED))
        counts = check(sides, told)
        tell("PostgreSQL", told, counts, {name: names.count(name) for name in victims})
