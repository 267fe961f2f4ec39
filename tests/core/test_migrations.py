import pytest

from ambientd.core.migrations import AppliedMigration, Migration, Refusal, parse_migration, plan


def file(version: int, sql: str = "SELECT 1;") -> Migration:
    found = parse_migration(f"{version:04d}_step.sql", sql.encode())
    assert found is not None
    return found


def row(migration: Migration) -> AppliedMigration:
    return AppliedMigration(migration.version, migration.name, migration.checksum, "2026-01-01T00:00:00.000Z")


KNOWN = (file(1, "CREATE TABLE a (x);"), file(2, "CREATE TABLE b (x);"), file(3, "CREATE TABLE c (x);"))


@pytest.mark.parametrize("count", range(4))
def test_what_is_missing_is_planned_in_order(count: int) -> None:
    applied = [row(migration) for migration in KNOWN[:count]]
    assert plan(applied[::-1], KNOWN[::-1]) == KNOWN[count:]


def test_a_newer_schema_is_refused() -> None:
    verdict = plan([*map(row, KNOWN), row(file(9999))], KNOWN)
    assert isinstance(verdict, Refusal)
    assert "schema 9999" in verdict.reason


def test_one_changed_byte_is_refused() -> None:
    verdict = plan([row(KNOWN[0]), row(file(2, "CREATE TABLE b (y);"))], KNOWN)
    assert isinstance(verdict, Refusal)
    assert "0002_step was edited" in verdict.reason


def test_a_gap_in_what_was_applied_is_refused() -> None:
    verdict = plan([row(KNOWN[0]), row(KNOWN[2])], KNOWN)
    assert isinstance(verdict, Refusal)
    assert "migration 2 was never applied" in verdict.reason


@pytest.mark.parametrize("versions", [(2,), (1, 3), (1, 2, 2)])
def test_files_must_be_numbered_without_gap_or_double(versions: tuple[int, ...]) -> None:
    assert isinstance(plan([], [file(version) for version in versions]), Refusal)


@pytest.mark.parametrize(
    "name", ["schema.sql", "1_init.sql", "0001-init.sql", "0001_init.sql.orig", "0001_.sql"]
)
def test_other_files_are_no_migrations(name: str) -> None:
    assert parse_migration(name, b"") is None


def test_bytes_that_are_no_text_are_an_error() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        parse_migration("0001_init.sql", b"\xff")
