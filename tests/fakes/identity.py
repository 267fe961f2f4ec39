"""An identity over a seed, without a file."""

from datetime import datetime
from pathlib import Path

import trio

from ambientd.core.ed25519 import public_of, sign
from ambientd.core.identity import Rollover
from ambientd.ports.errors import IdentityError


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
        self._need()
        return public_of(self.seed)

    def sign(self, message: bytes) -> bytes:
        self._need()
        return sign(self.seed, message)

    def seal(self, recipient: bytes, message: bytes) -> bytes:
        raise NotImplementedError

    def open(self, sender: bytes, sealed: bytes) -> bytes | None:
        raise NotImplementedError

    async def keep(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.bound_to, self.problem = self.host_id, None
        return True

    async def renew(self, at: datetime) -> Path | None:
        await trio.lowlevel.checkpoint()
        self.seed = bytes(byte ^ 1 for byte in self.seed)
        self.problem = None
        return None

    def _need(self) -> None:
        if self.problem is not None:
            raise IdentityError(self.problem)
