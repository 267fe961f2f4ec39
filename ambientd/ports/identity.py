"""The node's identity, as those need it who show and change it."""

from datetime import datetime
from pathlib import Path
from typing import Protocol

from ambientd.core.identity import Rollover
from ambientd.ports.autonomy import NodeIdentity


class IdentityControl(NodeIdentity, Protocol):
    """`NodeIdentity`, and what is said of it and done to it. The seed is never among that."""

    @property
    def place(self) -> str:
        """Where the key comes from."""

    @property
    def from_credential(self) -> bool:
        """Whether it is given from outside, so that nothing here may change it."""

    @property
    def problem(self) -> str | None:
        """Why the key may not be used; None when it may."""

    @property
    def bound_to(self) -> str | None:
        """The host id that the key was made on."""

    @property
    def host_id(self) -> str:
        """The id of this host."""

    @property
    def known_key(self) -> bytes | None:
        """The public key, also of one that may not be used; None when there is none to be read."""

    @property
    def rollover(self) -> Rollover | None:
        """The statement that this key followed another."""

    async def keep(self) -> bool:
        """Binds the key to this host; False when it is. Raises IdentityError, OSError."""

    async def renew(self, at: datetime) -> Path | None:
        """Makes a new key, keeps the old one and returns where. Raises IdentityError, OSError."""
