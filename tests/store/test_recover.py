"""What is done with every kind of file found at the path (FAULTS D10)."""

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from ambientd.ports.errors import StoreBusyError, StoreError
from ambientd.store.migrate import default_folder, known_migrations
from ambientd.store.recover import degraded, marker, open_database
from ambientd.store.unit import SqliteTransaction
from tests.store.kit import AT, StillClock, ingest, migrated

NEWEST = len(known_migrations(default_folder()))
PAGE = 4096


def made(tmp_path: Path, sessions: int = 60) -> Path:
    """A database with sessions in it, closed cleanly."""
    path = tmp_path / "ambient.db"
    connection = migrated(path)
    with connection:
        unit = SqliteTransaction(connection, AT)
        for n in range(sessions):
            ingest(unit, f"ses_{n:08d}", task_text="word " * 200)
    connection.close()
    return path


def reopened(path: Path) -> apsw.Connection:
    return open_database(path, clock=StillClock(), busy_timeout=0.2, newest=NEWEST)


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.parent.iterdir())


NOISE = random.Random(7).randbytes(PAGE)
DAMAGE: dict[str, Callable[[Path], object]] = {
    "zero length": lambda path: os.truncate(path, 0),
    "shorter than a header": lambda path: os.truncate(path, 50),
    "header zeroed": lambda path: overwrite(path, 0, bytes(100)),
    "header garbage": lambda path: overwrite(path, 0, NOISE[:100]),
    "all garbage": lambda path: path.write_bytes(NOISE * 3),
    "page 2 zeroed": lambda path: overwrite(path, PAGE, bytes(PAGE)),
    "page 2 garbage": lambda path: overwrite(path, PAGE, NOISE),
    "a late page garbage": lambda path: overwrite(path, 20 * PAGE, NOISE),
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_database_is_set_aside_and_a_new_one_made(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path)
    DAMAGE[kind](path)
    damaged = digest(path)
    connection = reopened(path)
    assert connection.execute("PRAGMA quick_check").get == "ok"
    assert not connection.table_exists(None, "session_ledger")
    connection.close()
    aside = [name for name in names(path) if ".corrupt-" in name and name.endswith("Z")]
    assert aside == ["ambient.db.corrupt-20261120T120000000Z"]
    assert digest(path.parent / aside[0]) == damaged
    sentence = degraded(path)
    assert sentence is not None
    assert aside[0] in sentence


def test_degraded_lasts_until_the_file_is_moved_away(tmp_path: Path) -> None:
    path = made(tmp_path)
    os.truncate(path, 0)
    reopened(path).close()
    reopened(path).close()
    assert degraded(path) is not None
    (tmp_path / "ambient.db.corrupt-20261120T120000000Z").unlink()
    assert degraded(path) is None


def test_the_log_of_a_damaged_database_is_set_aside_with_it(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.with_name("ambient.db-wal").write_bytes(b"log")
    overwrite(path, 0, bytes(100))
    reopened(path).close()
    assert (tmp_path / "ambient.db.corrupt-20261120T120000000Z-wal").read_bytes() == b"log"


def test_two_damaged_databases_of_one_moment_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    for _ in range(2):
        path.write_bytes(NOISE)
        reopened(path).close()
    assert len([name for name in names(path) if ".corrupt-" in name]) == 2


def test_an_empty_file_is_no_first_run_even_without_marker(tmp_path: Path) -> None:
    (tmp_path / "ambient.db").touch()
    reopened(tmp_path / "ambient.db").close()
    assert degraded(tmp_path / "ambient.db") is not None


def test_a_first_run_is_not_degraded_and_leaves_a_marker(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "ambient.db"
    reopened(path).close()
    assert degraded(path) is None
    assert marker(path).read_text().startswith("A database was made here")
    assert path.stat().st_mode & 0o077 == 0


def test_a_database_that_has_gone_is_told_from_a_first_run(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.unlink()
    reopened(path).close()
    sentence = degraded(path)
    assert sentence is not None
    assert "ambient.db.missing-20261120T120000000Z" in sentence


def test_a_log_that_outlived_its_database_is_not_replayed_into_the_new_one(tmp_path: Path) -> None:
    path = made(tmp_path)
    holder = reopened(path)
    holder.execute("CREATE TABLE old (x)")
    wal = path.with_name("ambient.db-wal").read_bytes()
    holder.close()
    path.unlink()
    path.with_name("ambient.db-wal").write_bytes(wal)
    connection = reopened(path)
    assert not connection.table_exists(None, "old")
    connection.close()
    assert (tmp_path / "ambient.db.missing-20261120T120000000Z-wal").read_bytes() == wal
    assert degraded(path) is not None


def test_a_crash_while_the_database_is_made_leaves_a_first_run(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    path.with_name("ambient.db.new").write_bytes(b"half")
    reopened(path).close()
    assert degraded(path) is None
    assert names(path) == ["ambient.db", "ambient.db.created"]


@pytest.mark.parametrize("wal", [b"", b"garbage" * 1000], ids=["missing", "garbage"])
def test_a_missing_or_garbage_log_does_not_stop_a_whole_database(tmp_path: Path, wal: bytes) -> None:
    path = made(tmp_path)
    if wal:
        path.with_name("ambient.db-wal").write_bytes(wal)
    connection = reopened(path)
    assert connection.execute("SELECT count(*) FROM session_ledger").get == 60
    connection.close()
    assert degraded(path) is None


def foreign(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE theirs (x)")
    other.close()


def other_mark(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("PRAGMA application_id = 1")
    other.close()


def newer(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'x', 'x')")
    other.close()


@pytest.mark.parametrize(
    ("prepare", "exists", "says"),
    [
        (foreign, False, "another program's database"),
        (other_mark, True, "another program's database"),
        (newer, True, "schema 9999, newer"),
        (lambda path: path.chmod(0o444), True, "read-only"),
    ],
)
def test_what_is_not_ours_to_change_is_refused_untouched(
    tmp_path: Path, prepare: Callable[[Path], None], *, exists: bool, says: str
) -> None:
    path = made(tmp_path) if exists else tmp_path / "ambient.db"
    prepare(path)
    before = digest(path), path.stat().st_ino
    for _ in range(2):
        with pytest.raises(StoreError, match=says):
            reopened(path)
    assert (digest(path), path.stat().st_ino) == before
    assert not [name for name in names(path) if ".corrupt-" in name]


def test_a_newer_schema_that_is_still_in_the_log_is_refused_and_the_log_kept(tmp_path: Path) -> None:
    path = made(tmp_path)
    other = apsw.Connection(str(path))
    other.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    other.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'x', 'x')")
    other.close()
    before = digest(path), digest(path.with_name("ambient.db-wal"))
    with pytest.raises(StoreError, match="newer"):
        reopened(path)
    assert (digest(path), digest(path.with_name("ambient.db-wal"))) == before


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo], ids=["directory", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "ambient.db")
    with pytest.raises(StoreError, match="not a regular file"):
        reopened(tmp_path / "ambient.db")
    assert names(tmp_path / "ambient.db") == ["ambient.db"]


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used"):
        reopened(tmp_path / "file" / "ambient.db")


def test_an_exclusive_lock_of_another_is_busy_and_not_damage(tmp_path: Path) -> None:
    path = made(tmp_path)
    other = apsw.Connection(str(path))
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusyError):
        reopened(path)
    other.execute("ROLLBACK")
    other.close()
    reopened(path).close()
    assert degraded(path) is None


def test_a_large_database_is_checked_for_a_bounded_time(tmp_path: Path) -> None:
    path = made(tmp_path, sessions=300)
    clock = StillClock()
    looks = 0

    def hurried() -> float:
        nonlocal looks
        looks += 1
        clock.seconds += 10
        return clock.seconds

    clock.monotonic = hurried  # type: ignore[method-assign]
    connection = open_database(path, clock=clock, busy_timeout=0.2, newest=NEWEST)
    assert connection.execute("SELECT count(*) FROM session_ledger").get == 300
    assert looks >= 2, "the check was never asked for the time"
    connection.close()
