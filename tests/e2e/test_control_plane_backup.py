"""The control plane's data as one file, and back: while it works, checked, and with the nodes going on."""

import json
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.e2e.fleetkit import Joined, Plane
from tests.pgkit import PgServer


@pytest.fixture
def plane(tmp_path: Path) -> Any:
    with_plane = Plane(tmp_path / "cp")
    yield with_plane
    with_plane.__exit__(None, None, None)


def push(node: Joined, first: int, count: int) -> None:
    """A report, and rows of the ledger."""
    assert node.ask("PUT", "/heartbeat", {"seq": first}).status == 200
    session = {
        "agent_id": "a",
        "agent_label": "a",
        "model_id": "m",
        "status": "success",
        "started_at": "2026-11-20T11:00:00Z",
    }
    rows = [{"seq": n, "session_id": f"ses_{n}", "session": session} for n in range(first, first + count)]
    found = node.ask("POST", "/ledger", {"after": first - 1, "records": rows})
    assert found.status == 200, found


def test_a_copy_of_a_working_control_plane_is_put_back_whole(plane: Plane, tmp_path: Path) -> None:
    made = plane.init()
    plane.start()
    plane.log_in("admin", made["password"])
    edge = plane.join("edge-1", made["joinToken"])
    push(edge, 1, 5)
    stop = threading.Event()

    def load() -> None:
        number = 100
        while not stop.is_set():
            edge.ask("PUT", "/heartbeat", {"seq": number})
            number += 1

    sender = threading.Thread(target=load)
    sender.start()
    file = tmp_path / "fleet.tar"
    try:
        done = plane.run("backup", str(file), "--with-secrets", "--json")
    finally:
        stop.set()
        sender.join()
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "ambient.control-plane-backup/1"
    assert document["counts"]["nodes"] == 1
    assert document["counts"]["node_sessions"] == 5
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(plane.state.glob("backup/*"))
    again = plane.run("backup", str(file))
    assert (again.returncode, "already" in again.stderr) == (1, True)

    other = Plane(tmp_path / "other")
    back = other.run("restore", str(file), "--with-secrets", "--config-to", str(tmp_path / "config"))
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "config/ambient.toml").read_text() == plane.config.read_text()
    for path in (other.state / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == (plane.state / "secrets" / path.name).read_text()

    push(edge, 6, 5)
    running = plane.run("restore", str(file), "--yes")
    assert (running.returncode, "Stop it first" in running.stderr) == (75, True)
    plane.stop()
    back = plane.run("restore", str(file), "--yes", "--json")
    assert back.returncode == 0, back.stderr
    kept = Path(json.loads(back.stdout)["kept"])
    rows = apsw.Connection(str(kept)).execute("SELECT count(*) FROM node_sessions").fetchall()
    assert rows == [(10,)]

    plane.start()
    plane.call("GET", "/nodes")  # the token is from before the backup
    edge._link = None
    answer = edge.ask("POST", "/ledger", {"after": 10, "records": []})
    assert answer.status == 409
    assert answer.json["error"]["details"][0]["expected"] == "5"
    push(edge, 6, 5)
    [record] = [one for one in plane.call("GET", "/admin/audit-log")["records"] if "put_back" in one["kind"]]
    assert record["detail"]["made_at"] == document["madeAt"]


def test_what_is_no_good_is_refused_and_nothing_is_changed(plane: Plane, tmp_path: Path) -> None:
    plane.init()
    before = (plane.state / "fleet.db").read_bytes()
    file = tmp_path / "fleet.tar"
    plain = plane.run("backup", str(file))
    assert (plain.returncode, "holds no secrets" in plain.stdout) == (0, True)
    good = plane.run("restore", str(file), "--check")
    assert (good.returncode, "Good" in good.stdout) == (0, True)
    unasked = plane.run("restore", str(file))
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    bad = plane.run("restore", str(file), "--yes")
    assert (bad.returncode, "damaged" in bad.stderr) == (74, True)
    (plane.state / "secrets" / "API_KEY_PEPPER").write_text("f" * 64)
    with_secrets = tmp_path / "with.tar"
    assert plane.run("backup", str(with_secrets), "--with-secrets").returncode == 0
    (plane.state / "secrets" / "API_KEY_PEPPER").write_text("e" * 64)
    other = plane.run("restore", str(with_secrets), "--with-secrets", "--yes")
    assert (other.returncode, "another secret" in other.stderr) == (6, True)
    assert (plane.state / "fleet.db").read_bytes() == before
    assert not list(plane.state.glob("fleet.db.*-*"))


def test_postgresql_is_copied_by_its_own_program_and_marked(
    plane: Plane, postgresql: PgServer, tmp_path: Path
) -> None:
    database = postgresql.new_database()
    address = postgresql.address(database)
    plane.init("--database", address)
    told = plane.run("backup", str(tmp_path / "fleet.dump"), "--database", address)
    assert told.returncode == 6
    assert not (tmp_path / "fleet.dump").exists()
    commands = [line.strip() for line in told.stderr.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in commands] == ["pg_dump", "pg_restore", "ambientd"]
    for line in commands[:2]:  # as they were printed, with the server's own programs
        done = subprocess.run(
            ["/bin/sh", "-c", f"{postgresql.bin}/{line}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    before = int(
        postgresql.run(database, "SELECT value FROM fleet_counters WHERE name = 'item_revision'")[0][0]
    )
    marked = plane.run("restore", "--mark", "--database", address)
    assert marked.returncode == 0, marked.stderr
    after = int(
        postgresql.run(database, "SELECT value FROM fleet_counters WHERE name = 'item_revision'")[0][0]
    )
    assert after - before >= 1 << 39
    kinds = [row[0] for row in postgresql.run(database, "SELECT kind FROM control_audit ORDER BY seq")]
    assert kinds[-1] == "database_put_back"
