"""Databases that are damaged, foreign, newer, locked or gone: set aside or left alone, and always told."""

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node
from tests.e2e.sessionkit import said, sh, spawn, wait_ended, wait_nobody, wait_status

MakeNode = Callable[..., Node]
AGENTS = {"echo": {"command": ["/bin/cat"]}, "brief": sh("echo one; sleep 0.3; echo two")}
CONFIG: dict[str, Any] = {"agents": AGENTS, "ledger": {"busy_timeout": "300ms"}}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory of a node that has worked and stopped."""
    with Node(CONFIG) as node:
        for _ in range(3):
            wait_ended(node, spawn(node, "echo", "some text " * 100))
        node.stop()
        copy = tmp_path_factory.mktemp("used") / "state"
        shutil.copytree(node.state, copy)
    return copy


@pytest.fixture
def on(used: Path, failed: Callable[[], bool]) -> Iterator[Callable[[Callable[[Path], None]], Node]]:
    """A node on a copy of that state, after somebody did something to its database. Not waited for."""
    made: list[Node] = []

    def make(spoil: Callable[[Path], None]) -> Node:
        node = Node(CONFIG)
        made.append(node)
        shutil.copytree(used, node.state)
        node.state.chmod(0o700)
        spoil(node.state / "ambient.db")
        return node.start(ready=False)

    yield make
    for node in made:
        node.close(keep=failed())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as link:
        link.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            link.execute("ROLLBACK")


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as link:
        for statement in statements:
            link.execute(statement)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- set aside


def zero_length(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(64 * 1024))


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 4096 * 4096 + 100])


def one_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : 2 * 4096] = b"\xff" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [zero_length, garbage, half, one_page])
def test_a_damaged_database_is_set_aside_and_the_node_works_and_says_so(
    on: Callable[..., Node], spoil: Callable[[Path], None]
) -> None:
    node = on(spoil)
    before = digest(node.state / "ambient.db") if spoil is garbage else ""
    began = time.monotonic()
    node.wait_for(node.is_ready, 30)
    assert time.monotonic() - began < 10
    aside = min(node.state.glob("ambient.db.corrupt-*"))  # its side files have longer names
    if before:
        assert digest(aside) == before
    status = node.status()
    assert status["health"] == "degraded"
    assert aside.name in status["ledger"]["degraded"]
    assert status["ledger"]["sessions"] == 0
    assert node.ctl("status", "--check").returncode == 10
    assert wait_ended(node, spawn(node, "echo"))["status"] == "success"
    node.stop()
    aside.unlink()  # acknowledged
    node.start()
    assert node.status()["health"] == "ok"


def test_a_database_that_is_gone_is_not_taken_for_a_first_run(on: Callable[..., Node]) -> None:
    node = on(Path.unlink)
    node.wait_for(node.is_ready, 30)
    assert node.status()["health"] == "degraded"
    assert "gone" in node.status()["ledger"]["degraded"]


# --- left alone


def newer(path: Path) -> None:
    sql(
        path,
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (9999, 'x', 'x', 'x')",
    )


def foreign(path: Path) -> None:
    sql(path, "PRAGMA application_id = 1234")


def read_only(path: Path) -> None:
    path.chmod(0o444)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "word"),
    [(newer, "newer"), (foreign, "another program"), (read_only, "read-only"), (folder, "regular file")],
)
def test_a_database_that_is_not_ours_to_use_is_left_alone_and_the_node_stays_to_say_so(
    on: Callable[..., Node], spoil: Callable[[Path], None], word: str
) -> None:
    untouched = ""

    def spoil_and_look(path: Path) -> None:
        nonlocal untouched
        spoil(path)
        untouched = digest(path) if path.is_file() else ""

    node = on(spoil_and_look)
    node.wait_for(lambda: node.log_events("node.not_ready"), 30)
    ready = node.get("/readyz")
    assert ready.status == 503
    assert word in ready.json["error"]["message"]
    assert ready.json["ready"] is False
    assert node.get("/livez").status == 200
    for method, path in (
        ("GET", "/api/system/status"),
        ("GET", "/api/v3/ledger"),
        ("GET", "/api/v3/ledger/x/events"),
        ("POST", "/api/control/spawn"),
        ("POST", "/api/control/kill"),
    ):
        answer = node.request(method, path, b"{}" if method == "POST" else None)
        assert (answer.status, answer.json["error"]["code"]) == (503, "NOT_READY")
        assert word in answer.json["error"]["message"]
        assert "retry-after" in answer.headers
    told = node.ctl("status")
    assert told.returncode != 0
    assert word in told.stdout + told.stderr
    node.wait_for(lambda: node.heartbeat()["cycles"] >= 3)  # it beats all the same
    assert node.is_alive()
    if untouched:
        assert digest(node.state / "ambient.db") == untouched
    assert not list(node.state.glob("*.corrupt-*"))
    assert node.stop().code == 0
    if untouched:
        assert digest(node.state / "ambient.db") == untouched


def test_a_read_only_database_is_used_as_soon_as_it_may_be_written(on: Callable[..., Node]) -> None:
    node = on(read_only)
    node.wait_for(lambda: node.log_events("node.not_ready"), 30)
    (node.state / "ambient.db").chmod(0o600)
    node.wait_for(node.is_ready, 30)
    assert node.status()["ledger"]["sessions"] == 3
    assert wait_ended(node, spawn(node, "echo"))["status"] == "success"


# --- locked


def test_a_lock_for_a_moment_is_not_noticed(new_node: MakeNode) -> None:
    node = new_node({"agents": AGENTS})
    session = spawn(node, "brief")
    with locked(node.state / "ambient.db"):
        time.sleep(1.0)
    assert wait_ended(node, session)["status"] == "success"
    assert node.status()["health"] == "ok"
    assert not node.log_events("session.waiting_for_store")


def test_a_lock_for_long_is_told_reads_go_on_and_nothing_is_lost(new_node: MakeNode) -> None:
    node = new_node(CONFIG)
    session = spawn(node, "brief")
    with locked(node.state / "ambient.db"):
        refused = node.post("/api/control/spawn", {"agentId": "brief", "prompt": "x"})
        assert (refused.status, refused.json["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert "retry-after" in refused.headers
        assert node.ctl("spawn", "brief", "x").returncode == 74
        assert node.get("/api/v3/ledger").json["total"] == 1
        time.sleep(1.0)
        assert node.status()["health"] == "degraded"
        cycles = node.heartbeat()["cycles"]
        node.wait_for(lambda: node.heartbeat()["cycles"] > cycles + 2)
    assert wait_ended(node, session)["status"] == "success"
    assert wait_ended(node, spawn(node, "echo"))["status"] == "success"
    assert node.get("/api/v3/ledger").json["total"] == 2
    # What failed meanwhile is told until it has been tried again.
    node.wait_for(lambda: node.status()["health"] == "ok")


def test_a_database_that_is_locked_at_the_start_is_waited_for(on: Callable[..., Node]) -> None:
    with closing(sqlite3.connect(":memory:")):
        holder: list[sqlite3.Connection] = []

        def hold(path: Path) -> None:
            link = sqlite3.connect(path, isolation_level=None)
            link.execute("PRAGMA locking_mode = EXCLUSIVE")
            link.execute("BEGIN EXCLUSIVE")
            holder.append(link)

        node = on(hold)
        try:
            node.wait_for(lambda: node.log_events("node.not_ready"), 30)
            assert node.get("/readyz").status == 503
            assert node.is_alive()
            assert not list(node.state.glob("*.corrupt-*"))
        finally:
            holder[0].close()
        node.wait_for(node.is_ready, 30)
        assert node.status()["ledger"]["sessions"] == 3


# --- taken away


@pytest.mark.parametrize("how", ["unlinked", "renamed", "replaced"])
def test_a_database_that_is_taken_away_is_noticed_and_nothing_is_acknowledged(
    new_node: MakeNode, how: str
) -> None:
    node = new_node(CONFIG)
    spawn(node, "echo")
    path = node.state / "ambient.db"
    if how == "unlinked":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_suffix(".elsewhere"))
    else:
        shutil.copy(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").rename(path)
    refused = node.post("/api/control/spawn", {"agentId": "echo", "prompt": "x"})
    assert refused.status == 503
    ready = node.get("/readyz")
    assert ready.status == 503
    assert "while it was in use" in ready.json["error"]["message"]
    assert node.is_alive()
    assert node.stop().code == 0


def _answers(node: Node, path: str) -> bool:
    return node.get(path).status == 200


def test_sessions_whose_records_went_with_the_database_are_seen_again_and_can_be_ended() -> None:
    agents = {"long": sh("echo here; sleep 60"), "brief": sh("echo one; sleep 3; echo two")}
    with Node(CONFIG | {"agents": agents}) as node:
        long, brief = spawn(node, "long"), spawn(node, "brief")
        for session in (long, brief):
            wait_status(node, session, "running")
        node.kill9()
        with open(node.state / "ambient.db", "r+b") as file:
            file.write(b"\0" * 4096)
        (node.state / "ambient.db-wal").unlink(missing_ok=True)
        node.start()
        for session in (long, brief):
            path = f"/api/v3/ledger/{session}"
            node.wait_for(partial(_answers, node, path), 10, "the adopted session")
            found = wait_status(node, session, "running", "success")
            assert found["agentId"] == "unknown"
        assert node.status()["health"] == "degraded"
        assert node.ctl("kill", long, "--yes").returncode == 0
        assert wait_ended(node, long)["status"] == "killed"
        wait_nobody(long)
        assert wait_ended(node, brief)["status"] == "success"
        assert said(node, brief) == ["one", "two"]
