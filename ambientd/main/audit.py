"""`ambientd audit verify [FILE]`: an export, or the chain of a node whose daemon does not run."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

from ambientd.core.audit import BEGINNING, Break
from ambientd.core.auditfile import LINE_MAX, ExportCheck
from ambientd.core.earlier_audit import EarlierCheck, is_earlier
from ambientd.core.ed25519 import parse_key, show_key
from ambientd.core.text import number, printable
from ambientd.flows.audit import own_keys, verify_stretch
from ambientd.host import facts, statelock
from ambientd.host.checkpoint_file import NAME, read_checkpoint
from ambientd.host.clock import SystemClock
from ambientd.host.config_files import load
from ambientd.host.identity import FileIdentity
from ambientd.main.config_print import complain, print_json
from ambientd.main.progress import Progress
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.store.idle import reading
from ambientd.wire import exits, places

_CLOCK = SystemClock()
_HELP = """\
Checks the audit chain record by record, and every signed checkpoint in it. With FILE an export of it (- is
standard input), anywhere and without the node; without FILE the database of a node whose daemon does not
run. While it runs: ambientctl audit verify.
"""

_MORE = """\
examples:
  ambientd audit verify audit.ndjson --key ed25519:89e689e4…
  ssh edge-07 ambientctl audit export | ambientd audit verify -

exit codes: 0 all of it holds, 1 a record does not (the first is named), 2 usage, 74 storage, 75 a daemon
holds the state
"""


class Outcome(NamedTuple):
    """What a verification came to. `form` is "chain", or "earlier" for a log of the earlier generation."""

    bad: Break | None
    records: int
    checkpoints: int
    head: int
    pruned: int
    other_keys: int
    signed_by: str | None
    form: str = "chain"


def run(argv: Sequence[str]) -> int:
    """The verb `audit`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="ambientd audit verify",
        description=_HELP,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="an export; - is standard input")
    parser.add_argument("--key", metavar="KEY", help="whose checkpoints a FILE must have: ed25519:…")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--config", metavar="FILE", help="the main configuration file")
    parser.add_argument("--state-dir", metavar="DIR", help="the state directory")
    words = list(argv)
    if words[:1] == ["verify"]:
        del words[0]
    elif not {"-h", "--help"} & set(words):
        complain("Error: ambientd audit does one thing: ambientd audit verify [FILE].")
        return exits.USAGE
    try:
        options = parser.parse_args(words)
    except SystemExit as stop:  # argparse has said why, or printed the help
        return int(stop.code or 0)
    key = None if options.key is None else parse_key(options.key)
    if options.key is not None and (key is None or options.file is None):
        why = "--key goes with a FILE" if key else f"{printable(options.key)[:80]!r} is no public key"
        complain(f"Error: {why}; a key is ed25519: and 64 hexadecimal digits.")
        return exits.USAGE
    try:
        if options.file is not None:
            return _tell(options, _verify_file(options.file, key), strict=key is not None)
        return _tell(options, _verify_state(options), strict=False)
    except statelock.StateLockedError as error:
        complain(f"Error: {error} A daemon works there: ambientctl audit verify asks it.")
        return exits.LOCKED
    except (StoreError, UnavailableError, statelock.StateDirError) as error:
        complain(f"Error: {error}")
        return exits.STORAGE
    except OSError as error:
        complain(f"Error: {error.filename or options.file}: {(error.strerror or str(error)).lower()}.")
        return exits.FAILED


# --- a file


def _verify_file(path: str, key: bytes | None) -> Outcome:
    source: AbstractContextManager[IO[bytes]] = (
        nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")  # noqa: SIM115 - entered below
    )
    with source as file:
        first = file.readline(LINE_MAX)
        if is_earlier(first):
            return _verify_earlier(first, file)
        check, line = ExportCheck(() if key is None else (key,)), first
        bad: Break | None = None
        progress = Progress()
        while line and bad is None:
            bad = check.take(line)
            line = file.readline(LINE_MAX)
            progress("checking", check.records, 0)
        progress.end()
    bad = bad or check.end()
    others = len(check.other_keys)
    place = check.place
    return Outcome(
        bad, check.records, check.checkpoints, place.seq, check.pruned_seq, others, check.signed_by
    )


def _verify_earlier(first: bytes, file: IO[bytes]) -> Outcome:
    check, line = EarlierCheck(), first
    bad = None
    while line and bad is None:
        bad = check.take(line)
        line = file.readline(LINE_MAX)
    return Outcome(bad, check.records, 0, check.records, 0, 0, None, form="earlier")


# --- the database


def _verify_state(options: argparse.Namespace) -> Outcome:
    named = {places.ENV_CONFIG: options.config, places.ENV_STATE: options.state_dir}
    environ: Mapping[str, str] = {**os.environ, **{name: value for name, value in named.items() if value}}
    state_dir = Path(os.path.abspath(places.state_dir(environ, os.getuid())))
    database = state_dir / (environ.get(places.ENV_DATABASE) or places.DATABASE_NAME)
    if not database.exists():
        raise StoreError(f"there is no database at {database}")
    with statelock.acquire(str(state_dir), _CLOCK.now(), database=database):
        return _verify_database(database, state_dir, environ)


def _verify_database(database: Path, state_dir: Path, environ: Mapping[str, str]) -> Outcome:
    key, note = _own_key(state_dir, environ), read_checkpoint(state_dir / NAME)
    records = checkpoints = others = 0
    place, progress = BEGINNING, Progress()
    with reading(database, _CLOCK.now()) as tx:
        keys, head = own_keys(tx, key), tx.audit.head().seq
        while True:
            found = verify_stretch(tx, place, keys=keys, file_note=note)
            records, checkpoints = records + found.checked, checkpoints + found.checkpoints
            others, place = others + found.other_keys, found.place
            if found.ended:
                break
            progress("checking", records, head)
    progress.end()
    signer = None if key is None else show_key(key)
    return Outcome(found.bad, records, checkpoints, head, found.pruned, others, signer)


def _own_key(state_dir: Path, environ: Mapping[str, str]) -> bytes | None:
    """The node's public key, as far as this user may see it."""
    config = load(environ, os.getuid()).config
    host = "" if config is None else facts.host_id(config.node.name, config.node.host_id).value
    identity = FileIdentity(state_dir, host_id=host, environ=environ)
    identity.load(create=False)
    return identity.known_key


# --- what is said


def _tell(options: argparse.Namespace, found: Outcome, *, strict: bool) -> int:
    bad = found.bad
    if bad is None and strict and found.other_keys:
        bad = Break(found.head, f"checkpoints are signed by {found.signed_by}, which is not that key")
    elif bad is None and strict and not found.checkpoints and found.form == "chain":
        bad = Break(found.head, "there is no checkpoint of that key in it")
    if options.json:
        print_json(
            "audit-verify",
            ok=bad is None,
            form=found.form,
            records=found.records,
            checkpoints=found.checkpoints,
            otherKeys=found.other_keys,
            headSeq=found.head,
            prunedSeq=found.pruned,
            signedBy=found.signed_by,
            bad=None if bad is None else {"seq": bad.seq, "reason": bad.reason},
        )
    elif bad is not None:
        print(f"Record {bad.seq} does not hold: {printable(bad.reason)}.")
    else:
        _say(found, options.file)
    return exits.DONE if bad is None else exits.FAILED


def _say(found: Outcome, file: str | None) -> None:
    if found.form == "earlier":
        print(f"{number(found.records)} records of the earlier form hold.")
        print("Its hash does not show bytes that were moved between neighbouring fields.")
        return
    pruned = f", from #{found.pruned + 1} on" if found.pruned else ""
    print(
        f"{number(found.records)} records hold{pruned}, {number(found.checkpoints)} signed checkpoints,"
        f" last record #{found.head}."
    )
    if file is not None and found.signed_by:
        print(f"Signed by {found.signed_by}; give --key where you know whose it must be.")
    if found.other_keys:
        complain(f"Note: {found.other_keys} of the keys or checkpoints are not known by the last key.")
