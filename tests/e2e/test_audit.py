"""The audit chain and the identity from outside: a real node, its commands, and somebody with SQL."""

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node

pytestmark = pytest.mark.e2e

CONFIG = {"agents": {"quick": {"command": ["/bin/true"], "max_concurrent": 2}}}
UNLOCKED = """
DROP TRIGGER IF EXISTS audit_records_keep; DROP TRIGGER IF EXISTS audit_records_fixed;
PRAGMA ignore_check_constraints = ON;
"""
KILLS = 5


def force(node: Node, sql: str) -> None:
    with closing(sqlite3.connect(node.state / "ambient.db", timeout=10)) as link:
        link.executescript(UNLOCKED + sql)
        link.commit()


def sql(node: Node, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{node.state}/ambient.db?mode=ro", uri=True)) as link:
        return link.execute(query).fetchall()


def spawn(node: Node, count: int = 1) -> None:
    for _ in range(count):
        assert node.post("/api/control/spawn", {"agentId": "quick", "prompt": "x"}).status == 200


def order(node: Node, path: str, status: int = 200) -> dict[str, Any]:
    answer = node.request("POST", f"/api/v1/node/{path}")
    assert answer.status == status, answer
    document: dict[str, Any] = answer.json
    return document


def verify(node: Node, *words: str) -> tuple[int, dict[str, Any]]:
    done = node.ctl("audit", "verify", "--json", *words)
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["schema"] == "ambient.audit-verify/1"
    return done.returncode, document


def settled(node: Node) -> dict[str, Any]:
    audit: dict[str, Any] = node.wait_for(lambda: node.status().get("audit"))
    return audit


def begun(node: Node) -> int:
    """The number of records once the node has recorded what it records at a start."""
    node.wait_for(lambda: sql(node, "SELECT 1 FROM audit_records WHERE kind = 'node_state_transition'"))
    return head(node)


def head(node: Node) -> int:
    return int(sql(node, "SELECT max(seq) FROM audit_records")[0][0])


def kinds_of_identity(node: Node) -> list[str]:
    rows = sql(node, "SELECT kind FROM audit_records WHERE kind LIKE 'identity%' ORDER BY seq")
    return [kind for (kind,) in rows]


def test_records_are_listed_verified_exported_and_checked_elsewhere() -> None:
    with Node(CONFIG) as node:
        total = begun(node) + 120
        spawn(node, 120)
        node.wait_for(lambda: settled(node).get("checkpointSeq", 0) >= 100)
        code, whole = verify(node)
        assert (code, whole["ok"], whole["bad"]) == (0, True, None)
        assert (whole["records"], whole["headSeq"]) == (total, total)
        assert whole["checkpoints"] == 1
        assert f"{total} records hold" in node.ctl("audit", "verify").stdout

        listed = json.loads(node.ctl("audit", "list", "--kind", "control", "--limit", "2", "--json").stdout)
        assert listed["schema"] == "ambient.audit/1"
        assert [item["seq"] for item in listed["items"]] == [total, total - 1]
        assert set(listed["items"][0]) == {
            "seq", "kind", "at", "actor", "subject", "detail", "prevHash", "hash",
        }  # fmt: skip
        after = node.ctl("audit", "list", "--after", listed["next"], "--limit", "1", "-o", "tsv").stdout
        assert after.splitlines()[1].startswith(f"{total - 2}\t")
        assert node.ctl("audit", "list", "--kind", "nothing", "--json").returncode == 0
        assert "control.spawn" in node.ctl("audit", "list").stdout
        assert node.ctl("audit", "list", "--since", "never").returncode == 2

        file = node.root / "audit.ndjson"
        wrote = node.ctl("audit", "export", str(file))
        assert (wrote.returncode, f"{total} records" in wrote.stdout) == (0, True), wrote
        assert node.ctl("audit", "export", str(file)).returncode == 1
        key = json.loads(node.ctl("identity", "--json").stdout)["key"]
        for words in ([str(file)], [str(file), "--key", key]):
            checked = node.ambientd("audit", "verify", "--json", *words)
            found = json.loads(checked.stdout)
            assert (checked.returncode, found["ok"], found["records"]) == (0, True, total)
            assert found["signedBy"] == key
        other = node.ambientd(
            "audit", "verify", str(file), "--key", key[:-1] + ("0" if key[-1] != "0" else "1")
        )
        assert other.returncode in (1, 2)
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if '"seq":77,' not in line))
        gone = node.ambientd("audit", "verify", str(file))
        assert (gone.returncode, "Record 77 does not hold" in gone.stdout) == (1, True)
        piped = node.ambientd("audit", "verify", "-", input=node.ctl("audit", "export").stdout)
        assert piped.returncode == 0, piped


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ("UPDATE audit_records SET actor = 'uid:9' WHERE seq = 7", 7),
        ('UPDATE audit_records SET detail_json = \'{"agent":"quic","model":"unknown"}\' WHERE seq = 3', 3),
        ("DELETE FROM audit_records WHERE seq = 5", 5),
        ("UPDATE audit_records SET hash = CAST(x'ff' AS TEXT) WHERE seq = 12", 12),
    ],
)
def test_what_is_changed_with_sql_is_named_and_the_node_goes_on(change: str, bad: int) -> None:
    with Node(CONFIG) as node:
        spawn(node, 12)
        force(node, change)
        code, found = verify(node)
        assert (code, found["bad"]["seq"]) == (1, bad)
        text = node.ctl("audit", "verify")
        assert (text.returncode, f"Record {bad} does not hold" in text.stdout) == (1, True)
        status = node.status()
        assert (status["audit"]["brokenAt"], status["health"]) == (bad, "degraded")
        assert f"broken at record {bad}" in node.ctl("status").stdout
        assert node.ctl("status", "--check").returncode == 10

        spawn(node)
        (kind, detail) = sql(node, "SELECT kind, detail_json FROM audit_records ORDER BY seq DESC LIMIT 1")[0]
        assert (kind, json.loads(detail)["audit_broken"]) == ("control.spawn", bad)
        assert sql(node, "SELECT count(*) FROM audit_records WHERE kind = 'audit.broken'") == [(1,)]
        assert "audit.chain" in node.ambientd("doctor", "--json", "--only", "audit").stdout
        assert node.ambientd("doctor", "--only", "audit").returncode == 11

        assert node.ctl("audit", "accept").returncode == 2
        accepted = node.ctl("audit", "accept", "--yes")
        assert accepted.returncode == 0, accepted
        node.wait_for(lambda: node.status()["health"] == "ok")
        assert verify(node)[0] == 1


def test_a_tail_that_was_cut_off_is_missed_at_the_next_start() -> None:
    with Node(CONFIG) as node:
        begun(node)
        spawn(node, 9)
        node.stop()
        bad = head(node) - 2
        assert stat.S_IMODE((node.state / "audit.checkpoint").stat().st_mode) == 0o600
        force(node, f"DELETE FROM audit_records WHERE seq >= {bad}")  # noqa: S608 - a number
        offline = node.ambientd("audit", "verify")
        assert (offline.returncode, f"Record {bad} does not hold" in offline.stdout) == (1, True), offline
        node.start()
        assert settled(node)["brokenAt"] == bad
        assert verify(node)[0] == 1
        spawn(node)
        node.stop()
        node.start()
        assert settled(node)["brokenAt"] == bad
        assert sql(node, "SELECT count(*) FROM audit_records WHERE kind = 'audit.broken'") == [(1,)]


def test_a_database_that_was_lost_does_not_restart_the_chain_silently() -> None:
    with Node(CONFIG) as node:
        begun(node)
        spawn(node, 3)
        node.stop()
        signed = (node.state / "audit.checkpoint").read_text().splitlines()[1]
        for path in node.state.glob("ambient.db*"):
            if path.name != "ambient.db.created":
                path.unlink()
        node.start()
        assert settled(node)["brokenAt"] == 1
        assert f"signed {signed}" in settled(node)["reason"]


def test_a_kill_between_record_and_checkpoint_leaves_a_whole_chain() -> None:
    with Node(CONFIG) as node:
        acknowledged = 0
        for number in range(KILLS):
            spawn(node, 95 + number)
            acknowledged += 95 + number
            node.kill9()
            node.start()
            audit = settled(node)
            assert "brokenAt" not in audit
            assert audit["headSeq"] >= acknowledged
            assert verify(node)[0] == 0
        node.stop()
        assert node.ambientd("audit", "verify").returncode == 0


def test_without_an_audit_nothing_is_ordered_and_the_node_beats_on() -> None:
    """FAULTS A3: an intent that cannot be written is no order."""
    with Node(CONFIG) as node:
        spawn(node)
        sessions = node.get("/api/v3/ledger").json["total"]
        force(node, "ALTER TABLE audit_records RENAME TO away")
        ordered = {
            "spawn": {"agentId": "quick", "prompt": "x"},
            "model": {"agentId": "quick", "model": "m"},
        }
        for name, body in ordered.items():
            assert node.post(f"/api/control/{name}", body).status == 503, name
        refused = node.request("POST", "/api/v1/node/identity/renew")
        assert refused.status == 503
        assert node.get("/api/v3/ledger").json["total"] == sessions
        beats = len(node.beats())
        node.wait_for(lambda: len(node.beats()) > beats + 2)
        assert {line.get("refused") for line in node.log_events("[AUDIT]")} >= {"STORAGE_UNAVAILABLE"}
        force(node, "ALTER TABLE away RENAME TO audit_records")
        node.wait_for(lambda: node.post("/api/control/spawn", ordered["spawn"]).status == 200)


def test_a_restored_chain_says_so() -> None:
    with Node(CONFIG) as node:
        begun(node)
        spawn(node, 3)
        backed_up = head(node)
        backup = node.root / "b.tar"
        assert node.ctl("backup", str(backup)).returncode == 0
        spawn(node, 5)
        node.stop()
        former = (node.state / "audit.checkpoint").read_text().splitlines()
        assert node.ambientd("restore", str(backup), "--yes").returncode == 0
        node.start()
        assert "brokenAt" not in settled(node)
        rows = sql(node, "SELECT seq, actor, detail_json FROM audit_records WHERE kind = 'audit.restored'")
        ((seq, actor, detail),) = rows
        assert (seq, actor) == (backed_up + 1, f"uid:{os.getuid()}")
        assert json.loads(detail)["former_seq"] == int(former[1])
        assert len(list(node.state.glob("audit.checkpoint.restored-*"))) == 1
        assert verify(node)[0] == 0
        assert node.status()["health"] == "ok"


# --- identity


def test_the_identity_is_made_once_shown_and_never_given_away() -> None:
    with Node(CONFIG) as node:
        path = node.state / "identity.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        seed = next(line.split()[1] for line in path.read_text().splitlines() if line.startswith("seed "))
        shown = node.ctl("identity")
        assert shown.returncode == 0
        assert "ed25519:" in shown.stdout
        document = json.loads(node.ctl("identity", "show", "--json").stdout)
        assert (document["schema"], document["usable"]) == ("ambient.identity/1", True)
        spawn(node)
        backup = node.root / "b.tar"
        assert node.ctl("backup", str(backup)).returncode == 0
        with_key = node.root / "k.tar"
        assert node.ctl("backup", str(with_key), "--with-identity").returncode == 0
        assert seed.encode() in with_key.read_bytes()
        renewed = node.ctl("identity", "renew", "--yes", "--json")
        assert renewed.returncode == 0, renewed
        other = next(line.split()[1] for line in path.read_text().splitlines() if line.startswith("seed "))
        export = node.get("/api/v1/node/audit/export").body.decode()
        node.stop()
        key_files = {path, *node.state.glob("identity.key.previous-*")}
        for secret in (seed, other):
            assert secret not in node.log + shown.stdout + renewed.stdout + export
            assert secret.encode() not in backup.read_bytes()
            held = {
                file
                for file in node.state.rglob("*")
                if file.is_file() and secret.encode() in file.read_bytes()
            }
            assert held <= key_files
        assert other != seed


def copied(node: Node, change: Callable[[Path], object] = lambda _: None) -> Node:
    """The same state on a host of another name."""
    copy = Node({"node": {"name": "copy"}, **CONFIG}, ready=True)
    shutil.copytree(node.state, copy.state, ignore=shutil.ignore_patterns("lock"))
    change(copy.state)
    return copy


def test_a_cloned_state_signs_nothing_until_somebody_says_who_it_is() -> None:
    with Node({"node": {"name": "first"}, **CONFIG}) as node:
        spawn(node, 2)
        key = json.loads(node.ctl("identity", "--json").stdout)["key"]
        node.stop()
        signed = (node.state / "audit.checkpoint").read_text()
        with copied(node) as copy:
            found = json.loads(copy.ctl("identity", "--json").stdout)
            assert (found["usable"], found["key"]) == (False, key)
            status = copy.status()
            assert [problem["id"] for problem in status["problems"]] == ["identity.refused"]
            assert "made on another host" in status["problems"][0]["text"]
            assert "made on another host" in copy.ctl("status").stdout
            assert copy.ambientd("doctor", "--only", "identity").returncode == 11
            spawn(copy, 120)
            copy.wait_for(lambda: "no checkpoints" in copy.status()["audit"].get("reason", ""))
            assert (copy.state / "audit.checkpoint").read_text() == signed
            assert copy.ctl("identity", "keep").returncode == 2
            kept = json.loads(copy.ctl("identity", "keep", "--yes", "--json").stdout)
            assert (kept["usable"], kept["key"], kept["changed"]) == (True, key, True)
            copy.wait_for(lambda: copy.status()["health"] == "ok")
            copy.wait_for(lambda: (copy.state / "audit.checkpoint").read_text() != signed)
            assert verify(copy)[0] == 0
            again = json.loads(copy.ctl("identity", "keep", "--yes", "--json").stdout)
            assert again["changed"] is False
            assert kinds_of_identity(copy) == ["identity.keep", "identity.kept"]
            told = [(line["action"], line.get("changed")) for line in copy.log_events("[AUDIT]")]
            assert told[-2:] == [("identity.keep", True), ("identity.keep", False)]


def test_a_renewed_identity_shows_whom_it_followed() -> None:
    with Node(CONFIG) as node:
        spawn(node, 100)
        node.wait_for(lambda: settled(node).get("checkpointSeq", 0) >= 100)
        old = json.loads(node.ctl("identity", "--json").stdout)["key"]
        done = json.loads(node.ctl("identity", "renew", "--yes", "--json").stdout)
        assert done["changed"] is True
        assert done["key"] != old
        (rollover,) = done["rollovers"]
        assert (rollover["oldKey"], rollover["newKey"], rollover["genuine"]) == (old, done["key"], True)
        previous = node.state / done["previous"]
        assert stat.S_IMODE(previous.stat().st_mode) == 0o600
        node.wait_for(lambda: done["key"] in (node.state / "audit.checkpoint").read_text())
        code, found = verify(node)
        assert (code, found["checkpoints"], found["otherKeys"]) == (0, 2, 0)
        record = json.loads(node.ctl("audit", "list", "--kind", "identity", "--json").stdout)["items"][0]
        assert (record["kind"], record["detail"]["statement"]) == ("identity.renewed", rollover["statement"])
        node.stop()
        node.start()
        assert "brokenAt" not in settled(node)
        assert json.loads(node.ctl("identity", "--json").stdout)["key"] == done["key"]
        exported = node.ambientd("audit", "verify", "-", "--json", input=node.ctl("audit", "export").stdout)
        assert json.loads(exported.stdout)["otherKeys"] == 0


def test_a_damaged_identity_is_told_and_left_alone_until_it_is_renewed() -> None:
    with Node(CONFIG) as node:
        node.stop()
        path = node.state / "identity.key"
        path.write_text("garbage")
        node.start()
        assert "is no node's key" in node.status()["problems"][0]["text"]
        assert path.read_text() == "garbage"
        refused = node.ctl("identity", "keep", "--yes")
        assert (refused.returncode, "there is no key to keep" in refused.stderr) == (6, True)
        assert node.ctl("identity", "renew", "--yes").returncode == 0
        assert node.status()["health"] == "ok"
        (previous,) = node.state.glob("identity.key.previous-*")
        assert previous.read_text() == "garbage"
        assert kinds_of_identity(node) == [
            "identity.keep",
            "identity.keep.refused",
            "identity.renew",
            "identity.renewed",
        ]
