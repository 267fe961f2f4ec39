"""How two nodes prove their keys to each other.

Both send an open Hello, then a sealed Proof: a signature over the own key and both hellos as they were sent,
which hold keys, nonces, network and versions. A recorded proof fits no other link, since the other's nonce is
in it; one that is sent back has the wrong key first.
"""

from collections.abc import Callable

import msgspec

from ambientd.core.ed25519 import verify
from ambientd.core.peers.faults import BrokenRuleError, LinkFaultError
from ambientd.core.peers.frames import (
    LINK_VERSIONS,
    CloseReason,
    Counted,
    Hello,
    Proof,
    decode_hello,
    encode_hello,
    link_id,
    proof_bytes,
    version_of,
)
from ambientd.core.snapshot import Reader, Reason


class Met(msgspec.Struct, frozen=True, kw_only=True):
    """What the two hellos agree on; the peer has proved nothing yet."""

    peer: bytes
    peer_nonce: bytes
    version: int
    link: bytes
    own_hello: bytes
    peer_hello: bytes

    def counted(self, sender: bytes) -> Counted:
        """The frames of one direction."""
        return Counted(self.link, sender)


def own_hello(reader: Reader, nonce: bytes) -> bytes:
    """The bytes of this node's hello."""
    return encode_hello(Hello(LINK_VERSIONS, reader.network, reader.key, nonce))


def meet(raw: bytes, *, own: bytes, reader: Reader) -> Met:
    """Reads the peer's hello. A stranger is turned away here, for the price of a look into a set.

    Raises LinkFaultError.
    """
    hello = decode_hello(raw)
    if hello is None:
        raise BrokenRuleError("something else than a hello")
    if hello.network != reader.network:
        raise LinkFaultError(CloseReason.NETWORK, f"the peer belongs to the network {hello.network}")
    version = version_of(LINK_VERSIONS, hello.versions)
    if version is None:
        raise LinkFaultError(CloseReason.VERSION, f"the peer speaks versions {hello.versions} only")
    refused = reader.trust.refusal(hello.key, reader.key)
    if refused is not None:
        own_key = refused.code is Reason.KEY_ROLE and hello.key == reader.key
        raise LinkFaultError(CloseReason.OWN_KEY if own_key else CloseReason.NOT_TRUSTED, refused.text)
    return Met(
        peer=hello.key,
        peer_nonce=hello.nonce,
        version=version,
        link=link_id(own, raw),
        own_hello=own,
        peer_hello=raw,
    )


def prove(met: Met, *, reader: Reader, label: str, sign: Callable[[bytes], bytes]) -> Proof:
    """This node's proof."""
    message = proof_bytes(signer=reader.key, own_hello=met.own_hello, peer_hello=met.peer_hello)
    return Proof(sign(message), label, reader.max_bytes, reader.max_items)


def is_proved(met: Met, proof: Proof) -> bool:
    """Whether the proof is the peer's, for this link."""
    message = proof_bytes(signer=met.peer, own_hello=met.peer_hello, peer_hello=met.own_hello)
    return verify(met.peer, message, proof.signature)


def keeps(*, own: bytes, peer: bytes, dialled: bool) -> bool:
    """Whether to keep this link of two between the same nodes: the one that the lower key dialled stays, on
    which both ends agree without a word."""
    return dialled == (own < peer)
