"""A node's membership of a control plane: what `<state>/control_plane.json` holds."""

import hashlib

import msgspec

from ambientd.config import loopback
from ambientd.config.upstream import ControlAddress
from ambientd.core.canonical import UNREADABLE, framed
from ambientd.core.ed25519 import parse_key

SCHEMA = "ambient.membership/1"
# The name of a network that nobody has chosen: a control plane may give it another one.
ANY_NETWORK = "default"
TEXT_MAX = 256 * 1024
TOKEN_PREFIX = "nd_"  # noqa: S105 - not a secret


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Where the node belongs, and what proves it. `public_key` is the node's key that the credential is bound
    to; `issuers` and `lease_issuers` are keys that the control plane vouches for."""

    schema: str = SCHEMA
    url: str
    node_id: str
    owner_id: str
    credential_id: str
    device_token: str
    incarnation: int
    network: str
    issuers: tuple[str, ...] = ()
    lease_issuers: tuple[str, ...] = ()
    public_key: str
    joined_at: str

    def __repr__(self) -> str:
        """Without the token, wherever it is printed."""
        return f"Membership(url={self.url!r}, node_id={self.node_id!r}, credential={self.credential_id!r})"

    @property
    def registration(self) -> str:
        """Names the registration that numbers of streams belong to; a new credential of the same node is the
        same registration, a new key or another control plane is not."""
        parts = (self.url.encode(), self.node_id.encode(), str(self.incarnation).encode())
        return hashlib.sha256(framed(b"ambient-membership-v1", *parts)).hexdigest()[:32]

    @property
    def issuer_keys(self) -> frozenset[bytes]:
        """Keys whose policies count."""
        return _keys(self.issuers)

    @property
    def lease_issuer_keys(self) -> frozenset[bytes]:
        """Keys whose leases count."""
        return _keys(self.lease_issuers)


def _keys(texts: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(key for text in texts if (key := parse_key(text)) is not None)


def show_membership(membership: Membership) -> str:
    """The file's text."""
    return msgspec.json.format(msgspec.json.encode(membership), indent=2).decode() + "\n"


def parse_membership(text: str) -> Membership | str:
    """A membership, or what is wrong with the text; never with a part of it."""
    try:
        found = msgspec.json.decode(text, type=Membership)
    except UNREADABLE:
        return "is no membership of a control plane"
    if found.schema != SCHEMA:
        return f"is of another version ({found.schema[:64]})"
    if not found.device_token.startswith(TOKEN_PREFIX) or not found.device_token.isascii():
        return "holds no device token"
    return found


def is_loopback(address: ControlAddress) -> bool:
    """Whether an address names this machine, whatever a resolver says."""
    return address.host == "localhost" or loopback.is_loopback(address.host)


def may_carry_token(address: ControlAddress, *, allow_plain: bool) -> str | None:
    """Why a token must not be sent to an address; None when it may."""
    if address.tls or allow_plain or is_loopback(address):
        return None
    return "http:// is not encrypted: use https://, or set control_plane.allow_plain"
