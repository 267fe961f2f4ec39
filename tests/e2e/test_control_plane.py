"""The control plane from outside: set up, checked before it starts, asked, stopped, killed."""

import json
import os
import re
import shutil
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.e2e.fleetkit import RANDOM, SECRETS, Joined, Plane, certificate
from tests.pgkit import PgServer

DEVELOPMENT = '[node]\nmode = "development"\n'
KILLS = int(os.environ.get("AMBIENT_TEST_KILLS", "5"))  # more by hand, over night
SENDERS = 6
LOAD_SEC = 0.7  # between two kills


@pytest.fixture
def plane(tmp_path: Path) -> Any:
    with_plane = Plane(tmp_path / "cp")
    yield with_plane
    with_plane.__exit__(None, None, None)


# --- setting up (R1.72)


def test_init_makes_private_secrets_once_and_an_owner_who_can_log_in(plane: Plane) -> None:
    made = plane.init()
    assert made["schema"] == "ambient.control-plane-init/1"
    folder = plane.state / "secrets"
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(files) == {*SECRETS, "ISSUER_KEY", "LEASE_ISSUER_KEY"}
    for path in (*folder.iterdir(), plane.state / "fleet.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(set(files.values())) == len(files)
    printed = json.dumps(made)
    assert not any(text.strip() in printed for text in files.values())
    again = plane.init()
    assert (again["secretsMade"], again["keysMade"], again["ownerMade"]) == ([], [], False)
    assert "password" not in again
    assert "joinToken" not in again
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    plane.start()
    plane.log_in("admin", made["password"])
    edge = plane.join("edge-1", made["joinToken"])
    assert edge.ask("PUT", "/heartbeat").status == 200
    assert plane.call("GET", "/nodes")[0]["status"] == "online"
    running = plane.run("init")
    assert running.returncode == 75
    assert "Stop it first" in running.stderr


def test_secrets_alone_are_made_before_the_first_start_and_never_again(plane: Plane) -> None:
    made = plane.init("--secrets-only")
    assert set(made["secretsMade"]) == set(SECRETS)
    assert "password" not in made
    folder = plane.state / "secrets"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    (folder / "LEASE_ISSUER_KEY").unlink()
    assert plane.init("--secrets-only")["keysMade"] == ["LEASE_ISSUER_KEY"]
    plane.start().stop()
    (folder / "LEASE_ISSUER_KEY").unlink()  # as an operator may: others sign
    assert "issuer" in plane.init("--secrets-only")
    (folder / "API_KEY_PEPPER").unlink()
    lost = plane.run("init", "--secrets-only")
    assert (lost.returncode, "API_KEY_PEPPER" in lost.stderr) == (78, True)
    assert {path.name for path in folder.iterdir()} == {*SECRETS, "ISSUER_KEY"} - {"API_KEY_PEPPER"}


def test_a_secret_that_comes_from_elsewhere_is_not_made(tmp_path: Path) -> None:
    (credentials := tmp_path / "credentials").mkdir()
    (credentials / "ISSUER_KEY").write_text("7" * 64)
    (credentials / "ISSUER_KEY").chmod(0o400)
    name = "API_KEY_PEPPER"
    given = {name: RANDOM[name], "CREDENTIALS_DIRECTORY": str(credentials)}
    made = Plane(tmp_path / "cp", environment=given).init()
    assert set(made["secretsMade"]) == set(SECRETS) - {name}
    assert made["keysMade"] == ["LEASE_ISSUER_KEY"]


def test_processes_that_share_a_database_get_no_secrets_of_their_own(plane: Plane) -> None:
    refused = plane.run("init", "--secrets-only", "--database", "postgresql://localhost/x")
    assert (refused.returncode, "share" in refused.stderr) == (6, True)
    assert not plane.state.exists()


def test_init_takes_a_password_from_standard_input_and_shows_it_nowhere(plane: Plane) -> None:
    found = plane.run("init", "--owner", "ann", "--password-file", "-", given="a pass phrase of mine\n")
    assert found.returncode == 0, found.stderr
    assert "pass phrase" not in found.stdout + found.stderr
    assert re.search(r"join token +jt_[0-9a-f]{64}", found.stdout)
    plane.start()
    plane.log_in("ann", "a pass phrase of mine")
    short = plane.run("init", "--owner", "bob", "--password-file", "-", given="short\n")
    assert short.returncode == 75  # it runs
    plane.stop()
    short = plane.run("init", "--owner", "bob", "--password-file", "-", given="short\n")
    assert (short.returncode, "password" in short.stderr) == (2, True)


# --- checks before it starts (R1.69, R1.70, R1.73)


def refused(plane: Plane) -> str:
    """What it says when it does not start; nothing may have been opened or made by then."""
    with socket.socket() as taken:
        # On a port that is taken it would complain of that, if it came so far.
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        found = plane.run("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert found.returncode == 78, (found.returncode, found.stderr)
    assert "listened" not in found.stderr
    assert not (plane.state / "fleet.db").exists()
    return found.stderr


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", [None, "change-me-please-change-me-please"])
def test_each_secret_must_be_there_and_good(tmp_path: Path, name: str, value: str | None) -> None:
    given = {**RANDOM, name: value or ""}
    said = refused(Plane(tmp_path / "cp", environment=given))
    assert name in said
    assert [other for other in SECRETS if other in said] == [name]
    if value is not None:
        assert value not in said


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    said = refused(Plane(tmp_path / "cp", environment={"API_KEY_PEPPER": "change-me"}))
    assert all(name in said for name in SECRETS)
    same = dict.fromkeys(SECRETS, RANDOM["API_KEY_PEPPER"])
    assert "one of its own" in refused(Plane(tmp_path / "cp2", environment=same))


def test_a_variable_makes_development_as_strict_as_production(tmp_path: Path) -> None:
    plane = Plane(tmp_path / "cp", config=DEVELOPMENT, environment={"ENVIRONMENT": "Production"})
    assert all(name in refused(plane) for name in SECRETS)


def test_a_secret_that_others_can_read_is_refused(plane: Plane) -> None:
    plane.init()
    (plane.state / "fleet.db").unlink()
    (plane.state / "secrets" / "API_KEY_PEPPER").chmod(0o644)
    assert "API_KEY_PEPPER" in refused(plane)


def test_known_defaults_stand_in_for_development_with_one_warning_each(tmp_path: Path) -> None:
    with Plane(tmp_path / "cp", config=DEVELOPMENT) as plane:
        for _ in range(50):
            plane.ask("POST", "/api/v1/auth/login", {"username": "nobody", "password": "x"})
            plane.ask("GET", "/api/v1/nodes", token="at_" + "0" * 64)
        assert plane.stop()[0] == 0
        lines = [json.loads(line) for line in plane.log.read_text().splitlines()]
    warned = [line["reason"].split()[0] for line in lines if line["event"] == "secrets.default"]
    assert sorted(warned) == sorted(SECRETS)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--listen", "0.0.0.0:0"), "TLS"),
        (("--listen", "nowhere"), "address"),
        (("--database", "postgresql://ann:marker-of-a-password@localhost/x"), "password"),
    ],
)
def test_settings_that_would_do_harm_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    found = Plane(tmp_path / "cp", environment=RANDOM).run(*arguments)
    assert found.returncode == 78, found.stderr
    assert word in found.stderr
    assert "marker-of-a-password" not in found.stderr


# --- serving


def test_no_secret_stands_in_the_log_or_in_the_arguments(plane: Plane) -> None:
    made = plane.init()
    plane.start("--log-level", "debug")
    plane.log_in("admin", made["password"])
    plane.call("GET", "/nodes")
    plane.ask("POST", "/api/v1/auth/login", {"username": "admin", "password": "marker-wrong"})
    plane.ask("GET", "/api/v1/nodes?token=" + plane.token)
    assert plane.process is not None
    arguments = Path(f"/proc/{plane.process.pid}/cmdline").read_text()
    assert plane.stop()[0] == 0
    secrets = [path.read_text().strip() for path in (plane.state / "secrets").iterdir()]
    for marker in (*secrets, made["password"], made["joinToken"], plane.token, "marker-wrong"):
        assert marker not in plane.log.read_text()
        assert marker not in arguments


def test_it_listens_at_once_and_says_why_it_is_not_ready(plane: Plane) -> None:
    plane.init()
    (plane.state / "fleet.db").unlink()
    for name in ("fleet.db-wal", "fleet.db-shm"):
        (plane.state / name).unlink(missing_ok=True)
    connection = apsw.Connection(str(plane.state / "fleet.db"))
    connection.execute("PRAGMA application_id = 1234; CREATE TABLE other (x)")
    connection.close()
    plane.start(ready=False)
    plane._wait(lambda: plane._answers("/livez") == 200)
    for path in ("/readyz", "/api/v1/health"):
        found = plane.ask("GET", path)
        assert (found.status, found.json["error"]["code"]) == (503, "NOT_READY")
        assert "retry-after" in found.headers
    assert plane.stop()[0] == 0
    assert apsw.Connection(str(plane.state / "fleet.db")).execute("SELECT name FROM sqlite_master").fetchall()


def test_a_stop_lets_what_has_begun_end_and_takes_nothing_new(plane: Plane) -> None:
    made = plane.init()
    plane.start()
    plane.log_in("admin", made["password"])
    statuses: list[int] = []

    def log_in() -> None:
        body = {"username": "admin", "password": made["password"]}
        statuses.append(plane.ask("POST", "/api/v1/auth/login", body).status)

    threads = [threading.Thread(target=log_in) for _ in range(4)]  # each takes a while: argon2id
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    code, seconds = plane.stop()
    for thread in threads:
        thread.join()
    assert (code, statuses) == (0, [200] * 4)
    assert seconds < 6


def test_with_a_certificate_only_tls_is_spoken_and_it_is_renewed_without_a_stop(tmp_path: Path) -> None:
    import ssl

    cert, key = certificate(tmp_path, "first")
    config = f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    plane = Plane(tmp_path / "cp", config=config, environment=RANDOM)
    plane.tls = ssl.create_default_context(cafile=str(cert))
    with plane:
        found = plane.ask("GET", "/api/v1/health")
        assert found.json["status"] == "healthy"
        assert found.headers["strict-transport-security"].startswith("max-age=")
        with socket.create_connection(("127.0.0.1", plane.port), timeout=10) as plain:
            plain.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        new_cert, new_key = certificate(tmp_path, "second")
        os.replace(new_key, key)
        os.replace(new_cert, cert)
        assert plane.process is not None
        os.kill(plane.process.pid, 1)
        renewed = ssl.create_default_context(cafile=str(cert))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            plane.tls = renewed
            if plane._answers("/api/v1/health") == 200:
                break
            time.sleep(0.05)
        assert plane.ask("GET", "/api/v1/health").status == 200
        assert plane.stop()[0] == 0


def test_clients_need_a_certificate_where_their_authority_is_named(tmp_path: Path) -> None:
    import ssl

    (cert, key), (own, own_key) = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    config = f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\ntls_client_ca = "{own}"\n'
    plane = Plane(tmp_path / "cp", config=config, environment=RANDOM)
    plane.tls = ssl.create_default_context(cafile=str(cert))
    plane.tls.load_cert_chain(own, own_key)
    with plane:
        assert plane.ask("GET", "/api/v1/health").status == 200
        plane.tls = ssl.create_default_context(cafile=str(cert))
        with pytest.raises(OSError, match=r"."):
            plane.ask("GET", "/api/v1/health")


def test_a_key_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "open")
    key.chmod(0o644)
    config = f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    found = Plane(tmp_path / "cp", config=config, environment=RANDOM).run()
    assert (found.returncode, "chmod 0600" in found.stderr) == (78, True)


# --- kill -9 in the middle of pushing: nothing acknowledged is lost, nothing is doubled


class Sender(threading.Thread):
    """Sends numbered reports and ledger rows as fast as they are answered, until told to stop."""

    def __init__(self, node: Joined, stop: threading.Event) -> None:
        super().__init__()
        self.node = node
        self.stop = stop
        self.report = 0
        self.row = 0
        self.acked_reports = 0
        self.acked_row = 0
        self.odd: list[Any] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._report()
                self._rows()
            except OSError:
                time.sleep(0.02)  # it is away; the same again when it is back

    def _report(self) -> None:
        # Ours to send again until it was answered: with the same number it counts once.
        answer = self.node.ask("PUT", "/heartbeat", {"seq": self.acked_reports + 1, "cpu_usage": 5})
        if answer.status == 200:
            self.acked_reports += 1
        elif answer.status != 503:
            self.odd.append(answer)

    def _rows(self) -> None:
        first = self.acked_row + 1
        records = [
            {
                "seq": seq,
                "session_id": f"ses_{seq}",
                "session": {
                    "agent_id": "a",
                    "agent_label": "a",
                    "model_id": "m",
                    "status": "success",
                    "started_at": "2026-11-20T11:00:00Z",
                },
            }
            for seq in range(first, first + 5)
        ]
        answer = self.node.ask("POST", "/ledger", {"after": self.acked_row, "records": records})
        if answer.status == 200:
            self.acked_row = answer.json["acked_seq"]
        elif answer.status != 503:
            self.odd.append(answer)


def under_load(plane: Plane, made: Any, kill: Any, kills: int) -> list[Sender]:
    """Joined nodes push while `kill` strikes, and go on until everything is back."""
    plane.log_in("admin", made["password"])
    token = plane.call("POST", "/join-tokens", {"uses": SENDERS}, status=201)["join_token"]
    stop = threading.Event()
    senders = [Sender(plane.join(f"edge-{n}", token), stop) for n in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(kills):
            time.sleep(LOAD_SEC)
            kill()
        time.sleep(LOAD_SEC)
    finally:
        stop.set()
        for sender in senders:
            sender.join(60)
    return senders


def check_all(senders: list[Sender], rows: Any) -> None:
    """Every acknowledged number is there once; at most the one that was under way beyond them."""
    reports = dict(rows("SELECT node_id, count(report_seq) FROM node_heartbeat_history GROUP BY node_id"))
    highest = dict(rows("SELECT node_id, max(report_seq) FROM node_heartbeat_history GROUP BY node_id"))
    sessions = dict(rows("SELECT node_id, count(*) FROM node_sessions GROUP BY node_id"))
    for sender in senders:
        name = sender.node.node_id
        assert sender.odd == []
        assert reports[name] == highest[name]
        assert reports[name] - sender.acked_reports in (0, 1), name
        assert sessions[name] - sender.acked_row in (0, 5), name
        assert sender.acked_reports >= 2


def test_kills_in_the_middle_of_pushing_lose_and_double_nothing_on_sqlite(plane: Plane) -> None:
    made = plane.init()
    plane.start()

    def kill() -> None:
        plane.kill()
        plane.start()

    senders = under_load(plane, made, kill, KILLS)
    assert plane.stop()[0] == 0
    connection = apsw.Connection(str(plane.state / "fleet.db"))
    check_all(senders, lambda sql: connection.execute(sql).fetchall())
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("victim", ["control plane", "database"])
def test_kills_in_the_middle_of_pushing_lose_and_double_nothing_on_postgresql(
    plane: Plane, postgresql: PgServer, victim: str
) -> None:
    database = postgresql.new_database()
    address = postgresql.address(database)
    made = plane.init("--database", address)
    assert made["database"] == address
    plane.start("--database", address)

    def kill() -> None:
        if victim == "database":
            postgresql.kill()
            postgresql.start()
            return  # the control plane finds it again by itself
        plane.kill()
        plane.start("--database", address)

    senders = under_load(plane, made, kill, (KILLS + 1) // 2 if victim == "database" else KILLS)
    assert plane.stop()[0] == 0
    check_all(senders, lambda sql: postgresql.run(database, sql))


def test_two_processes_share_a_database_and_give_no_work_out_twice(
    tmp_path: Path, postgresql: PgServer
) -> None:
    address = postgresql.address(database := postgresql.new_database())
    first, second = Plane(tmp_path / "one"), Plane(tmp_path / "two")
    made = first.init("--database", address)
    shutil.copytree(first.state / "secrets", second.state / "secrets")
    second.state.chmod(0o700)
    with first.start("--database", address), second.start("--database", address):
        first.log_in("admin", made["password"])
        second.token = first.token  # a token of one is good at the other
        join = first.call("POST", "/join-tokens", {"uses": 4}, status=201)["join_token"]
        nodes = [plane.join(f"edge-{n}", join) for n, plane in enumerate((first, second) * 2)]

        def submit(plane: Plane) -> None:
            for _ in range(15):
                plane.call("POST", "/tasks", {"task_type": "computation", "inputs": {}}, status=201)

        threads = [threading.Thread(target=submit, args=(plane,)) for plane in (first, second) * 2]
        for thread in threads:
            thread.start()
        for node in nodes * 5:
            assert node.ask("PUT", "/heartbeat", {}).status == 200
        for thread in threads:
            thread.join()
        # A number that one process has taken is taken at the other as well.
        nodes[0].plane, nodes[0].sequence = second, nodes[0].sequence - 1
        nodes[0]._link = None
        assert nodes[0].ask("PUT", "/heartbeat").json["error"]["code"] == "REPLAYED"
        assert first.stop()[0] == 0
        assert second.call("GET", "/cluster/stats")["total_tasks"] == 60
    held = postgresql.run(
        database,
        "SELECT task_id, count(*) FROM task_assignments WHERE disconnected_at IS NULL GROUP BY task_id",
    )
    assert [count for _, count in held] == [1] * 60


def test_the_help_shows_examples_and_every_secret(tmp_path: Path) -> None:
    plane = Plane(tmp_path / "cp")
    shown = plane.run("--help")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in (*SECRETS, "DATABASE_PASSWORD", "examples:"))
    assert "examples:" in plane.run("init", "--help").stdout
    assert plane.run("--odd").returncode == 2
