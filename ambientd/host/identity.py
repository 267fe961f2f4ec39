"""The node's identity on this machine: its key file, and what the key does.

The file is made at the first start and bound to the host it was made on. A copy of the state on another
host, a file that others may read, or one that is damaged is not used: everything that needs a signature is
refused until an operator says which it is to be. PyNaCl is loaded when the key is first used.
"""

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from ambientd.core.backup import IDENTITY
from ambientd.core.ed25519 import is_sound, public_of, secret_of, sign_with
from ambientd.core.identity import SEED_BYTES, KeyFile, Keys, Rollover, parse_key_file, roll_over
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.private_file import drop_drafts, make_private, replace_private, sync_folder
from ambientd.host.secrets import SecretError, find_secret, read_secret_file
from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.errors import IdentityError

CREDENTIAL = "ambient.identity"
SEALED_MAX = 16 * 1024 * 1024
_NONCE_BYTES = 24
_SHARED_KEPT = 256  # keys of peers; a LAN has fewer
_REMEDY = "ambientctl identity keep binds it to this host, ambientctl identity renew makes a new one"
_REPAIR = "put it back from a backup, or make a new one: ambientctl identity renew"


class FileIdentity:
    """Implements `ports.autonomy.NodeIdentity` and `ports.identity.IdentityControl`."""

    def __init__(
        self,
        state_dir: Path,
        *,
        host_id: str,
        environ: Mapping[str, str],
        random_bytes: Callable[[int], bytes] = os.urandom,
        run_sync: RunSync = run_in_thread,
    ) -> None:
        """Nothing is read before `load`."""
        self.path = state_dir / IDENTITY
        self._host_id = host_id
        self._environ = environ
        self._random_bytes = random_bytes
        self._run_sync = run_sync
        self._file: KeyFile | None = None
        self._secret: bytes | None = None  # the seed that was used last, and its public key
        self._shared: dict[tuple[bytes, bytes], bytes] = {}  # by seed and the other's key
        self._from_credential = False
        self._problem: str | None = "the node's identity was not loaded"

    # --- finding the key

    def load(self, *, create: bool = True) -> None:
        """Reads the key, and makes one where there is none (`create`). Blocks, never raises: `problem` says
        why the key may not be used."""
        self._file, self._problem = None, None
        try:
            found = find_secret(CREDENTIAL, environ=self._environ)
            self._from_credential = found is not None
            if found is None and not os.path.lexists(self.path):
                if not create:
                    self._problem = f"{self.path} is not there; the daemon makes it when it starts"
                    return
                self._make()
            text = (found or read_secret_file(str(self.path))).reveal()
        except SecretError as error:
            self._problem = f"{error}; {_REPAIR}"
        except OSError as error:
            self._problem = f"{self.path} cannot be written: {_words(error)}"
        else:
            self._take(text)

    def _make(self) -> None:
        drop_drafts(self.path)
        make_private(self.path, KeyFile(seed=self._random_bytes(SEED_BYTES), host=self._host_id).text)

    def _take(self, text: str) -> None:
        parsed = parse_key_file(text)
        if isinstance(parsed, str):
            self._problem = f"{self.place} {parsed}; {_REPAIR}"
            return
        self._file = parsed
        if parsed.host is not None and parsed.host != self._host_id:
            there, here = parsed.host[:19], self._host_id[:19]
            self._problem = f"{self.place} was made on another host ({there}…, this is {here}…); {_REMEDY}"

    # --- what is said of it

    @property
    def place(self) -> str:
        """Where the key comes from."""
        return f"credential {CREDENTIAL}" if self._from_credential else str(self.path)

    @property
    def from_credential(self) -> bool:
        """Whether it is given from outside, so that nothing here may change it."""
        return self._from_credential

    @property
    def problem(self) -> str | None:
        """Why the key may not be used; None when it may."""
        return self._problem

    @property
    def bound_to(self) -> str | None:
        """The host id that the key was made on."""
        return None if self._file is None else self._file.host

    @property
    def host_id(self) -> str:
        """The id of this host."""
        return self._host_id

    @property
    def known_key(self) -> bytes | None:
        """The public key, also of one that may not be used; None when there is none to be read."""
        return None if self._file is None else self._public_of(self._file.seed)

    @property
    def rollover(self) -> Rollover | None:
        """The statement that this key followed another, as the file has it."""
        return None if self._file is None else self._file.rollover

    def _public_of(self, seed: bytes) -> bytes:
        return self._secret_of(seed)[SEED_BYTES:]

    def _secret_of(self, seed: bytes) -> bytes:
        if self._secret is None or self._secret[:SEED_BYTES] != seed:
            self._secret = secret_of(seed)
        return self._secret

    # --- `ports.autonomy.NodeIdentity`

    def _seed(self) -> bytes:
        if self._problem is not None or self._file is None:
            raise IdentityError(f"the node's key may not be used: {self._problem or 'there is none'}")
        return self._file.seed

    @property
    def public_key(self) -> bytes:
        """32 bytes. Raises IdentityError."""
        return self._public_of(self._seed())

    def sign(self, message: bytes) -> bytes:
        """A detached signature, 64 bytes. Raises IdentityError."""
        return sign_with(self._secret_of(self._seed()), message)

    def seal(self, recipient: bytes, message: bytes) -> bytes:
        """A nonce and the box. Raises IdentityError, and ValueError for a key that nobody can have."""
        from nacl.bindings import crypto_box_afternm

        shared = self._shared_key(recipient)
        if shared is None:
            raise ValueError("the recipient's key is none that anybody can have")
        nonce = self._random_bytes(_NONCE_BYTES)
        return nonce + crypto_box_afternm(message, nonce, shared)

    def open(self, sender: bytes, sealed: bytes) -> bytes | None:
        """What that sender sealed for this node, None for anything else. Raises IdentityError."""
        from nacl.bindings import crypto_box_open_afternm
        from nacl.exceptions import CryptoError

        shared = self._shared_key(sender)
        if shared is None or not _NONCE_BYTES < len(sealed) <= SEALED_MAX:
            return None
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return crypto_box_open_afternm(box, nonce, shared)
        except (CryptoError, ValueError):
            return None

    def _shared_key(self, other: bytes) -> bytes | None:
        """What this key and another have in common; None for a key that nobody can have. It takes ten times
        as long as sealing a small message, so those of the last peers are kept."""
        from nacl.bindings import (
            crypto_box_beforenm,
            crypto_sign_ed25519_pk_to_curve25519,
            crypto_sign_ed25519_sk_to_curve25519,
        )

        seed = self._seed()
        shared = self._shared.get((seed, other))
        if shared is not None:
            return shared
        if not is_sound(other):
            return None
        own = crypto_sign_ed25519_sk_to_curve25519(self._secret_of(seed))
        shared = crypto_box_beforenm(crypto_sign_ed25519_pk_to_curve25519(other), own)
        while len(self._shared) >= _SHARED_KEPT:
            del self._shared[next(iter(self._shared))]
        self._shared[seed, other] = shared
        return shared

    # --- what an operator orders

    async def keep(self) -> bool:
        """Binds the key to this host; False when it is. Raises IdentityError, OSError."""
        return await self._run_sync(self._keep)

    async def renew(self, at: datetime) -> Path | None:
        """Makes a new key; the old one, or what is in its place, is kept beside it.

        Returns where that stands, None when nothing was there; `rollover` is the statement, None when the
        old key could not be read. Raises IdentityError, OSError; nothing has changed then.
        """
        return await self._run_sync(partial(self._renew, at))

    def _keep(self) -> bool:
        self._need_changeable()
        if self._file is None:
            raise IdentityError(f"there is no key to keep: {self._problem}")
        if self._file.host == self._host_id:
            return False
        kept = KeyFile(seed=self._file.seed, host=self._host_id, rollover=self._file.rollover)
        replace_private(self.path, kept.text)
        self._file, self._problem = kept, None
        return True

    def _renew(self, at: datetime) -> Path | None:
        self._need_changeable()
        seed = self._random_bytes(SEED_BYTES)
        public, rollover = public_of(seed), None
        if self._file is not None:
            old = self._file
            rollover = roll_over(
                Keys(seed=old.seed, public=self._public_of(old.seed), host=old.host or ""),
                Keys(seed=seed, public=public, host=self._host_id),
                at,
            )
        made = KeyFile(seed=seed, host=self._host_id, rollover=rollover)
        previous = self._set_aside(at)
        replace_private(self.path, made.text)
        self._file, self._problem = made, None
        return previous

    def _need_changeable(self) -> None:
        if self._from_credential:
            raise IdentityError(
                f"the node's key is the credential {CREDENTIAL}: change it where the unit gets it from"
            )

    def _set_aside(self, at: datetime) -> Path | None:
        """A second name for what is there, so that a crash never leaves the node without any."""
        if not os.path.lexists(self.path):
            return None
        stamp = rfc3339_ms(at).replace("-", "").replace(":", "").replace(".", "")
        name = f"{self.path.name}.previous-{stamp}"
        previous, copy = self.path.with_name(name), 1
        while os.path.lexists(previous):  # a clock that was set back
            copy += 1
            previous = self.path.with_name(f"{name}.{copy}")
        os.link(self.path, previous, follow_symlinks=False)
        if stat.S_ISREG(previous.lstat().st_mode):
            with suppress(OSError):  # another user's: it stays as it is
                previous.chmod(0o600)
        sync_folder(self.path.parent)
        return previous


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
