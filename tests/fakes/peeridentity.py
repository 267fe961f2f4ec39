"""A node's key without a file: the cryptography is the real one."""

import hashlib
import os

from nacl.bindings import (
    crypto_box,
    crypto_box_open,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import CryptoError

from ambientd.core.ed25519 import public_of, sign

NONCE_BYTES = 24


def seed_of(name: str) -> bytes:
    """The same for the same name."""
    return hashlib.sha256(f"seed of {name}".encode()).digest()


class SealedIdentity:
    """Implements `ports.autonomy.NodeIdentity`."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.public_key = public_of(self._seed)
        self._box_key = crypto_sign_ed25519_sk_to_curve25519(self._seed + self.public_key)

    def sign(self, message: bytes) -> bytes:
        return sign(self._seed, message)

    def seal(self, recipient: bytes, message: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + crypto_box(
            message, nonce, crypto_sign_ed25519_pk_to_curve25519(recipient), self._box_key
        )

    def open(self, sender: bytes, sealed: bytes) -> bytes | None:
        nonce, box = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return crypto_box_open(box, nonce, crypto_sign_ed25519_pk_to_curve25519(sender), self._box_key)
        except (CryptoError, ValueError):
            return None


class NamedIdentity(SealedIdentity):
    """The identity that belongs to a name."""

    def __init__(self, name: str) -> None:
        super().__init__(seed_of(name))
