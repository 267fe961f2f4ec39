import json
from pathlib import Path

import apsw
import pytest

from ambientd.main.migrate import apply, run, status
from ambientd.ports.errors import StoreBusyError, StoreError
from ambientd.store.migrate import default_folder
from ambientd.wire import exits
from tests.store.kit import StillClock


class StrollingClock(StillClock):
    """Each look at it takes a second."""

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


def test_status_lists_what_is_missing_and_makes_nothing(tmp_path: Path) -> None:
    view = status(tmp_path / "ambient.db")
    assert (view.current, view.known) == (0, len(view.migrations))
    assert view.migrations[0].name == "0001_init"
    assert view.migrations[0].applied_at is None
    assert list(tmp_path.iterdir()) == []


def test_apply_makes_the_database_and_status_then_says_when(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    view = apply(path, clock=StillClock())
    assert view.current == view.known
    assert view.migrations[0].applied_at == "2026-11-20T12:00:00.000Z"
    assert status(path) == view
    assert apply(path, clock=StillClock()) == view


def test_the_verb_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ambient.db"
    assert run(["--status"], database=path) == exits.DONE
    assert "0001_init" in capsys.readouterr().out
    assert run([], database=path) == exits.DONE
    newest = len(list(default_folder().glob("[0-9]*.sql")))
    assert capsys.readouterr().out.startswith(f"schema {newest} of {newest}\n  0001_init")
    assert run(["--status", "--json"], database=path) == exits.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "ambient.migrations/1"
    assert answer["migrations"][0]["appliedAt"].endswith("Z")


def test_a_refusal_is_a_storage_problem_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ambient.db"
    apply(path, clock=StillClock())
    db = apsw.Connection(str(path))
    db.execute("INSERT INTO schema_migrations VALUES (9999, '9999_later', 'x', 'x')")
    db.close()
    assert run([], database=path) == exits.STORAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "schema 9999, newer" in captured.err
    assert captured.err.count("\n") == 1
    assert run(["--status"], database=path) == exits.DONE
    assert "9999_later" in capsys.readouterr().out


def test_a_file_that_is_no_database_is_a_store_error_for_status(tmp_path: Path) -> None:
    (tmp_path / "ambient.db").write_bytes(b"x" * 5000)
    with pytest.raises(StoreError, match="damaged"):
        status(tmp_path / "ambient.db")


def test_a_held_database_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    apply(path, clock=StillClock())
    other = apsw.Connection(str(path))
    other.execute("DELETE FROM schema_migrations")
    other.execute("INSERT INTO schema_migrations_lock SELECT 1, ?, ?, ?, 'now'", _holder())
    with pytest.raises(StoreBusyError, match="is migrating"):
        apply(path, clock=StrollingClock(), wait=2)
    other.close()


def _holder() -> tuple[int, str, str]:
    """Process 1 lives for as long as this test does."""
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    return 1, started, Path("/proc/sys/kernel/random/boot_id").read_text().strip()
