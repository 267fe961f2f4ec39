"""`ambientd backup FILE` and `ambientd restore FILE`: the state of a node as one file, and back (R3.149)."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from ambientd import __version__
from ambientd.core.backup import CONFIG_FOLDER, DATABASE, IDENTITY, Manifest
from ambientd.core.checkpoint import parse_note
from ambientd.flows.audit import restored_entry
from ambientd.flows.backup import Backups, Image, make_backup
from ambientd.host import statelock
from ambientd.host.backup_file import BackupError, BackupReader, open_backup, write_whole
from ambientd.host.backup_place import DiskBackupPlace
from ambientd.host.backup_sources import configuration_members, identity_key
from ambientd.host.checkpoint_file import NAME, read_checkpoint
from ambientd.host.clock import SystemClock
from ambientd.host.config_files import read_files
from ambientd.main.config_print import complain, print_json
from ambientd.main.progress import Progress
from ambientd.ports.errors import StoreError, StoreFullError, UnavailableError
from ambientd.store.idle import append_audit
from ambientd.store.restore import newest_schema, put_in_place
from ambientd.store.snapshot import IdleSnapshots, check_database, remove_database
from ambientd.wire import exits, places

_CLOCK = SystemClock()
_BACKUP = """\
Writes the database, checked, and the configuration into one tar file (0600), for a node whose daemon does
not run. While it runs: ambientctl backup FILE.
"""

_RESTORE = """\
Checks a backup wholly, sets the database that is there aside, and puts the backup's in its place. The daemon
must not run. The configuration stays as it is; --config-to unpacks the backup's beside it.
"""

_RESTORE_MORE = """\
example, going back to a snapshot with the program that made it:
  systemctl stop ambientd
  sudo -u ambient ambientd restore /var/backups/ambient.tar --yes
  systemctl start ambientd

exit codes: 0 done, 1 failed, 2 a question that nobody can answer (say --yes), 6 refused, 74 storage or a
damaged backup, 75 a daemon holds the state
"""


def run_backup(argv: Sequence[str]) -> int:
    """The verb `backup`; returns its exit code."""
    parser = _parser("backup", _BACKUP)
    parser.add_argument("--with-identity", action="store_true", help="the node's identity key as well")
    parser.add_argument("--force", action="store_true", help="replace a FILE that is there")
    return _guarded(parser, argv, _backup)


def run_restore(argv: Sequence[str]) -> int:
    """The verb `restore`; returns its exit code."""
    parser = _parser("restore", _RESTORE, _RESTORE_MORE)
    parser.add_argument("--yes", action="store_true", help="do not ask before a database is set aside")
    parser.add_argument("--check", action="store_true", help="only check the backup")
    parser.add_argument("--config-to", metavar="DIR", help="unpack the configuration into a new folder")
    parser.add_argument("--with-identity", action="store_true", help="the identity key too, if none is there")
    return _guarded(parser, argv, _restore)


def _parser(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"ambientd {name}",
        description=text,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--config", metavar="FILE", help="the main configuration file")
    parser.add_argument("--state-dir", metavar="DIR", help="the state directory")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    return parser


class _Place:
    """Where the node's state is."""

    def __init__(self, options: argparse.Namespace) -> None:
        named = {places.ENV_CONFIG: options.config, places.ENV_STATE: options.state_dir}
        self.environ: Mapping[str, str] = {**os.environ, **{k: v for k, v in named.items() if v}}
        self.state_dir = Path(os.path.abspath(places.state_dir(self.environ, os.getuid())))
        self.database = self.state_dir / (self.environ.get(places.ENV_DATABASE) or places.DATABASE_NAME)


def _guarded(
    parser: argparse.ArgumentParser, argv: Sequence[str], run: Callable[[argparse.Namespace], int]
) -> int:
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
    os.umask(0o077)
    try:
        return run(options)
    except statelock.StateLockedError as error:
        other = "ambientctl backup FILE asks it" if parser.prog.endswith("backup") else "stop it first"
        complain(f"Error: {error} A daemon works there: {other}.")
        return exits.LOCKED
    except BackupError as error:
        complain(f"Error: {options.file} cannot be used: {error}.")
    except StoreFullError as error:
        complain(f"Error: {error}.")
    except (StoreError, UnavailableError, statelock.StateDirError) as error:
        complain(f"Error: {error}")
    except OSError as error:
        complain(f"Error: {error.filename or options.file}: {(error.strerror or str(error)).lower()}.")
        return exits.STORAGE if error.errno in (errno.ENOSPC, errno.EDQUOT) else exits.FAILED
    return exits.STORAGE


def _backup(options: argparse.Namespace) -> int:
    place = _Place(options)
    if os.path.lexists(options.file) and not options.force:
        complain(f"Error: {options.file} is there already; --force replaces it.")
        return exits.FAILED
    progress = Progress()
    with statelock.acquire(str(place.state_dir), _CLOCK.now(), database=place.database):
        image = trio.run(_make, place, options.with_identity, progress)
        try:
            write_whole(
                options.file, read=image.read, size=image.size, replace=options.force, progress=progress
            )
        finally:
            image.close()
    with open_backup(options.file) as reader:
        reader.check(progress)
    progress.end()
    if options.with_identity and image.manifest.member(IDENTITY) is None:
        complain("Note: this node has no identity key yet; the backup holds none.")
    return _tell(options, "backup", image.manifest, size=image.size)


async def _make(place: _Place, with_identity: bool, progress: Progress) -> Image:
    backups = Backups(
        snapshots=IdleSnapshots(place.database),
        place=DiskBackupPlace(place.state_dir),
        clock=_CLOCK,
        version=__version__,
        configuration=lambda: configuration_members(read_files(place.environ, os.getuid())),
        identity=lambda: identity_key(place.state_dir),
    )
    return await make_backup(backups, with_identity=with_identity, progress=progress)


def _restore(options: argparse.Namespace) -> int:
    place = _Place(options)
    progress = Progress()
    with open_backup(options.file) as reader:
        newest = newest_schema()
        if reader.manifest.schema_version > newest:
            known = f"schema {reader.manifest.schema_version}, this program knows {newest}"
            complain(f"Error: {options.file} comes from a newer program ({known}).")
            return exits.WRONG_STATE
        if options.check:
            reader.check(progress)
            progress.end()
            return _tell(options, "restore", reader.manifest, checked=True)
        with statelock.acquire(str(place.state_dir), _CLOCK.now(), database=place.database):
            return _put_back(options, place, reader, progress)


def _put_back(options: argparse.Namespace, place: _Place, reader: BackupReader, progress: Progress) -> int:
    refused = _refusal(options, place, reader)
    if refused is not None:
        return refused
    reader.check(progress)
    new = place.database.with_name(place.database.name + ".restoring")
    remove_database(new)
    try:
        reader.extract(DATABASE, str(new), progress)
        facts = check_database(new, progress)
        if dict(facts.counts) != reader.manifest.counts:
            raise BackupError("its database does not hold the rows that its manifest counts")
        if options.config_to:
            unpack_configuration(reader, options.config_to)
        if options.with_identity and reader.manifest.member(IDENTITY) is not None:
            _put_identity(reader, place.state_dir / IDENTITY)
        _record(new, reader.manifest, place)
        kept = put_in_place(new, place.database, _CLOCK.now())
    finally:
        remove_database(new)
    progress.end()
    return _tell(options, "restore", reader.manifest, kept=None if kept is None else str(kept))


def _refusal(options: argparse.Namespace, place: _Place, reader: BackupReader) -> int | None:
    """What speaks against beginning: told, as an exit code. None when nothing does."""
    if options.config_to and os.path.lexists(options.config_to):
        complain(f"Error: {options.config_to} is there already; name a new folder.")
        return exits.FAILED
    key = place.state_dir / IDENTITY
    wanted = options.with_identity and reader.manifest.member(IDENTITY) is not None
    if wanted and key.exists() and key.read_bytes() != reader.content(IDENTITY):
        complain(f"Error: {key} is another identity. Move it away first if it is to be replaced.")
        return exits.WRONG_STATE
    if not place.database.exists() or options.yes:
        return None
    return _ask(place.database, reader.manifest)


def _ask(database: Path, manifest: Manifest) -> int | None:
    sessions = manifest.counts.get("session_ledger", 0)
    complain(f"Backup    made {manifest.made_at} by {manifest.version}, {sessions:,} sessions")
    complain(f"Database  {database} will be set aside; it is not deleted.")
    if not sys.stdin.isatty():
        complain("Error: a database is there. Say --yes to set it aside.")
        return exits.USAGE
    print("Put the backup in its place? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return None
    complain("Nothing was changed.")
    return exits.FAILED


def _record(new: Path, manifest: Manifest, place: _Place) -> None:
    """The older chain says that it was put back, and which head it takes the place of: the checkpoint of that
    one stays where it is until the daemon has read this, so a crash on the way is told as a break."""
    signed = parse_note(read_checkpoint(place.state_dir / NAME) or "")
    entry = restored_entry(
        at=_CLOCK.now(),
        actor=f"uid:{os.getuid()}",
        made_at=manifest.made_at,
        records=manifest.counts.get("audit_records", 0),
        former=None if signed is None else signed.checkpoint,
    )
    append_audit(new, entry, _CLOCK)


def unpack_configuration(reader: BackupReader, folder: str) -> None:
    """Writes a backup's configuration into a new folder. Raises OSError, BackupError."""
    os.mkdir(folder, 0o700)
    for member in reader.manifest.members:
        if not member.name.startswith(CONFIG_FOLDER):
            continue
        target = os.path.join(folder, member.name.removeprefix(CONFIG_FOLDER))
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(target), 0o700)
        reader.extract(member.name, target, lambda *_: None)


def _put_identity(reader: BackupReader, key: Path) -> None:
    with suppress(FileExistsError):  # compared before: it is the same
        reader.extract(IDENTITY, str(key), lambda *_: None)


def _tell(options: argparse.Namespace, name: str, manifest: Manifest, **more: Any) -> int:
    files = [member.name for member in manifest.members]
    if options.json:
        print_json(
            name,
            file=os.path.abspath(options.file),
            madeAt=manifest.made_at,
            schemaVersion=manifest.schema_version,
            counts=manifest.counts,
            files=files,
            **more,
        )
        return exits.DONE
    sessions = manifest.counts.get("session_ledger", 0)
    done = {"backup": "Wrote", "restore": "Restored"}[name] if not more.get("checked") else "Good:"
    print(f"{done} {options.file}: {sessions:,} sessions, schema {manifest.schema_version}, made", end=" ")
    print(f"{manifest.made_at}, {len(files)} file{'s' * (len(files) != 1)}, checked.")
    if more.get("kept"):
        print(f"The old database is kept as {more['kept']}")
    return exits.DONE
