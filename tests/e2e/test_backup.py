"""Backup and restore from outside: two programs, one file, a node that goes on working (R3.149, D18)."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.harness import Node

pytestmark = pytest.mark.e2e

QUICK = {"agents": {"quick": {"command": ["/bin/true"], "max_concurrent": 2}}}
# D18 asks for 20: AMBIENT_RESTORES=20 pytest tests/e2e/test_backup.py -k load
RESTORES = int(os.environ.get("AMBIENT_RESTORES", "3"))
SPAWNS_MAX = 40 * RESTORES


def manifest(path: Path) -> dict[str, Any]:
    with tarfile.open(path) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        document: dict[str, Any] = json.load(file)
        return document


def ids(database: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT session_id FROM session_ledger")}


class Load:
    """Spawns sessions one after the other, as fast as the node answers, up to a bound."""

    def __init__(self, node: Node) -> None:
        self.acknowledged: list[str] = []
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for _ in range(SPAWNS_MAX):
            if self._over.is_set():
                return
            answer = self._node.post("/api/control/spawn", {"agentId": "quick", "prompt": "x"})
            if answer.status == 200:
                self.acknowledged.append(answer.json["sessionId"])


def test_backups_taken_under_load_are_restored_whole() -> None:
    with Node(QUICK) as node, Load(node) as load:
        for number in range(RESTORES):
            node.wait_for(lambda number=number: len(load.acknowledged) > number)  # type: ignore[misc]
            before = set(load.acknowledged)
            path = node.root / f"b{number}.tar"
            done = node.ctl("backup", str(path), timeout=60)
            assert done.returncode == 0, done.stderr
            state = node.root / f"restored{number}"
            back = node.ambientd("restore", str(path), "--state-dir", str(state), timeout=60)
            assert back.returncode == 0, back.stderr
            found = ids(state / "ambient.db")
            assert before <= found
            assert len(found) == manifest(path)["counts"]["session_ledger"]
            shutil.rmtree(state)
            path.unlink()
    assert len(load.acknowledged) > RESTORES


def test_going_back_to_a_snapshot() -> None:
    with Node(QUICK) as node:
        first = json.loads(node.ctl("spawn", "quick", "one", "--json").stdout)["sessionId"]
        path = node.root / "b.tar"
        made = node.ctl("backup", str(path), "--json")
        assert made.returncode == 0, made.stderr
        document = json.loads(made.stdout)
        assert document["schema"] == "ambient.backup/1"
        assert document["counts"]["session_ledger"] == 1
        assert document["bytes"] == path.stat().st_size
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert manifest(path)["counts"] == document["counts"]
        second = json.loads(node.ctl("spawn", "quick", "two", "--json").stdout)["sessionId"]

        refused = node.ambientd("restore", str(path), "--yes")
        assert refused.returncode == 75
        assert "in use by process" in refused.stderr
        assert node.ctl("restore", str(path), "--yes").returncode in (1, 75)  # handed over, where installed

        node.stop()
        silent = node.ambientd("restore", str(path))
        assert silent.returncode == 2
        assert "set aside; it is not deleted" in silent.stderr
        assert ids(node.state / "ambient.db") == {first, second}
        done = node.ambientd("restore", str(path), "--yes", "--json")
        assert done.returncode == 0, done.stderr
        kept = Path(json.loads(done.stdout)["kept"])
        assert ids(kept) == {first, second}
        node.start()
        listed = json.loads(node.ctl("sessions", "--json").stdout)
        assert [row["sessionId"] for row in listed["items"]] == [first]
        assert node.status()["health"] == "ok"


@pytest.mark.parametrize(("word", "code"), [("n", 1), ("", 1), ("yes", 0)])
def test_a_person_is_asked_before_a_database_is_set_aside(word: str, code: int) -> None:
    with Node(QUICK) as node:
        path = node.root / "b.tar"
        assert node.ctl("backup", str(path)).returncode == 0
        node.stop()
        controller, terminal = os.openpty()
        try:
            os.write(controller, word.encode() + b"\n")
            done = subprocess.run(
                [sys.executable, "-m", "ambientd", "restore", str(path)],
                env=node.environment,
                stdin=terminal,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(terminal)
            os.close(controller)
        assert done.returncode == code, done.stderr
        assert "Put the backup in its place? [y/N]" in done.stderr
        assert len(list(node.state.glob("ambient.db.replaced-*"))) == (1 if code == 0 else 0)


def test_without_a_daemon_the_state_is_read_under_its_lock() -> None:
    with Node(QUICK) as node:
        session = json.loads(node.ctl("spawn", "quick", "one", "--json").stdout)["sessionId"]
        path = node.root / "b.tar"
        busy = node.ambientd("backup", str(path))
        assert busy.returncode == 75
        assert not path.exists()
        node.kill9()
        done = node.ambientd("backup", str(path))
        assert done.returncode == 0, done.stderr
        assert "1 sessions" in done.stdout
        assert manifest(path)["counts"]["session_ledger"] == 1
        state = node.root / "other"
        assert node.ambientd("restore", str(path), "--state-dir", str(state)).returncode == 0
        assert ids(state / "ambient.db") == {session}


def test_configuration_and_identity_come_back_where_they_are_asked_to() -> None:
    with Node(QUICK) as node:
        drop_in = node.root / "conf.d"
        drop_in.mkdir()
        (drop_in / "10-name.toml").write_text('[node]\nname = "restored"\n')
        (node.state / "identity.key").write_bytes(b"k" * 32)
        path = node.root / "b.tar"
        assert node.ctl("backup", str(path)).returncode == 0
        names = [member["name"] for member in manifest(path)["members"]]
        assert names == ["config/ambient.toml", "config/conf.d/10-name.toml", "ambient.db"]
        assert node.ctl("backup", str(path)).returncode == 1
        assert node.ctl("backup", str(path), "--force", "--with-identity").returncode == 0
        assert "identity.key" in [member["name"] for member in manifest(path)["members"]]

        state, folder = node.root / "other", node.root / "config"
        flags = ("--state-dir", str(state), "--config-to", str(folder), "--with-identity")
        done = node.ambientd("restore", str(path), *flags)
        assert done.returncode == 0, done.stderr
        assert (folder / "ambient.toml").read_text() == node.config_file.read_text()
        assert (folder / "conf.d" / "10-name.toml").read_text().startswith("[node]")
        assert (state / "identity.key").read_bytes() == b"k" * 32
        assert stat.S_IMODE((state / "identity.key").stat().st_mode) == 0o600
        (state / "identity.key").write_bytes(b"other")
        again = node.ambientd("restore", str(path), "--state-dir", str(state), "--with-identity", "--yes")
        assert again.returncode == 6
        assert (state / "identity.key").read_bytes() == b"other"


def test_a_damaged_backup_changes_nothing() -> None:
    with Node(QUICK) as node:
        session = json.loads(node.ctl("spawn", "quick", "one", "--json").stdout)["sessionId"]
        path = node.root / "b.tar"
        assert node.ctl("backup", str(path)).returncode == 0
        node.stop()
        raw = bytearray(path.read_bytes())
        raw[-50_000] ^= 0xFF
        path.write_bytes(raw)
        before = sorted(os.listdir(node.state))
        for flags in (["--check"], ["--yes"]):
            done = node.ambientd("restore", str(path), *flags)
            assert done.returncode == 74
            assert "does not match the manifest" in done.stderr
        path.write_bytes(raw[:40_000])
        assert node.ambientd("restore", str(path), "--yes").returncode == 74
        assert node.ambientd("restore", str(node.root / "never"), "--yes").returncode == 1
        assert sorted(os.listdir(node.state)) == before
        assert ids(node.state / "ambient.db") == {session}


def test_a_disk_that_is_full_leaves_no_half_file() -> None:
    """A limit on the size of files stands in for the full disk: the write fails in its middle."""
    with Node(QUICK) as node:
        limited = ["prlimit", "--fsize=50000", sys.executable, "-c"]
        ctl = [*limited, "from ambientctl.main import main; main()", "backup", "b.tar"]
        folder = node.root / "target"
        folder.mkdir()
        online = subprocess.run(
            ctl, env=node.environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert online.returncode == 74, online
        assert "cannot be written" in online.stderr
        assert os.listdir(folder) == []
        assert node.ctl("backup", str(folder / "b.tar")).returncode == 0  # the node is none the worse
        (folder / "b.tar").unlink()
        node.stop()
        ambientd = ["prlimit", "--fsize=50000", sys.executable, "-m", "ambientd", "backup", "b.tar"]
        offline = subprocess.run(
            ambientd,
            env=node.environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert offline.returncode in (1, 74), offline
        assert os.listdir(folder) == []
        assert os.listdir(node.state / "backup") == []
