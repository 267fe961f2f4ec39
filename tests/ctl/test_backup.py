"""`ambientctl backup`: asks, waits, fetches, and leaves no half file."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambientctl.commands import backup as command
from ambientctl.commands import handover
from ambientd.wire import routes
from ambientd.wire.backup_messages import BackupState, BackupView
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

CONTENT = os.urandom(100_000)
VIEW = routes.BACKUP + "/B1"
PIECES = VIEW + "/content"


def view(state: BackupState = BackupState.READY, **facts: Any) -> Reply:
    base = BackupView(backup_id="B1", state=state, bytes=len(CONTENT), counts={"session_ledger": 1234})
    return Reply(body=msgspec.json.encode(msgspec.structs.replace(base, **facts)))


def piece(start: int, end: int) -> Reply:
    return Reply(body=CONTENT[start:end], content_type="application/octet-stream")


@pytest.fixture
def node(daemon: FakeDaemon) -> FakeDaemon:
    """Makes a backup while it is asked twice, and gives it in two pieces."""
    making = BackupState.MAKING
    daemon.script[routes.BACKUP] = view(making)
    daemon.script[VIEW] = [view(making, stage="copying", done=1, total=2), view()]
    daemon.script[PIECES] = [piece(0, 60_000), piece(60_000, 100_000)]
    return daemon


def test_a_backup_is_written_whole_and_private(ctl: Ctl, node: FakeDaemon, tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    found = ctl("backup", str(path))
    assert (found.code, found.err) == (0, "")
    assert found.out == f"Wrote {path}: 1 234 sessions, 97.7 KiB, checked.\n"
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["b.tar"]
    assert json.loads(node.seen[0].body) == {"with_identity": False}
    assert [seen.query for seen in node.seen if seen.path == PIECES] == [{"offset": "0"}, {"offset": "60000"}]


def test_json_says_what_is_in_it(ctl: Ctl, node: FakeDaemon, tmp_path: Path) -> None:
    found = ctl("backup", str(tmp_path / "b.tar"), "--json")
    document = json.loads(found.out)
    assert document["schema"] == routes.SCHEMA_BACKUP
    assert document["bytes"] == len(CONTENT)
    assert document["counts"] == {"session_ledger": 1234}
    assert document["file"] == str(tmp_path / "b.tar")


def test_a_file_that_is_there_is_kept_unless_told(ctl: Ctl, node: FakeDaemon, tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_text("mine")
    found = ctl("backup", str(path))
    assert (found.code, node.seen) == (1, [])
    assert "--force replaces it" in found.err
    assert path.read_text() == "mine"
    assert ctl("backup", str(path), "--force").code == 0
    assert path.read_bytes() == CONTENT


def test_an_identity_that_is_not_there_is_told(ctl: Ctl, node: FakeDaemon, tmp_path: Path) -> None:
    found = ctl("backup", str(tmp_path / "b.tar"), "--with-identity")
    assert found.code == 0
    assert "no identity key yet" in found.err
    assert json.loads(node.seen[0].body) == {"with_identity": True}


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        (
            view(BackupState.FAILED, error_code="STORAGE_FULL", error="the disk is full"),
            74,
            "the disk is full",
        ),
        (view(BackupState.FAILED, error_code="NEW_CODE", error="x"), 1, "Error: x."),
        (view(BackupState.GONE), 1, "the backup is gone"),
        (refused("NOT_FOUND", "there is no backup of that id any more"), 5, "no backup of that id"),
    ],
)
def test_a_backup_that_fails_leaves_no_file(
    ctl: Ctl, node: FakeDaemon, tmp_path: Path, reply: Reply, code: int, said: str
) -> None:
    node.script[VIEW] = reply
    found = ctl("backup", str(tmp_path / "b.tar"))
    assert (found.code, found.out) == (code, "")
    assert said in found.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "last",
    [
        Reply(body=b""),
        piece(60_000, 100_000)._replace(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\nshort"),
        Reply(body=CONTENT),
        refused("STORAGE_UNAVAILABLE", "the disk failed"),
    ],
)
def test_a_content_that_breaks_off_leaves_no_file(
    ctl: Ctl, node: FakeDaemon, tmp_path: Path, last: Reply
) -> None:
    node.script[PIECES] = [piece(0, 60_000), last]
    assert ctl("backup", str(tmp_path / "b.tar")).code != 0
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(ctl: Ctl, node: FakeDaemon, tmp_path: Path) -> None:
    found = ctl("backup", str(tmp_path / "never" / "b.tar"))
    assert found.code == 74
    assert "never/b.tar cannot be written: no such file or directory" in found.err


def test_who_may_not_write_is_told_so(ctl: Ctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.script[routes.BACKUP] = refused("NOT_AUTHORIZED", "needs membership of the group")
    assert ctl("backup", str(tmp_path / "b.tar")).code == 4


def test_without_a_daemon_the_other_program_takes_over(
    ctl: Ctl, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.stop()
    taken: list[list[str]] = []

    class Over(BaseException):
        """This process would be another program now."""

    def become(words: list[str], _options: object) -> None:
        taken.append(words)
        raise Over

    monkeypatch.setattr(command, "become", become)
    for flags in ([], ["--with-identity", "--force", "--json"]):
        with pytest.raises(Over):
            ctl("backup", str(tmp_path / "b.tar"), *flags)
    path = str(tmp_path / "b.tar")
    assert taken == [
        ["backup", "--", path],
        ["backup", "--with-identity", "--force", "--json", "--", path],
    ]
    assert handover.become is not become
