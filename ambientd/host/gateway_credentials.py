"""Who this node is to gateways: its key and the tokens issued to it, private files in the state; and where
the gateway's own token is found.

PyNaCl is loaded when the key is used, so a node without a gateway does not pay for it.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ambientd.config.schema import GatewayConfig
from ambientd.host.private_file import make_private, replace_private, sync_folder
from ambientd.host.secrets import SecretError, find_secret, read_secret_file
from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.errors import UnavailableError
from ambientd.ports.gateway_socket import CredentialsError

if TYPE_CHECKING:
    from nacl.signing import SigningKey

KEY_FILE = "gateway_device.key"
FOLDER = "gateway_tokens"
# Where the gateway's own token is looked for, in this order; gateway.token_file comes after the first.
CREDENTIAL = "gateway.token"
VARIABLES = ("OPENCLAW_AUTH_TOKEN", "HELICARRIER_GATEWAY_TOKEN")
_SEED_SIZE = 32


class FileDeviceKey:
    """Implements `ports.gateway_socket.DeviceKey`."""

    def __init__(self, key: "SigningKey") -> None:
        self._key = key
        self.public_key = bytes(key.verify_key)

    def sign(self, payload: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""
        return bytes(self._key.sign(payload).signature)


def load_device_key(state_dir: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> FileDeviceKey:
    """The key of `<state>/gateway_device.key`, made at the first use. Blocks.

    The file holds the seed as 64 hexadecimal digits. Raises CredentialsError for one that others may read,
    that is no regular file, or that holds something else: a new key would need a new pairing, so that is
    for people to decide.
    """
    from nacl.signing import SigningKey

    path = state_dir / KEY_FILE
    if not os.path.lexists(path):
        try:
            make_private(path, random_bytes(_SEED_SIZE).hex())
        except OSError as error:
            raise CredentialsError(f"{path} cannot be written: {_words(error)}") from None
    try:
        seed = bytes.fromhex(read_secret_file(str(path)).reveal().strip())
    except SecretError as error:
        raise CredentialsError(str(error)) from None
    except ValueError:
        seed = b""
    if len(seed) != _SEED_SIZE:
        raise CredentialsError(
            f"{path} is no key: 64 hexadecimal digits were expected. Remove it to pair anew."
        )
    return FileDeviceKey(SigningKey(seed))


class FileGatewayCredentials:
    """Implements `ports.gateway_socket.GatewayCredentials`.

    Tokens that gateways issued are kept one file per URL, named by the URL's hash.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        environ: Mapping[str, str],
        token_file: str | None = None,
        run_sync: RunSync = run_in_thread,
    ) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / FOLDER
        self._environ = environ
        self._token_file = token_file
        self._run_sync = run_sync
        self._key: FileDeviceKey | None = None

    async def key(self) -> FileDeviceKey:
        """The node's key, made at the first use."""
        if self._key is None:
            self._key = await self._run_sync(partial(load_device_key, self._state_dir))
        return self._key

    async def shared_token(self) -> str | None:
        """The gateway's own token, from the first place that gives one."""
        return await self._run_sync(self._shared)

    async def device_token(self, url: str) -> str | None:
        """The token; None when there is none, or when its file is not safe to use."""
        return await self._run_sync(partial(self._load, url))

    async def keep_device_token(self, url: str, token: str) -> None:
        """Replaces it; durable when it returns."""
        await self._guarded(partial(self._save, url, token))

    async def drop_device_token(self, url: str) -> None:
        """Forgets it."""
        await self._guarded(partial(self._drop, url))

    def has_token(self) -> bool:
        """Whether anything is given or kept that could be a token, usable or not. Blocks."""
        try:
            return self._shared() is not None or (self._folder.is_dir() and any(self._folder.iterdir()))
        except CredentialsError:
            return True  # the link says what is wrong with it

    def _shared(self) -> str | None:
        try:
            found = find_secret(CREDENTIAL, environ=self._environ, file=self._token_file, variables=VARIABLES)
        except SecretError as error:
            raise CredentialsError(f"the gateway's token cannot be used: {error}") from None
        return None if found is None else found.reveal()

    def _path(self, url: str) -> Path:
        return self._folder / hashlib.sha256(url.encode()).hexdigest()[:32]

    def _load(self, url: str) -> str | None:
        path = self._path(url)
        if not os.path.lexists(path):
            return None
        try:
            return read_secret_file(str(path)).reveal()
        except SecretError:
            return None  # the shared token is used, and a new one is stored over it

    def _save(self, url: str, token: str) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._path(url)
        replace_private(path, token)

    def _drop(self, url: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(url))
            sync_folder(self._folder)

    async def _guarded(self, work: Callable[[], None]) -> None:
        try:
            await self._run_sync(work)
        except OSError as error:
            raise UnavailableError(f"the device token cannot be stored: {_words(error)}") from None


class LookingCredentials(FileGatewayCredentials):
    """The same for a look from outside: nothing is made, kept or dropped.

    A node that has no key yet shows one for this once; only a gateway on this host takes it without a word.
    """

    async def key(self) -> FileDeviceKey:
        """The node's key; one for this once where there is none."""
        if os.path.lexists(self._state_dir / KEY_FILE):
            return await super().key()
        from nacl.signing import SigningKey

        return FileDeviceKey(SigningKey(os.urandom(_SEED_SIZE)))

    async def keep_device_token(self, url: str, token: str) -> None:
        """Does nothing."""

    async def drop_device_token(self, url: str) -> None:
        """Does nothing."""


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def is_wanted(config: GatewayConfig, state_dir: Path, environ: Mapping[str, str]) -> bool:
    """Whether there is to be a link: as configured, else when a token is found. Blocks."""
    if config.enabled is not None:
        return config.enabled
    return FileGatewayCredentials(state_dir, environ=environ, token_file=config.token_file).has_token()
