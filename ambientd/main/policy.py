"""`ambientd policy new-key FILE` and `policy sign`: an issuer's tool, for fleets without a control plane."""

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

import msgspec

from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.policy import Content, Malformed, Policy, build_item, parse_body
from ambientd.core.policybundle import item_of, text_of
from ambientd.core.policydraft import Drafted, parse_draft, unchanged
from ambientd.core.signeditem import SignedItem
from ambientd.core.text import printable
from ambientd.core.timefmt import from_ms, rfc3339_ms, to_ms
from ambientd.host.clock import SystemClock
from ambientd.main.config_print import complain, print_json
from ambientd.main.issuer_key import FailedError, cannot, read_key, write_new
from ambientd.wire import exits
from ambientd.wire.policy_messages import PolicyItem

INPUT_MAX_BYTES = 16 * 1024 * 1024

_HELP = """\
Makes what a node believes: egress policies and tombstones, signed with an issuer's key. Needs no daemon and
no node; the key belongs on a machine of its own. Nodes believe the keys in policy.issuers.
"""

_KEY_HELP = """\
Writes a new private key into FILE (0600), which must not exist, and prints the public key, which is what
belongs into policy.issuers of every node; of a key that signs leases, into policy.lease_issuers.

exit codes: 0 done, 1 failed (FILE exists)
example:
  ambientd policy new-key issuer.key
"""

_SIGN_HELP = """\
Checks INPUT, signs every policy and tombstone in it, and writes a bundle, one item a line, for
`ambientctl policy import`. A bundle that is there already is brought up to date: what is the same stays
signed as it is, what is new is added, and what was changed without a higher revision is refused. INPUT is
TOML or JSON ("-": JSON on standard input):

  network = "default"                     # policy.network of the nodes

  [[policy]]
  id = "web"
  revision = 1                            # higher with each change
  destinations = ["https://api.example.com", "*.example.org"]
  protocols = ["https"]                   # tcp, udp, http, https, quic
  valid_for = "90d"                       # or not_after = 2027-01-31T00:00:00Z; 400 days at most

  [[tombstone]]                           # removes all revisions up to its own
  id = "old"
  revision = 7

exit codes: 0 done, 1 failed; nothing is written unless all of it is right
examples:
  ambientd policy sign --key issuer.key fleet.toml -o fleet.ndjson
  ambientd policy sign --key issuer.key fleet.toml | ssh edge-1 ambientctl policy import -
"""


class _Bundle(msgspec.Struct):
    items: list[PolicyItem]


def run(argv: Sequence[str]) -> int:
    """Runs `policy …` and returns the exit code."""
    options = _parser().parse_args(list(argv))
    try:
        options.run(options)
    except FailedError as failure:
        for line in failure.args:
            complain(line)
        return exits.FAILED
    return exits.DONE


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ambientd policy", description=_HELP, formatter_class=shape, allow_abbrev=False
    )
    verbs = parser.add_subparsers(title="verbs", metavar="new-key|sign", required=True)
    key = verbs.add_parser(
        "new-key",
        help="make an issuer's key",
        description=_KEY_HELP,
        formatter_class=shape,
        allow_abbrev=False,
    )
    key.add_argument("file", metavar="FILE")
    key.add_argument("--json", action="store_true", help="JSON on standard output")
    key.set_defaults(run=_new_key)
    sign = verbs.add_parser(
        "sign",
        help="sign policies and tombstones",
        description=_SIGN_HELP,
        formatter_class=shape,
        allow_abbrev=False,
    )
    sign.add_argument("input", metavar="INPUT")
    sign.add_argument("--key", metavar="FILE", required=True, help="the issuer's private key")
    sign.add_argument("-o", "--output", metavar="FILE", help="the bundle (default: standard output)")
    sign.add_argument("--force", action="store_true", help="sign everything anew, whatever OUTPUT holds")
    sign.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    sign.set_defaults(run=_sign)
    return parser


# --- new-key


def _new_key(options: argparse.Namespace) -> None:
    seed = os.urandom(32)
    write_new(options.file, seed.hex().encode() + b"\n")
    public = show_key(public_of(seed))
    if options.json:
        print_json("policy-key", file=options.file, publicKey=public)
        return
    print(public)
    complain(f"Wrote the private key to {printable(options.file)}. Nodes believe it with, in ambient.toml:")
    complain(f'  [policy]\n  issuers = ["{public}"]        # signs policies')
    complain(f'or, for session leases, which want a key of their own:\n  lease_issuers = ["{public}"]')


# --- sign


def _sign(options: argparse.Namespace) -> None:
    seed = read_key(options.key)
    now = to_ms(SystemClock().now())
    draft = parse_draft(_read_input(options.input), now)
    if draft.problems:
        name = printable(options.input)
        raise FailedError(*(f"Error: {name}: {text}" for text in draft.problems), "Nothing was signed.")
    public = public_of(seed)
    before = {} if options.output is None or options.force else _read_bundle(options.output, public)
    items, kept = _signed(seed, public, draft.entries, before)
    data = _document(items) if options.json else b"".join(_line(item) for item in items)
    if options.output is None:
        sys.stdout.write(data.decode())
        sys.stdout.flush()
    else:
        _write_output(options.output, data)
    for item in items:
        complain(_shown(_content(item)) + ("  (as before)" if item in kept else ""))
    for policy_id in sorted({name for _, name in before} - {_content(item).id for item in items}):
        complain(f"  {policy_id} is left out; nodes keep it until it expires. [[tombstone]] removes it.")
    where = f" into {printable(options.output)}" if options.output else ""
    complain(f"Signed {len(items) - len(kept)} of {len(items)} with {show_key(public)}{where}.")


_Before = dict[tuple[str, str], SignedItem]
"""Items of the bundle that is there, by kind and policy."""


def _signed(
    seed: bytes, public: bytes, entries: Sequence[Drafted], before: _Before
) -> tuple[list[SignedItem], list[SignedItem]]:
    """All items, and those of them that are as before."""
    items, kept, problems = [], [], []
    for drafted in entries:
        content = drafted.content
        old = before.get((type(content).__name__, content.id))
        was = None if old is None else _content(old)
        if old is None or was is None or content.revision > was.revision:
            items.append(build_item(seed, public, content))
        elif unchanged(drafted, was) and was.not_after > content.issued_at:
            items.append(old)
            kept.append(old)
        else:
            why = "expired" if unchanged(drafted, was) else "was signed with another content"
            problems.append(
                f"Error: {content.id}: revision {was.revision} {why} before; give it a revision above that."
            )
    if problems:
        raise FailedError(*problems, "Nothing was signed.")
    return items, kept


def _content(item: SignedItem) -> Content:
    content = parse_body(item.body)
    if isinstance(content, Malformed):
        raise FailedError(f"Error: an item of the bundle is malformed: {content.sentence}.")
    return content


def _read_bundle(path: str, public: bytes) -> _Before:
    """The bundle that is to be brought up to date; nothing when there is none."""
    if not os.path.lexists(path):
        return {}
    decoder: msgspec.json.Decoder[PolicyItem] = msgspec.json.Decoder(PolicyItem)
    document: msgspec.json.Decoder[_Bundle] = msgspec.json.Decoder(_Bundle)
    data = _read_bytes(path)
    try:
        try:
            texts = document.decode(data).items
        except msgspec.DecodeError:
            texts = [decoder.decode(line) for line in data.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _foreign(path, "is no bundle") from None
    found: _Before = {}
    for item in map(item_of, texts):
        if not isinstance(item, SignedItem) or item.issuer != public or not item.is_genuine:
            raise _foreign(path, "holds items that this key has not signed")
        content = _content(item)
        found[type(content).__name__, content.id] = item
    return found


def _foreign(path: str, why: str) -> FailedError:
    return FailedError(f"Error: {printable(path)} is there and {why}; --force replaces it.")


def _line(item: SignedItem) -> bytes:
    return msgspec.json.encode(text_of(item)) + b"\n"


def _document(items: Sequence[SignedItem]) -> bytes:
    head = {"schema": "ambient.policy-bundle/1", "generatedAt": rfc3339_ms(SystemClock().now())}
    return msgspec.json.encode(head | {"items": [text_of(item) for item in items]}) + b"\n"


def _write_output(path: str, data: bytes) -> None:
    partial = f"{path}.{os.getpid()}.partial"
    write_new(partial, data, mode=0o644)
    try:
        os.replace(partial, path)
    except OSError as error:
        os.unlink(partial)
        raise cannot(path, error) from None


def _shown(content: Content) -> str:
    until = rfc3339_ms(from_ms(content.not_after))
    head = f"  {content.id} revision {content.revision}"
    if isinstance(content, Policy):
        return f"{head}: {', '.join(content.destinations)} by {', '.join(content.protocols)}, until {until}"
    return f"{head}: tombstone, removes all revisions up to {content.revision}, kept until {until}"


def _read_bytes(path: str) -> bytes:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(INPUT_MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(INPUT_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise cannot(path, error) from None
    if len(data) > INPUT_MAX_BYTES:
        raise FailedError(f"Error: {printable(path)} is larger than {INPUT_MAX_BYTES // 1024 // 1024} MiB.")
    return data


def _read_input(path: str) -> dict[str, Any]:
    name, data = printable(path), _read_bytes(path)
    try:
        found = json.loads(data) if path == "-" or path.endswith(".json") else tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise FailedError(f"Error: {name} cannot be read: {printable(str(error))}.") from None
    if not isinstance(found, dict):
        raise FailedError(f"Error: {name} holds no table.")
    return found
