import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ambientd.host.statelock import StateDirError, StateLockedError, acquire, process_start_ticks

AT = datetime(2026, 11, 20, 15, 40, 3, tzinfo=UTC)
NOBODY = 65534
ROOT = Path(__file__).parents[2]

HOLDER = """
import sys
from datetime import UTC, datetime
from ambientd.host.statelock import acquire
lock = acquire(sys.argv[1], datetime(2026, 11, 20, tzinfo=UTC))
print("held", flush=True)
sys.stdin.read()
"""


def hold(state: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], sig: int = signal.SIGKILL) -> None:
    process.send_signal(sig)
    process.communicate(timeout=20)


def test_a_missing_directory_is_made_private_and_the_holder_written(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    before = os.umask(0)
    try:
        with acquire(str(state), AT):
            record = json.loads((state / "lock").read_text())
            assert stat.S_IMODE(state.stat().st_mode) == 0o700
            assert stat.S_IMODE((state / "lock").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert record == {
        "pid": os.getpid(),
        "start_ticks": process_start_ticks(os.getpid()),
        "since": "2026-11-20T15:40:03.000Z",
    }
    assert record["start_ticks"] > 0


def test_a_second_instance_learns_who_holds_the_state_and_kill_frees_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(StateLockedError) as caught:
            acquire(str(tmp_path), AT)
        assert caught.value.pid == process.pid
        assert str(process.pid) in str(caught.value)
        assert "2026-11-20T00:00:00.000Z" in str(caught.value)
    finally:
        end(process)
    with acquire(str(tmp_path), AT):
        pass


def test_a_database_elsewhere_has_one_holder_whatever_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    database = tmp_path / "data" / "ambient.db"
    with acquire(str(tmp_path / "a"), AT, database=database):
        (tmp_path / "link").symlink_to(tmp_path / "data")
        for spelt in (database, tmp_path / "link" / "ambient.db"):
            with pytest.raises(StateLockedError, match=r"data/ambient\.db is in use by process"):
                acquire(str(tmp_path / "b"), AT, database=spelt)
        acquire(str(tmp_path / "b"), AT).release()  # the refused one has let go of its state
    acquire(str(tmp_path / "b"), AT, database=database).release()


def test_a_database_in_the_state_directory_or_nowhere_has_no_lock_of_its_own(tmp_path: Path) -> None:
    acquire(str(tmp_path / "a"), AT, database=tmp_path / "a" / "ambient.db").release()
    acquire(str(tmp_path / "a"), AT, database=tmp_path / "nowhere" / "ambient.db").release()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock"]


def test_the_lock_is_not_inherited_by_programs(tmp_path: Path) -> None:
    lock = acquire(str(tmp_path), AT)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        lock.release()
        with acquire(str(tmp_path), AT):
            pass
    finally:
        child.kill()
        child.wait(20)


def test_a_lock_file_removed_under_the_holder_is_seen_by_nobody_as_free_twice(tmp_path: Path) -> None:
    with acquire(str(tmp_path), AT):
        (tmp_path / "lock").unlink()
        with acquire(str(tmp_path), AT), pytest.raises(StateLockedError):
            acquire(str(tmp_path), AT)


def test_a_lock_file_removed_between_open_and_lock_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, races = fcntl.flock, [1]

    def flock_after_a_removal(fd: int, operation: int) -> None:
        if races:
            races.pop()
            (tmp_path / "lock").unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_a_removal)
    with acquire(str(tmp_path), AT):
        assert not races
        with pytest.raises(StateLockedError):
            acquire(str(tmp_path), AT)


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b"\xff", b'{"pid": "x"}', b"[" * 4000, b'{"pid": -1}'])
def test_a_holder_that_wrote_nonsense_is_another_process(tmp_path: Path, record: bytes) -> None:
    with acquire(str(tmp_path), AT):
        (tmp_path / "lock").write_bytes(record)
        with pytest.raises(StateLockedError, match="in use by another process") as caught:
            acquire(str(tmp_path), AT)
        assert caught.value.pid is None


def refusal(state: Path | str) -> str:
    with pytest.raises(StateDirError) as caught:
        acquire(str(state), AT)
    assert str(caught.value).endswith((".", ")."))
    return str(caught.value)


def test_what_cannot_be_a_state_directory_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    wide = tmp_path / "wide"
    wide.mkdir()
    wide.chmod(0o777)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "lock").symlink_to(file)
    occupied = tmp_path / "occupied"
    (occupied / "lock").mkdir(parents=True)
    fifo = tmp_path / "fifo"
    fifo.mkdir()
    os.mkfifo(fifo / "lock")
    assert "is not a directory" in refusal(file)
    assert "not a directory" in refusal(file / "below")
    assert "every user" in refusal(wide)
    assert "symbolic link" in refusal(linked)
    assert "is a directory" in refusal(occupied)
    assert "not a regular file" in refusal(fifo)
    assert "NUL" in refusal("a\0b")
    assert "too long" in refusal(tmp_path / ("x" * 300))


def test_a_linked_directory_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with acquire(str(tmp_path / "link"), AT):
        assert (tmp_path / "real" / "lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else and back")
def test_a_directory_of_another_user_or_without_permission_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        state = Path(name)
        os.chown(state, NOBODY, NOBODY)
        assert f"belongs to user {NOBODY}, but this is user 0" in refusal(state)
        os.seteuid(NOBODY)
        try:
            state.chmod(0o500)
            assert "not readable and writable" in refusal(state)
            assert "permission denied" in refusal(state / "below")
            state.chmod(0o700)
            with acquire(str(state), AT):
                pass
        finally:
            os.seteuid(0)


def test_a_process_that_is_not_there_has_no_start() -> None:
    assert process_start_ticks(2**22 + 1) is None
