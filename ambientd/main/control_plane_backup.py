"""`ambientd control-plane backup FILE` and `ambientd control-plane restore FILE`."""

import argparse
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from ambientd import __version__
from ambientd.app.control_plane import DatabasePlace, build_store
from ambientd.config.schema import Config
from ambientd.core.backup import FLEET_FORMAT, SECRETS_FOLDER, Manifest
from ambientd.core.fleet.secrets import SecretName
from ambientd.flows.backup import Backups, Image, make_backup
from ambientd.flows.fleet.putback import note_put_back
from ambientd.host import statelock
from ambientd.host.backup_file import BackupError, BackupReader, open_backup, write_whole
from ambientd.host.backup_place import DiskBackupPlace
from ambientd.host.backup_sources import configuration_members
from ambientd.host.clock import SystemClock
from ambientd.host.config_files import read_files
from ambientd.host.fleet_secrets import FOLDER
from ambientd.host.issuer_keys import LEASE_KEY, POLICY_KEY
from ambientd.host.private_file import make_private
from ambientd.main.backup import unpack_configuration
from ambientd.main.config_print import complain, print_json, print_problems
from ambientd.main.fleet_start import (
    add_options,
    database_of,
    environment_of,
    find_all,
    given_of,
    lacks_driver,
    load_config,
    state_dir_of,
)
from ambientd.main.progress import Progress
from ambientd.ports.backup import ExtraFile
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.store.fleet.idle import newest_fleet_schema, write_idle
from ambientd.store.restore import put_in_place
from ambientd.store.snapshot import IdleSnapshots, check_database, remove_database
from ambientd.wire import exits

_CLOCK = SystemClock()
_SECRETS = (*(name.value for name in SecretName), POLICY_KEY, LEASE_KEY)
_BACKUP = """\
Writes one instant of the control plane's database, checked, and its configuration into one tar file (0600),
also while it runs. Its secrets are files of their own: without them the tokens in the database are worth
nothing. --with-secrets puts them into the file; keep it as you keep them.

With PostgreSQL, pg_dump makes the copy; the command is printed.
"""
_BACKUP_MORE = """\
examples:
  ambientd control-plane backup /var/backups/fleet.tar
  ambientd control-plane backup /var/backups/fleet.tar --with-secrets

exit codes: 0 done, 1 failed, 6 the data lie in PostgreSQL, 74 storage, 75 another backup is being made
"""
_RESTORE = """\
Checks a backup wholly, sets the database that is there aside, and puts the backup's in its place. The control
plane must not run. What it was told since the backup comes again from the nodes, as far as they still have
it; accounts, nodes, tasks, policies and leases that were added since are gone.

With PostgreSQL, pg_restore brings the copy in; `restore --mark` then says in the database that it is an older
one, without which nodes would miss policies that are added afterwards.
"""
_RESTORE_MORE = """\
examples:
  systemctl stop ambient-control-plane
  sudo -u ambient-control-plane ambientd control-plane restore /var/backups/fleet.tar --yes \\
      --config /etc/ambient-control-plane/ambient.toml --state-dir /var/lib/ambient-control-plane
  systemctl start ambient-control-plane

  ambientd control-plane restore FILE --check       only checks the file
  ambientd control-plane restore --mark             after pg_restore

exit codes: 0 done, 1 failed, 2 a question that nobody can answer (say --yes), 6 refused, 74 storage or a
damaged backup, 75 a control plane holds the state
"""


class _StopError(Exception):
    """The verb ends with this exit code; `sentences` say why."""

    def __init__(self, code: int, *sentences: str) -> None:
        super().__init__(*sentences)
        self.code = code
        self.sentences = sentences


class _Here(NamedTuple):
    """Where this control plane is."""

    config: Config
    environ: Mapping[str, str]
    state_dir: Path
    place: DatabasePlace
    file_of_config: str | None

    @property
    def file(self) -> Path:
        """The embedded database; only asked where it is one."""
        if self.place.file is None:
            raise ValueError("the data lie in PostgreSQL")
        return self.place.file


def run_backup(argv: Sequence[str]) -> int:
    """The verb `backup`; returns its exit code."""
    parser = _parser("backup", _BACKUP, _BACKUP_MORE)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--with-secrets", action="store_true", help="the secrets and signing keys as well")
    return _guarded(parser, argv, _backup)


def run_restore(argv: Sequence[str]) -> int:
    """The verb `restore`; returns its exit code."""
    parser = _parser("restore", _RESTORE, _RESTORE_MORE)
    parser.add_argument("file", metavar="FILE", nargs="?")
    parser.add_argument("--yes", action="store_true", help="do not ask before a database is set aside")
    parser.add_argument("--check", action="store_true", help="only check the backup")
    parser.add_argument("--config-to", metavar="DIR", help="unpack the configuration into a new folder")
    parser.add_argument("--with-secrets", action="store_true", help="the secrets too, where there are none")
    parser.add_argument(
        "--mark", action="store_true", help="only say in the database that it is an older one"
    )
    return _guarded(parser, argv, _restore)


def _parser(name: str, text: str, more: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"ambientd control-plane {name}",
        description=text,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    return parser


def _guarded(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    run: Callable[[argparse.Namespace, _Here], int],
) -> int:
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
    os.umask(0o077)
    try:
        return run(options, _here(options))
    except _StopError as error:
        for sentence in error.sentences:
            complain(f"Error: {sentence}")
        return error.code
    except statelock.StateLockedError as error:
        complain(f"Error: {error} Stop it first.")
        return exits.LOCKED
    except BackupError as error:
        complain(f"Error: {options.file} cannot be used: {error}.")
    except (StoreError, UnavailableError, statelock.StateDirError) as error:
        complain(f"Error: {error}")
    except OSError as error:
        complain(f"Error: {error.filename or options.file}: {(error.strerror or str(error)).lower()}.")
        return exits.STORAGE if error.errno in (errno.ENOSPC, errno.EDQUOT) else exits.FAILED
    return exits.STORAGE


def _here(options: argparse.Namespace) -> _Here:
    given = given_of(options)
    environ = environment_of(given, os.environ)
    loaded = load_config(given, environ)
    if loaded.config is None:
        print_problems(loaded.problems)
        raise _StopError(exits.CONFIG)
    state_dir = state_dir_of(environ)
    return _Here(loaded.config, environ, state_dir, database_of(loaded.config, state_dir, None), given.config)


# --- backup


def _backup(options: argparse.Namespace, here: _Here) -> int:
    if here.place.address is not None:
        complain("Error: the data lie in PostgreSQL (server.database): its own program makes the copy.")
        complain(f"  pg_dump --format=custom --file={options.file} '{here.place.address}'")
        complain("And back, with every control plane stopped:")
        back = "pg_restore --clean --if-exists --single-transaction"
        complain(f"  {back} --dbname='{here.place.address}' {options.file}")
        complain("  ambientd control-plane restore --mark")
        return exits.WRONG_STATE
    if os.path.lexists(options.file):
        raise _StopError(exits.FAILED, f"{options.file} is there already; name another file.")
    if not here.file.exists():
        raise _StopError(exits.STORAGE, f"there is no database at {here.file}")
    statelock.prepare(str(here.state_dir))  # nobody else's files are left beside the database
    progress = Progress()
    with _alone(here.state_dir):
        image = trio.run(_make, here, options.with_secrets, progress)
        try:
            write_whole(options.file, read=image.read, size=image.size, replace=False, progress=progress)
        finally:
            image.close()
    with open_backup(options.file, FLEET_FORMAT) as reader:
        reader.check(progress)
    progress.end()
    return _tell(options, "control-plane-backup", image.manifest, size=image.size)


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """One backup at a time: each takes the other's copy for something that a crash left."""
    fd = os.open(state_dir / "backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _StopError(exits.LOCKED, "another backup is being made just now") from None
    finally:
        os.close(fd)


async def _make(here: _Here, with_secrets: bool, progress: Progress) -> Image:
    def small() -> list[ExtraFile]:
        files = configuration_members(read_files(here.environ, os.getuid(), config=here.file_of_config))
        return [*files, *(_secret_files(here.state_dir) if with_secrets else ())]

    backups = Backups(
        snapshots=IdleSnapshots(here.file),
        place=DiskBackupPlace(here.state_dir),
        clock=_CLOCK,
        version=__version__,
        configuration=small,
        identity=lambda: None,
        form=FLEET_FORMAT,
    )
    return await make_backup(backups, with_identity=False, progress=progress)


def _secret_files(state_dir: Path) -> list[ExtraFile]:
    found = []
    for name in _SECRETS:
        with suppress(FileNotFoundError):
            found.append(ExtraFile(SECRETS_FOLDER + name, (state_dir / FOLDER / name).read_bytes()))
    return found


# --- restore


def _restore(options: argparse.Namespace, here: _Here) -> int:
    if options.mark:
        return _mark(options, here)
    if options.file is None:
        raise _StopError(exits.USAGE, "name the backup's FILE, or say --mark.")
    progress = Progress()
    with open_backup(options.file, FLEET_FORMAT) as reader:
        newest = newest_fleet_schema()
        if reader.manifest.schema_version > newest:
            known = f"schema {reader.manifest.schema_version}, this program knows {newest}"
            raise _StopError(exits.WRONG_STATE, f"{options.file} comes from a newer program ({known}).")
        if options.check:
            reader.check(progress)
            progress.end()
            return _tell(options, "control-plane-restore", reader.manifest, checked=True)
        if here.place.address is not None:
            raise _StopError(
                exits.WRONG_STATE,
                "the data lie in PostgreSQL (server.database), and this is a copy of SQLite.",
            )
        with statelock.acquire(str(here.state_dir), _CLOCK.now(), database=here.file):
            return _put_back(options, here, reader, progress)


def _put_back(options: argparse.Namespace, here: _Here, reader: BackupReader, progress: Progress) -> int:
    if options.config_to and os.path.lexists(options.config_to):
        raise _StopError(exits.FAILED, f"{options.config_to} is there already; name a new folder.")
    secrets = _secrets_in(reader) if options.with_secrets else {}
    for name, content in secrets.items():
        file = here.state_dir / FOLDER / name
        if file.exists() and file.read_bytes() != content:
            raise _StopError(exits.WRONG_STATE, f"{file} is another secret. Move it away first.")
    if here.file.exists() and not options.yes:
        _ask(here.file, reader.manifest)
    reader.check(progress)
    new = here.file.with_name(here.file.name + ".restoring")
    remove_database(new)
    try:
        reader.extract(reader.manifest.database, str(new), progress)
        if dict(check_database(new, progress).counts) != reader.manifest.counts:
            raise BackupError("its database does not hold the rows that its manifest counts")
        if options.config_to:
            unpack_configuration(reader, options.config_to)
        (here.state_dir / FOLDER).mkdir(mode=0o700, exist_ok=True)
        for name, content in secrets.items():
            make_private(here.state_dir / FOLDER / name, content.decode())
        manifest = reader.manifest
        note = partial(
            note_put_back, at=_CLOCK.now(), actor=_actor(), made_at=manifest.made_at, version=manifest.version
        )
        write_idle(new, note, _CLOCK)
        kept = put_in_place(new, here.file, _CLOCK.now())
    finally:
        remove_database(new)
    progress.end()
    return _tell(options, "control-plane-restore", manifest, kept=None if kept is None else str(kept))


def _secrets_in(reader: BackupReader) -> dict[str, bytes]:
    names = [member.name for member in reader.manifest.members if member.name.startswith(SECRETS_FOLDER)]
    found = {name.removeprefix(SECRETS_FOLDER): reader.content(name) for name in names}
    return {name: content for name, content in found.items() if name in _SECRETS}


def _ask(database: Path, manifest: Manifest) -> None:
    nodes = manifest.counts.get("nodes", 0)
    complain(f"Backup    made {manifest.made_at} by {manifest.version}, {nodes:,} nodes")
    complain(f"Database  {database} will be set aside; it is not deleted.")
    if not sys.stdin.isatty():
        raise _StopError(exits.USAGE, "a database is there. Say --yes to set it aside.")
    print("Put the backup in its place? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        complain("Nothing was changed.")
        raise _StopError(exits.FAILED)


def _actor() -> str:
    return f"uid:{os.getuid()}"


def _mark(options: argparse.Namespace, here: _Here) -> int:
    driver = lacks_driver(here.config)
    if driver is not None:
        raise _StopError(exits.CONFIG, driver)
    password = find_all(here.config, here.state_dir, here.environ).password
    place = database_of(here.config, here.state_dir, password)
    if place.file is not None and not place.file.exists():
        raise _StopError(exits.STORAGE, f"there is no database at {place.file}")
    with statelock.acquire(str(here.state_dir), _CLOCK.now(), database=place.file or ""):
        outcome = trio.run(_note, here.config, place)
    if isinstance(outcome, str):
        raise _StopError(exits.STORAGE, outcome)
    if options.json:
        print_json("control-plane-mark", database=place.address or str(place.file), record=outcome)
    else:
        print(f"The database is marked as an older copy (record {outcome} of the control plane's audit).")
    return exits.DONE


async def _note(config: Config, place: DatabasePlace) -> int | str:
    """The record's number, or why there is none."""
    store = build_store(place, config.server, _CLOCK)
    outcome: int | str
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        try:
            outcome = await store.write(partial(note_put_back, at=_CLOCK.now(), actor=_actor()))
        except (StoreError, UnavailableError) as error:
            outcome = str(error)
        await store.close()
        nursery.cancel_scope.cancel()
    return outcome


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
    done = "Good:" if more.get("checked") else "Wrote" if name.endswith("backup") else "Restored"
    print(f"{done} {options.file}: {manifest.counts.get('nodes', 0):,} nodes,", end=" ")
    print(f"schema {manifest.schema_version}, made {manifest.made_at}, {len(files)} files, checked.")
    if not any(file.startswith(SECRETS_FOLDER) for file in files):
        print("It holds no secrets: keep those of the folder secrets/ beside it (--with-secrets).")
    if more.get("kept"):
        print(f"The old database is kept as {more['kept']}")
    return exits.DONE
