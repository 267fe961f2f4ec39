"""Whom this node trusts among its peers: keys of the configuration, keys that an operator named, and those
that a roster of its control plane names.

Nothing that a peer sends ends up in here.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from ambientd.core.ed25519 import parse_key
from ambientd.core.rejection import Rejected, reject
from ambientd.wire.messages import ErrorDetail
from ambientd.wire.peer_messages import NAME_MAX

# Floors and records are kept for each; a LAN has far fewer nodes.
TRUSTED_MAX = 1024
_FRAGMENT_MIN = 4
_CANDIDATES_SHOWN = 10

CONFIGURATION = "configuration"
OPERATOR = "operator"
ROSTER = "roster"


class TrustedPeer(msgspec.Struct, frozen=True, kw_only=True):
    """A key that an operator trusted; `key` is its text form."""

    key: str
    name: str
    added_at: datetime
    added_by: str


class PeerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """When a trusted peer was last there, and where; `name` is what it calls itself."""

    key: str
    name: str = ""
    address: str = ""
    seen_at: datetime | None = None
    synced_at: datetime | None = None


class PeerBook(msgspec.Struct, frozen=True):
    """All trusted keys, in their text form; those of the configuration win over the operator's, and both over
    a roster's. `listed` are those of the roster in force with their nodes' ids; `refused` are keys that no
    roster makes trusted, by the operator's word."""

    configured: tuple[str, ...] = ()
    named: Mapping[str, TrustedPeer] = {}
    listed: Mapping[str, str] = {}
    refused: frozenset[str] = frozenset()

    @property
    def all(self) -> tuple[str, ...]:
        """Every trusted key once."""
        by_roster = (key for key in self.listed if key not in self.refused)
        return tuple(dict.fromkeys((*self.configured, *self.named, *by_roster)))

    @property
    def keys(self) -> frozenset[bytes]:
        """The keys as bytes; what names none was refused before it came here."""
        found = (parse_key(text) for text in self.all)
        return frozenset(key for key in found if key is not None)

    def source(self, key: str) -> str:
        """Who trusts a key, as the wire says it; empty for nobody."""
        if key in self.configured:
            return CONFIGURATION
        if key in self.named:
            return OPERATOR
        return ROSTER if key in self.listed and key not in self.refused else ""

    def called(self, key: str) -> str:
        """The operator's name for a key, else the id that a roster gives it."""
        found = self.named.get(key)
        own = "" if found is None else found.name
        return own or ("" if key in self.refused else self.listed.get(key, ""))

    def with_named(self, peers: Iterable[TrustedPeer], refused: Iterable[str] | None = None) -> "PeerBook":
        """The book after the operator's keys were read or changed."""
        named = {peer.key: peer for peer in peers}
        kept = self.refused if refused is None else frozenset(refused)
        return PeerBook(self.configured, named, self.listed, kept)

    def with_listed(self, listed: Mapping[str, str]) -> "PeerBook":
        """The book after another roster has come into force, or none is."""
        return PeerBook(self.configured, self.named, listed, self.refused)


def check_trust(book: PeerBook, key: str, name: str, *, own: str | None) -> Rejected | None:
    """Why a key may not be trusted under a name; None when it may."""
    if parse_key(key) is None:
        return _bad("key", "`ed25519:` and 64 hexadecimal digits that are a sound public key")
    if len(name) > NAME_MAX or not name.isprintable() or name != name.strip():
        return _bad("name", f"up to {NAME_MAX} printable characters, none of them a blank at an end")
    if key == own:
        return _bad("key", "the key of another node, not this one's own")
    if name and any(peer.name == name and peer.key != key for peer in book.named.values()):
        return _bad("name", "a name that no other key has")
    if key not in book.named and len(book.named) >= TRUSTED_MAX:
        return _bad("key", f"one of at most {TRUSTED_MAX} trusted keys")
    return None


def _bad(field: str, wanted: str) -> Rejected:
    detail = ErrorDetail(field, "value", f"must be {wanted}", expected=wanted)
    return Rejected("VALIDATION_ERROR", f"{field} must be {wanted}", (detail,))


def find_trusted(book: PeerBook, fragment: str) -> str | Rejected:
    """The one trusted key that is meant by a key, a part at either end of one, or an operator's name."""
    every = book.all
    if fragment in every:
        return fragment
    named = [key for key in every if fragment and book.called(key) == fragment]
    if len(named) == 1:
        return named[0]
    part = fragment.lower()
    found = [key for key in every if _fits(key, part)]
    if len(found) == 1:
        return found[0]
    if found:
        details = tuple(
            ErrorDetail(key, "candidate", book.called(key) or "no name") for key in found[:_CANDIDATES_SHOWN]
        )
        return Rejected("AMBIGUOUS", f"{fragment[:72]!r} fits {len(found)} trusted keys", details)
    return reject("NOT_FOUND", f"no trusted key is {fragment[:72]!r}")


def _fits(key: str, part: str) -> bool:
    digits = key.partition(":")[2]
    return len(part) >= _FRAGMENT_MIN and (
        key.startswith(part) or digits.startswith(part) or digits.endswith(part)
    )
