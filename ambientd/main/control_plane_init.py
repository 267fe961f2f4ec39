"""`ambientd control-plane init`: secrets, signing keys, the first owner, a join token. Safe to repeat."""

import argparse
import os
import secrets
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from ambientd.app.control_plane import build_store
from ambientd.config.schema import Config
from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.fleet.tokens import TokenHashes
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.fleet.accounts import Accounts, Lifetimes
from ambientd.flows.fleet.devices import Devices, NewJoin
from ambientd.flows.fleet.work import WorkRules
from ambientd.host import statelock
from ambientd.host.clock import SystemClock
from ambientd.host.fleet_secrets import FOLDER, make_fleet_secrets
from ambientd.host.issuer_keys import make_issuer_keys
from ambientd.host.passwords import Argon2Passwords
from ambientd.host.secrets import SecretError, read_secret_file
from ambientd.main.config_print import complain, print_problems
from ambientd.main.fleet_start import (
    Found,
    add_options,
    database_of,
    environment_of,
    find_all,
    given_of,
    lacks_driver,
    load_config,
    state_dir_of,
)
from ambientd.ports.errors import Rejected, StoreError, UnavailableError
from ambientd.ports.fleet.store import FleetStore
from ambientd.services.fleet_lookups import LookupsService
from ambientd.wire import exits

SCHEMA = "ambient.control-plane-init/1"
_PASSWORD_BYTES = 18
_TEXT = """\
Sets a control plane up: makes the secrets and signing keys that are missing (files of <state>/secrets, 0600;
what is there is never overwritten nor shown), the database, the first owner (an administrator), and a join
token for the first nodes. Password and join token are printed this once. Repeating it changes nothing that is
there. Stop the control plane first.

With --secrets-only it makes the secrets and nothing else, and only before the first start: where a database
is there, a secret that is missing was lost, and another one in its place would shut everybody out. Those that
come as credentials or variables are not made. The unit does so before each start.
"""
_MORE = """\
examples:
  ambientd control-plane init
  ambientd control-plane init --owner ann --password-file -  < password.txt
  ambientd control-plane init --owner ann --join-uses 100     another join token, for a hundred nodes
  ambientd control-plane init --secrets-only                  as the unit does before a start
"""


class Answer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What was made. `password` and `join_token` only when they are new."""

    schema: str
    generated_at: str
    state_dir: str
    database: str
    secrets_made: list[str]
    keys_made: list[str]
    issuer: str | None = None
    lease_issuer: str | None = None
    owner: str | None = None
    owner_made: bool | None = None
    password: str | None = None
    join_token: str | None = None
    join_token_expires_at: str | None = None


class _FailedError(Exception):
    def __init__(self, code: int, *sentences: str) -> None:
        super().__init__(*sentences)
        self.code = code
        self.sentences = sentences


def run_init(argv: Sequence[str]) -> int:
    """The verb: returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="ambientd control-plane init",
        description=_TEXT,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument("--owner", metavar="NAME", default="admin", help="the first owner (default: admin)")
    parser.add_argument(
        "--password-file", metavar="FILE", help="the owner's password, - for standard input; else one is made"
    )
    parser.add_argument(
        "--join-uses",
        metavar="N",
        type=int,
        help="a join token for N nodes, also when the owner is there",
    )
    parser.add_argument(
        "--secrets-only", action="store_true", help="make the secrets before the first start, nothing else"
    )
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as stop:
        return int(stop.code or 0)
    os.umask(0o077)
    try:
        answer = _provision(options) if options.secrets_only else _init(options)
    except _FailedError as error:
        for sentence in error.sentences:
            complain(f"Error: {sentence}")
        return error.code
    print(msgspec.json.encode(answer).decode() if options.json else _shown(answer, options))
    return exits.DONE


class _Here(NamedTuple):
    """Where this control plane is."""

    config: Config
    state_dir: Path
    environ: Mapping[str, str]


def _here(options: argparse.Namespace) -> _Here:
    given = given_of(options)
    environ = environment_of(given, os.environ)
    loaded = load_config(given, environ)
    if loaded.config is None:
        print_problems(loaded.problems)
        raise _FailedError(exits.CONFIG)
    return _Here(loaded.config, state_dir_of(environ), environ)


def _provision(options: argparse.Namespace) -> Answer:
    """The secrets alone; needs no lock, since a file is made in one step and never replaced."""
    config, state_dir, environ = _here(options)
    place = database_of(config, state_dir, None)
    if place.file is None:
        raise _FailedError(
            exits.WRONG_STATE,
            "Processes that share a PostgreSQL have the same secrets: make them once with"
            " `ambientd control-plane init`, and give them to each.",
        )
    made, keys = [], []
    try:
        statelock.prepare(str(state_dir))
        if not os.path.lexists(place.file):
            made, keys = make_fleet_secrets(state_dir, environ), make_issuer_keys(state_dir, environ)
    except statelock.StateDirError as error:
        raise _FailedError(exits.STORAGE, str(error)) from None
    except OSError as error:
        raise _cannot_write(state_dir, error) from None
    found = find_all(config, state_dir, environ)
    if found.problems:
        raise _FailedError(exits.CONFIG, *found.problems)
    return Answer(
        schema=SCHEMA,
        generated_at=rfc3339_ms(SystemClock().now()),
        state_dir=str(state_dir),
        database=str(place.file),
        secrets_made=[name.value for name in made],
        keys_made=keys,
        issuer=_shown_key(found.issuers.policy),
        lease_issuer=_shown_key(found.issuers.lease),
    )


def _cannot_write(state_dir: Path, error: OSError) -> _FailedError:
    text = f"{state_dir / FOLDER} cannot be written: {(error.strerror or 'error').lower()}"
    return _FailedError(exits.STORAGE, text)


def _init(options: argparse.Namespace) -> Answer:
    config, state_dir, environ = _here(options)
    driver = lacks_driver(config)
    if driver is not None:
        raise _FailedError(exits.CONFIG, driver)
    if options.join_uses is not None and not 1 <= options.join_uses <= 10_000:
        raise _FailedError(exits.USAGE, "--join-uses is a number from 1 to 10000")
    password = _password(options.password_file)
    place = database_of(config, state_dir, None)
    try:
        with statelock.acquire(str(state_dir), SystemClock().now(), database=place.file or ""):
            made = make_fleet_secrets(state_dir, environ)
            keys = make_issuer_keys(state_dir, environ)
            found = find_all(config, state_dir, environ)
            if found.problems:
                raise _FailedError(exits.CONFIG, *found.problems)
            outcome = trio.run(partial(_set_up, options, config, state_dir, found, password))
    except statelock.StateLockedError as error:
        raise _FailedError(exits.LOCKED, f"{error} Stop it first, or if it is a node: --state-dir.") from None
    except statelock.StateDirError as error:
        raise _FailedError(exits.STORAGE, str(error)) from None
    except OSError as error:
        raise _cannot_write(state_dir, error) from None
    if isinstance(outcome, _FailedError):
        raise outcome
    join = outcome.join
    return Answer(
        schema=SCHEMA,
        generated_at=rfc3339_ms(SystemClock().now()),
        state_dir=str(state_dir),
        database=place.address or str(place.file),
        secrets_made=[name.value for name in made],
        keys_made=keys,
        issuer=_shown_key(found.issuers.policy),
        lease_issuer=_shown_key(found.issuers.lease),
        owner=options.owner,
        owner_made=outcome.owner_made,
        password=outcome.password,
        join_token=None if join is None else join.join_token,
        join_token_expires_at=None if join is None else rfc3339_ms(join.record.expires_at),
    )


def _password(path: str | None) -> str | None:
    """The password that was handed in; None when one is to be made."""
    if path is None:
        return None
    if path == "-":
        text = sys.stdin.readline(4096).rstrip("\r\n")
        if not text:
            raise _FailedError(exits.USAGE, "there is no password on standard input")
        return text
    try:
        return read_secret_file(path).reveal()
    except SecretError as error:
        raise _FailedError(exits.USAGE, *error.problems) from None


async def _set_up(
    options: argparse.Namespace, config: Config, state_dir: Path, found: Found, password: str | None
) -> "_Made | _FailedError":
    """Opens the database and adds what is missing there."""
    clock = SystemClock()
    store = build_store(database_of(config, state_dir, found.password), config.server, clock)
    outcome: _Made | _FailedError
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        try:
            reason = store.reason
            outcome = (
                await _Setting(store, found, config).add(options, password)
                if reason is None
                else _FailedError(exits.STORAGE, reason)
            )
        except (StoreError, UnavailableError) as error:
            outcome = _FailedError(exits.STORAGE, str(error))
        await store.close()
        nursery.cancel_scope.cancel()
    return outcome


class _Made(NamedTuple):
    """What was added to the database."""

    owner_made: bool
    password: str | None
    join: NewJoin | None


class _Setting:
    """Adds the owner and the join token."""

    def __init__(self, store: FleetStore, found: Found, config: Config) -> None:
        clock, hashes = SystemClock(), TokenHashes(found.judged.values)
        self._store = store
        self._accounts = Accounts(
            store=store,
            clock=clock,
            passwords=Argon2Passwords(),
            hashes=hashes,
            randomness=os.urandom,
            new_id=_uuid,
            lifetimes=Lifetimes(),
            open_registration=False,
        )
        self._devices = Devices(
            store=store,
            clock=clock,
            hashes=hashes,
            randomness=os.urandom,
            new_id=_uuid,
            rules=WorkRules(max_active=config.server.max_active_tasks, owner_share=config.server.owner_share),
            lookups=LookupsService(store),
        )

    async def add(self, options: argparse.Namespace, password: str | None) -> "_Made | _FailedError":
        """The owner unless the name is taken; a join token for a new owner, or when one is asked for."""
        name = options.owner
        there = await self._store.read(lambda tx: tx.users.by_name(name))
        chosen = password or secrets.token_urlsafe(_PASSWORD_BYTES)
        if there is None:
            added = await self._accounts.add_owner(name, chosen)
            if isinstance(added, Rejected):
                return _FailedError(exits.USAGE, *(f"{one.field} {one.message}" for one in added.details))
            owner = added
        else:
            owner = there
        if owner is None:
            return _FailedError(exits.WRONG_STATE, f"{name} was added by somebody else just now; try again")
        join = None
        if there is None or options.join_uses is not None:
            uses = options.join_uses or 1
            join = await self._devices.add_join(owner.user_id, uses=uses, lifetime=timedelta(days=1))
        return _Made(there is None, chosen if there is None and password is None else None, join)


def _uuid() -> str:
    return str(uuid.uuid4())


def _shown_key(seed: bytes | None) -> str | None:
    return None if seed is None else show_key(public_of(seed))


def _shown(answer: Answer, options: argparse.Namespace) -> str:
    made = ", ".join((*answer.secrets_made, *answer.keys_made)) or "all were there"
    lines = [
        f"The control plane in {answer.state_dir} is set up."
        if answer.owner
        else f"The secrets of the control plane in {answer.state_dir} are there.",
        f"  database     {answer.database}",
        f"  secrets      {made} (in {FOLDER}/, 0600)",
        f"  issuers      {answer.issuer or 'none'} (policies)",
        f"               {answer.lease_issuer or 'none'} (leases)",
    ]
    if not answer.owner:
        return "\n".join(lines)
    lines.append(
        f"  owner        {answer.owner}{'' if answer.owner_made else ' was there, and was not changed'}"
    )
    if answer.password is not None:
        lines.append(f"  password     {answer.password}   (shown this once)")
    if answer.join_token is not None:
        lines.append(f"  join token   {answer.join_token}   (shown this once)")
        lines.append(f"               good until {answer.join_token_expires_at}")
    own = "" if options.state_dir is None else f" --state-dir {options.state_dir}"
    lines.append(f"Start it with: ambientd control-plane{own}")
    if answer.join_token is not None:
        lines.append("Then on a node: ambientctl join URL    (it asks for the join token)")
    return "\n".join(lines)
