"""Which schema migrations must run, and when they must not (specification 9.2.3)."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

_FILE_NAME = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql")


class Migration(NamedTuple):
    """One numbered file; `checksum` is the SHA-256 of its bytes, in hexadecimal."""

    version: int
    name: str
    checksum: str
    sql: str


class AppliedMigration(NamedTuple):
    """One row of `schema_migrations`; `applied_at` is RFC 3339."""

    version: int
    name: str
    checksum: str
    applied_at: str


class Refusal(NamedTuple):
    """The schema must not be touched; `reason` is a sentence for the operator."""

    reason: str


def parse_migration(file_name: str, content: bytes) -> Migration | None:
    """The migration in a file, None when the name is not `0001_name.sql`.

    Raises ValueError for bytes that are not UTF-8.
    """
    found = _FILE_NAME.fullmatch(file_name)
    if found is None:
        return None
    return Migration(
        version=int(found[1]),
        name=f"{found[1]}_{found[2]}",
        checksum=hashlib.sha256(content).hexdigest(),
        sql=content.decode(),
    )


def plan(applied: Sequence[AppliedMigration], known: Sequence[Migration]) -> tuple[Migration, ...] | Refusal:
    """The migrations still to run, in order, or why none may run (R3.138, R3.139).

    Neither argument need be sorted. The known ones must be numbered 1, 2, 3 … without a gap, and what was
    applied must be a beginning of them, byte for byte.
    """
    files = sorted(known)
    rows = sorted(applied)
    numbers = [migration.version for migration in files]
    if numbers != list(range(1, len(files) + 1)):
        return Refusal(f"the migration files are not numbered 1, 2, 3 …: {numbers}")
    newest = rows[-1].version if rows else 0
    if newest > len(files):
        return Refusal(
            f"the database has schema {newest}, newer than this program's {len(files)}; use a newer program"
        )
    for row, migration in zip(rows, files, strict=False):
        if row.version != migration.version:
            return Refusal(f"migration {migration.version} was never applied but a later one was")
        if row.checksum != migration.checksum:
            return Refusal(f"migration {migration.name} was edited after it was applied to this database")
    return tuple(files[len(rows) :])
