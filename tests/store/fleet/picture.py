"""The PostgreSQL schema as text, from its catalogue: what its `schema.sql` shows.

Written by `python -m tests.store.fleet.picture` (from the repository's root).
"""

from pathlib import Path
from typing import Any

import psycopg

from ambientd.host.clock import SystemClock
from ambientd.store.fleet.postgresql_migrate import migrate
from ambientd.store.migrate import default_folder, known_migrations
from ambientd.store.migrate import migrate as migrate_sqlite
from ambientd.store.migrate import picture as sqlite_picture
from tests.pgkit import started

NOTE = "-- The schema after all migrations: a picture, tested against them. Never executed.\n\n"
OURS = "public"
_TABLES = (
    "SELECT c.oid, c.relname, c.reloptions FROM pg_class AS c"
    " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY c.relname"
)
_COLUMNS = (
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), l.collname, a.attnotnull, a.attidentity,"
    " pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute AS a"
    " LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
    " LEFT JOIN pg_collation AS l ON l.oid = a.attcollation AND l.collname <> 'default'"
    " WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)
_CONSTRAINTS = (
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s AND contype <> 'n'"
    " ORDER BY contype, conname"
)
_INDEXES = (
    "SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
    " WHERE i.indrelid = %s AND NOT EXISTS (SELECT 1 FROM pg_constraint AS k WHERE k.conindid = i.indexrelid"
    " AND k.contype IN ('p', 'u')) ORDER BY c.relname"
)
_TRIGGERS = (
    "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %s AND NOT tgisinternal ORDER BY tgname"
)
_FUNCTIONS = (
    "SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
    " WHERE n.nspname = 'public' ORDER BY p.proname"
)


def _column(row: tuple[Any, ...]) -> str:
    name, kind, collation, required, identity, default = row
    parts = [f"    {name} {kind}"]
    if collation:
        parts.append(f'COLLATE "{collation}"')
    if required:
        parts.append("NOT NULL")
    if identity:
        parts.append("GENERATED ALWAYS AS IDENTITY")
    if default is not None:
        parts.append(f"DEFAULT {default}")
    return " ".join(parts)


def postgresql_picture(connection: "psycopg.Connection[Any]") -> str:
    """Tables with their columns, constraints, indexes and triggers, then functions; all by name."""
    parts = []
    for oid, name, options in connection.execute(_TABLES).fetchall():
        lines = [_column(row) for row in connection.execute(_COLUMNS, (oid,))]
        lines += [f"    CONSTRAINT {row[0]} {row[1]}" for row in connection.execute(_CONSTRAINTS, (oid,))]
        end = f") WITH ({', '.join(options)});" if options else ");"
        parts.append(f"CREATE TABLE {name} (\n" + ",\n".join(lines) + f"\n{end}")
        for query in (_INDEXES, _TRIGGERS):
            parts += [
                f"{row[0].replace(f' {OURS}.', ' ')};" for row in connection.execute(query.encode(), (oid,))
            ]
    parts += [f"{row[0].strip()};" for row in connection.execute(_FUNCTIONS)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Writes both pictures."""
    import apsw

    root = Path("migrations/control_plane")
    memory = apsw.Connection(":memory:")
    migrate_sqlite(memory, known_migrations(default_folder("control_plane/sqlite")), SystemClock())
    (root / "sqlite" / "schema.sql").write_text(NOTE + sqlite_picture(memory))
    server = started()
    try:
        with psycopg.connect(server.address(server.new_database()), autocommit=True) as connection:
            known = known_migrations(default_folder("control_plane/postgresql"))
            migrate(connection, known, SystemClock())
            (root / "postgresql" / "schema.sql").write_text(NOTE + postgresql_picture(connection))
    finally:
        server.remove()


if __name__ == "__main__":
    main()
