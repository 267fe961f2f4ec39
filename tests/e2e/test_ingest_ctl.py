"""`ambientctl ledger ingest` against a real node."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.api.ingestkit import envelope, event
from tests.e2e.harness import Node

MakeNode = Callable[..., Node]


@pytest.fixture
def node(new_node: MakeNode) -> Node:
    return new_node({})


def write(path: Path, *documents: object) -> Path:
    """One document a line; bytes as they are."""
    lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in documents]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def sessions(node: Node) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"file:{node.state / 'ambient.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT session_id, status FROM session_ledger ORDER BY session_id"
        ).fetchall()


def test_a_file_is_taken_in_reported_and_can_be_sent_again(node: Node, tmp_path: Path) -> None:
    file = write(
        tmp_path / "sessions.ndjson",
        *(envelope(id=f"ses-{number}", events=[event(1)]) for number in range(40)),
        b"",
        envelope(state="exploded", id="bad"),
        b"{not json",
        envelope(id="ses-0", agent_id="tony"),
        envelope(id="last"),
    )
    first = node.ctl("ledger", "ingest", str(file), "--json")
    assert first.returncode == 1, first
    report = json.loads(first.stdout)
    assert report["schema"] == "ambient.ingest/1"
    assert [report[name] for name in ("read", "written", "replayed", "rejected")] == [44, 41, 0, 3]
    assert report["complete"] is True
    assert report["rejections"] == [
        {
            "line": 42,
            "code": "VALIDATION_ERROR",
            "message": "Invalid ingest payload",
            "details": [{"field": "session.state", "issue": "enum"}],
        },
        {
            "line": 43,
            "code": "VALIDATION_ERROR",
            "message": "Invalid ingest payload",
            "details": [{"field": "body", "issue": "syntax"}],
        },
        {
            "line": 44,
            "code": "IDEMPOTENCY_CONFLICT",
            "message": "session 'ses-0' is recorded otherwise; nothing was written",
            "details": [{"field": "session.agent_id", "issue": "conflict"}],
        },
    ]
    assert len(sessions(node)) == 41
    again = node.ctl("ledger", "ingest", str(file))
    assert again.returncode == 1
    assert again.stdout.startswith("44 read · 0 written · 41 replayed · 3 rejected")
    assert "  line 42  VALIDATION_ERROR  session.state enum\n" in again.stdout


def test_standard_input_is_taken_and_lines_of_one_session_keep_their_order(node: Node) -> None:
    lines = [
        json.dumps(envelope(state, id=f"ses-{number}", task_title=state))
        for number in range(30)
        for state in ("queued", "running", "success")
    ]
    done = node.ctl("ledger", "ingest", "-", "--jobs", "8", input="\n".join(lines))
    assert done.returncode == 0, done
    assert done.stdout.startswith("90 read · 90 written · 0 replayed · 0 rejected")
    assert {status for _, status in sessions(node)} == {"success"}
    shown = node.ctl("sessions", "--status", "success", "--json", "--limit", "100")
    assert {row["taskTitle"] for row in json.loads(shown.stdout)["items"]} == {"success"}


def test_a_line_that_is_too_long_is_rejected_by_its_number(node: Node, tmp_path: Path) -> None:
    big = envelope(id="big", task_text="x" * (1024 * 1024))
    file = write(tmp_path / "sessions.ndjson", envelope(id="one"), big, envelope(id="two"))
    done = node.ctl("ledger", "ingest", str(file), "--json")
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)["rejections"]
    assert (found["line"], found["code"]) == (2, "PAYLOAD_TOO_LARGE")
    assert [name for name, _ in sessions(node)] == ["one", "two"]


def test_without_a_daemon_it_says_so_and_how_far_it_came(node: Node, tmp_path: Path) -> None:
    file = write(tmp_path / "sessions.ndjson", *(envelope(id=f"ses-{number}") for number in range(100)))
    node.stop()
    done = node.ctl("ledger", "ingest", str(file), "--json", timeout=60)
    assert done.returncode == 3, done
    report = json.loads(done.stdout)
    assert (report["written"], report["complete"]) == (0, False)
    assert "not running" in done.stderr
    node.start()
    assert node.ctl("ledger", "ingest", str(file)).returncode == 0


def test_a_file_that_is_not_there_is_told(node: Node, tmp_path: Path) -> None:
    done = node.ctl("ledger", "ingest", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "No such file" in done.stderr


def test_what_was_taken_survives_a_kill_and_is_known_again(node: Node) -> None:
    document = envelope(id="ses-1", events=[event(1)], usage={"prompt_tokens": 5, "completion_tokens": 6})
    first = node.post("/api/v3/ingest/session", document)
    assert first.json == {"ok": True, "session_id": "ses-1", "idempotent_replay": False}
    shown = node.get("/api/v3/ledger/ses-1").json
    node.kill9()
    node.start()
    assert node.post("/api/v3/ingest/session", document).json["idempotent_replay"] is True
    assert node.get("/api/v3/ledger/ses-1").json == shown
    assert node.post("/api/v3/ingest/session", b"{").status == 400
    listed = node.ctl("sessions", "show", "ses-1")
    assert listed.returncode == 0
    assert "peter" in listed.stdout


def test_refused_contracts_are_counted_by_code_and_version(new_node: Callable[..., Node]) -> None:
    node = new_node()
    for version in ("v9", "v9", "v1"):
        body: dict[str, object] = {"envelope_version": version, "source": "gateway", "payload": {}}
        assert node.post("/api/v3/ingest/session", body).status in (400, 422)
    assert node.status()["contractRejections"] == [
        {"code": "UNSUPPORTED_CONTRACT_VERSION", "version": "unsupported", "count": 2},
        {"code": "VALIDATION_ERROR", "version": "v1", "count": 1},
    ]
