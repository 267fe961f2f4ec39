"""`ambientd migrate [--status] [--json]`: applies or lists the schema's migrations.

The caller holds the state lock: no daemon uses the database meanwhile.
"""

import argparse
import sys
import threading
from pathlib import Path

import msgspec

from ambientd.host.clock import SystemClock
from ambientd.ports.clock import Clock
from ambientd.ports.errors import StoreBusyError, StoreError, UnavailableError
from ambientd.store.schema import MigrationStatus, apply_migrations, migration_status
from ambientd.wire import exits
from ambientd.wire.messages import MigrationRow, MigrationsView
from ambientd.wire.routes import SCHEMA_MIGRATIONS

# Another process that migrates is waited for this long, in seconds.
WAIT = 30.0
_WAIT_STEP = 0.2


def status(database: Path, *, folder: Path | None = None) -> MigrationsView:
    """Every known migration and when it was applied; a database that is not there has none.

    Changes nothing. Raises StoreError when the file or the migrations cannot be read.
    """
    return _view(migration_status(database, folder=folder))


def apply(database: Path, *, clock: Clock, folder: Path | None = None, wait: float = WAIT) -> MigrationsView:
    """Makes the database if there is none and applies what is missing; returns what then is applied.

    Raises StoreError (refused, or a migration failed), StoreFullError, and StoreBusyError when another
    process still holds the database after `wait` seconds.
    """
    give_up = clock.monotonic() + wait
    pause = threading.Event()
    while True:
        try:
            return _view(apply_migrations(database, clock=clock, folder=folder))
        except StoreBusyError:
            if clock.monotonic() >= give_up:
                raise
            pause.wait(_WAIT_STEP)


def run(argv: list[str], *, database: Path) -> int:
    """The verb: returns its exit code; answers on stdout, problems on stderr."""
    parser = argparse.ArgumentParser(prog="ambientd migrate", description="Apply or list schema migrations.")
    parser.add_argument("--status", action="store_true", help="list the migrations, change nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(argv)
    try:
        view = status(database) if chosen.status else apply(database, clock=SystemClock())
    except (StoreError, UnavailableError) as error:
        print(f"ambientd migrate: {error}", file=sys.stderr)
        return exits.STORAGE
    print(msgspec.json.encode(view).decode() if chosen.json else _table(view))
    return exits.DONE


def _view(found: MigrationStatus) -> MigrationsView:
    applied = {row.version: row for row in found.applied}
    names = {row.version: row.name for row in found.applied}
    names.update({migration.version: migration.name for migration in found.known})
    return MigrationsView(
        schema=SCHEMA_MIGRATIONS,
        current=max(applied, default=0),
        known=len(found.known),
        migrations=[
            MigrationRow(
                version=version,
                name=name,
                applied_at=applied[version].applied_at if version in applied else None,
            )
            for version, name in sorted(names.items())
        ],
    )


def _table(view: MigrationsView) -> str:
    lines = [f"schema {view.current} of {view.known}"]
    lines += [f"  {row.name:32} {row.applied_at or 'not applied'}" for row in view.migrations]
    return "\n".join(lines)
