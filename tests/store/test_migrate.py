"""The runner: one transaction each, a lock that outlives nobody, refusals that touch nothing."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from ambientd.core.migrations import Migration
from ambientd.ports.errors import StoreBusyError, StoreError
from ambientd.store import migrate as runner
from ambientd.store.migrate import applied_migrations, default_folder, known_migrations, migrate, picture
from ambientd.store.recover import open_database
from tests.store.kit import StillClock

ROOT = Path(__file__).resolve().parents[2]


def folder_with(tmp_path: Path, *files: str) -> Path:
    folder = tmp_path / "migrations"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, sql in enumerate(files, 1):
        (folder / f"{number:04d}_step{number}.sql").write_text(sql)
    return folder


def opened(tmp_path: Path, newest: int = 9) -> apsw.Connection:
    return open_database(tmp_path / "ambient.db", clock=StillClock(), busy_timeout=1, newest=newest)


def tables(connection: apsw.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def known(tmp_path: Path, *files: str) -> tuple[Migration, ...]:
    return known_migrations(folder_with(tmp_path, *files))


def test_each_migration_is_applied_once_and_recorded(tmp_path: Path) -> None:
    connection = opened(tmp_path)
    steps = ("CREATE TABLE a (x); INSERT INTO a VALUES (1);", "CREATE TABLE b (x);")
    assert [step.version for step in migrate(connection, known(tmp_path, steps[0]), StillClock())] == [1]
    assert [step.version for step in migrate(connection, known(tmp_path, *steps), StillClock())] == [2]
    assert migrate(connection, known(tmp_path, *steps), StillClock()) == []
    assert [row.version for row in applied_migrations(connection)] == [1, 2]
    assert connection.execute("SELECT count(*) FROM a").get == 1
    assert connection.execute("SELECT count(*) FROM schema_migrations_lock").get == 0
    connection.close()


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE b (x); INSERT INTO a VALUES (2); CREATE TABLE b (x);",
        "CREATE TABLE b (x); INSERT INTO a VALUES (2); no sql at all",
        "CREATE TABLE b (x); INSERT INTO a VALUES (2); COMMIT; SELECT nothing;",
        "CREATE TABLE b (x); INSERT INTO a VALUES (2); ROLLBACK;",
        "CREATE TABLE b (x); INSERT INTO a VALUES (2); SAVEPOINT s;",
        "CREATE TABLE b (x REFERENCES a (x)); INSERT INTO a VALUES (2); INSERT INTO b VALUES (77);",
    ],
)
def test_a_migration_that_fails_in_its_middle_leaves_the_schema_as_before(
    tmp_path: Path, broken: str
) -> None:
    connection = opened(tmp_path)
    first = "CREATE TABLE a (x PRIMARY KEY); INSERT INTO a VALUES (1);"
    migrate(connection, known(tmp_path, first), StillClock())
    before = picture(connection)
    with pytest.raises(StoreError, match="0002_step2"):
        migrate(connection, known(tmp_path, first, broken), StillClock())
    assert picture(connection) == before
    assert connection.execute("SELECT x FROM a").fetchall() == [(1,)]
    assert [row.version for row in applied_migrations(connection)] == [1]
    assert connection.execute("SELECT count(*) FROM schema_migrations_lock").get == 0
    assert not connection.in_transaction
    mended = known(tmp_path, first, "CREATE TABLE b (x);")
    assert [step.version for step in migrate(connection, mended, StillClock())] == [2]
    connection.close()


def test_an_edited_migration_is_refused(tmp_path: Path) -> None:
    connection = opened(tmp_path)
    migrate(connection, known(tmp_path, "CREATE TABLE a (x);"), StillClock())
    with pytest.raises(StoreError, match="was edited"):
        migrate(connection, known(tmp_path, "CREATE TABLE a (y);"), StillClock())
    connection.close()


def test_a_lock_of_a_living_process_is_respected_and_a_dead_ones_taken(tmp_path: Path) -> None:
    connection = opened(tmp_path)
    migrate(connection, known(tmp_path, "CREATE TABLE a (x);"), StillClock())
    both = known(tmp_path, "CREATE TABLE a (x);", "CREATE TABLE b (x);")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = subprocess.Popen(["sleep", "60"])
    try:
        started = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        lock = "INSERT OR REPLACE INTO schema_migrations_lock VALUES (1, ?, ?, ?, 'now')"
        connection.execute(lock, (other.pid, started, boot))
        with pytest.raises(StoreBusyError, match=str(other.pid)):
            migrate(connection, both, StillClock())
        assert "b" not in tables(connection)
        connection.execute(lock, (other.pid, started, "another boot"))
        assert [step.version for step in migrate(connection, both, StillClock())] == [2]
        connection.execute(lock, (other.pid, "1", boot))  # the number has gone to another process since
        three = known(tmp_path, "CREATE TABLE a (x);", "CREATE TABLE b (x);", "CREATE TABLE c (x);")
        assert [step.version for step in migrate(connection, three, StillClock())] == [3]
    finally:
        other.kill()
        other.wait()
    connection.close()


MIGRATOR = """
import sys
from pathlib import Path
from ambientd.host.clock import SystemClock
from ambientd.main.migrate import apply
view = apply(Path(sys.argv[1]), clock=SystemClock(), folder=Path(sys.argv[2]))
print(view.current)
"""


def migrator(tmp_path: Path, folder: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", MIGRATOR, str(tmp_path / "ambient.db"), str(folder)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SLOW = (
    "CREATE TABLE filled AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 400000)"
    " SELECT i FROM n; INSERT INTO log VALUES (2);"
)


def test_two_migrators_at_once_apply_each_migration_once(tmp_path: Path) -> None:
    steps = ["CREATE TABLE log (x); INSERT INTO log VALUES (1);", SLOW]
    steps += [f"CREATE TABLE t{n} (x); INSERT INTO log VALUES ({n});" for n in range(3, 8)]  # noqa: S608 - a number
    folder = folder_with(tmp_path, *steps)
    opened(tmp_path).close()
    both = [migrator(tmp_path, folder) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, "7"), err
    connection = opened(tmp_path)
    assert [x for (x,) in connection.execute("SELECT x FROM log")] == [1, 2, 3, 4, 5, 6, 7]
    connection.close()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_a_killed_migrator_leaves_the_old_schema_or_the_new_and_the_next_goes_on(
    tmp_path: Path, delay: float
) -> None:
    endless = SLOW.replace("400000", "100000000")
    first = "CREATE TABLE log (x); INSERT INTO log VALUES (1);"
    folder = folder_with(tmp_path, first, endless)
    opened(tmp_path).close()
    process = migrator(tmp_path, folder)
    watch = apsw.Connection(str(tmp_path / "ambient.db"), flags=apsw.SQLITE_OPEN_READONLY)
    for _ in range(2000):
        if applied_migrations(watch):
            break
        signal.sigtimedwait([], 0.01)
    signal.sigtimedwait([], delay)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    watch.close()
    connection = opened(tmp_path)
    assert connection.execute("SELECT owner_pid FROM schema_migrations_lock").get == process.pid
    assert [row.version for row in applied_migrations(connection)] == [1]
    assert "filled" not in tables(connection)
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    migrate(connection, known(tmp_path, first, SLOW), StillClock())
    assert [x for (x,) in connection.execute("SELECT x FROM log")] == [1, 2]
    connection.close()


def test_no_script_is_ever_run_that_commits_first() -> None:
    for source in (ROOT / "ambientd").rglob("*.py"):
        assert "executescript" not in source.read_text(), source


def test_the_files_of_this_tree_are_numbered_and_never_end_a_transaction(tmp_path: Path) -> None:
    connection = opened(tmp_path)
    files = known_migrations(default_folder())
    assert [step.version for step in migrate(connection, files, StillClock())] == list(
        range(1, len(files) + 1)
    )
    assert files[0].name == "0001_init"
    connection.close()


def test_a_folder_without_readable_migrations_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        known_migrations(tmp_path / "nowhere")
    (tmp_path / "0001_bad.sql").write_bytes(b"\xff")
    with pytest.raises(StoreError, match="cannot be read"):
        known_migrations(tmp_path)


def test_the_holder_of_the_lock_is_told_from_a_process_of_the_same_number() -> None:
    mine = runner._start_time(os.getpid())
    assert mine is not None
    assert runner._is_alive(os.getpid(), mine, runner._boot_id())
    assert not runner._is_alive(os.getpid(), "0", runner._boot_id())
    assert not runner._is_alive(2**22 + 1, mine, runner._boot_id())
