"""What an issuer signs and peers pass on: opaque here, read by `core/policy`.

The issuer's signature stays with the item on every way, so it does not matter who brings it.
"""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from ambientd.core.canonical import framed
from ambientd.core.ed25519 import KEY_BYTES, SIGNATURE_BYTES, sign, verify

DOMAIN = b"ambient-item-v1"
BODY_MAX_BYTES = 16 * 1024


class SignedItem(
    msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A body (canonical JSON), the issuer's public key (32 bytes) and its signature (64 bytes).

    A decoder holds foreign bytes against these lengths; who builds an item is trusted with them. Ordered as
    snapshots are; without references to others, so the collector need not look at thousands of them.
    """

    body: Annotated[bytes, Meta(min_length=1, max_length=BODY_MAX_BYTES)]
    issuer: Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    @property
    def item_id(self) -> bytes:
        """SHA3-256 over issuer and body, framed: two items are the same exactly when their ids are."""
        return hashlib.sha3_256(framed(DOMAIN, self.issuer, self.body)).digest()

    @property
    def is_genuine(self) -> bool:
        """Whether the issuer signed this body. Says nothing about whether the issuer is trusted."""
        return verify(self.issuer, framed(DOMAIN, self.body), self.signature)


def issue(seed: bytes, public: bytes, body: bytes) -> SignedItem:
    """Signs a body with an issuer's seed."""
    return SignedItem(body, public, sign(seed, framed(DOMAIN, body)))
