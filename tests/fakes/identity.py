"""A node's key without a file: the cryptography is the real one."""

import hashlib
import os
from datetime import datetime
from pathlib import Path

import trio
from nacl.bindings import (
    crypto_box,
    crypto_box_open,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
)
from nacl.exceptions import CryptoError

from ambientd.core.ed25519 import is_sound, public_of, sign
from ambientd.core.identity import Rollover
from ambientd.ports.errors import IdentityError

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
        if not is_sound(recipient):
            raise ValueError("the recipient's key is none that anybody can have")
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


class SeedIdentity:
    """Implements `ports.identity.IdentityControl`; while `problem` is set the key may not be used."""

    def __init__(self, seed: bytes, *, host_id: str = "sha256:" + "5" * 64) -> None:
        self.seed = seed
        self.host_id = host_id
        self.bound_to: str | None = host_id
        self.problem: str | None = None
        self.place = "memory"
        self.from_credential = False
        self.rollover: Rollover | None = None

    @property
    def known_key(self) -> bytes | None:
        return public_of(self.seed)

    @property
    def public_key(self) -> bytes:
        return self._usable().public_key

    def sign(self, message: bytes) -> bytes:
        return self._usable().sign(message)

    def seal(self, recipient: bytes, message: bytes) -> bytes:
        return self._usable().seal(recipient, message)

    def open(self, sender: bytes, sealed: bytes) -> bytes | None:
        return self._usable().open(sender, sealed)

    async def keep(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.bound_to, self.problem = self.host_id, None
        return True

    async def renew(self, at: datetime) -> Path | None:
        await trio.lowlevel.checkpoint()
        self.seed = bytes(byte ^ 1 for byte in self.seed)
        self.problem = None
        return None

    def _usable(self) -> SealedIdentity:
        if self.problem is not None:
            raise IdentityError(self.problem)
        return SealedIdentity(self.seed)
