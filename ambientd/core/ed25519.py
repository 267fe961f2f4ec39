"""Ed25519 (RFC 8032) and the text form of its public keys, `ed25519:` and 64 hexadecimal digits.

PyNaCl alone verifies: libsodium refuses small-order keys and non-canonical signatures, under which another
library accepted forgeries. It is loaded with the first use.
"""

import functools
from collections.abc import Callable

PREFIX = "ed25519:"
# Peers and issuers of one fleet fit many times; without a bound a stranger's keys would fill the memory.
_KEYS_REMEMBERED = 1024
KEY_BYTES = 32
SIGNATURE_BYTES = 64


def show_key(key: bytes) -> str:
    """The text form of a public key."""
    return PREFIX + key.hex()


def parse_key(text: str) -> bytes | None:
    """The public key that a text names; None when it names none, or one under which anybody could sign."""
    if not text.startswith(PREFIX) or len(text) != len(PREFIX) + 2 * KEY_BYTES:
        return None
    digits = text[len(PREFIX) :]
    if not set(digits) <= set("0123456789abcdef"):
        return None
    key = bytes.fromhex(digits)
    return key if is_sound(key) else None


def parse_seed(text: str) -> bytes | None:
    """The seed in the text of a private key, 64 hexadecimal digits; None when it is anything else."""
    is_seed = len(text) == 2 * KEY_BYTES and set(text) <= set("0123456789abcdef")
    return bytes.fromhex(text) if is_seed else None


@functools.lru_cache(maxsize=_KEYS_REMEMBERED)
def is_sound(key: bytes) -> bool:
    """Whether a public key is a canonical point of the main subgroup (no small order)."""
    from nacl.bindings import crypto_core_ed25519_is_valid_point

    return len(key) == KEY_BYTES and crypto_core_ed25519_is_valid_point(key)


def public_of(seed: bytes) -> bytes:
    """The public key of a 32-byte seed."""
    return secret_of(seed)[KEY_BYTES:]


def secret_of(seed: bytes) -> bytes:
    """Seed and public key, for `sign_with`: finding the key takes as long as signing."""
    from nacl.bindings import crypto_sign_seed_keypair

    return crypto_sign_seed_keypair(seed)[1]


def sign(seed: bytes, message: bytes) -> bytes:
    """The detached signature of a message, 64 bytes."""
    return sign_with(secret_of(seed), message)


def sign_with(secret: bytes, message: bytes) -> bytes:
    """The same. `secret` is what `secret_of` gave, and nothing else: signatures under another key would tell
    the seed."""
    from nacl.bindings import crypto_sign

    return crypto_sign(message, secret)[:SIGNATURE_BYTES]


def verify(key: bytes, message: bytes, signature: bytes, *, sound: bool = False) -> bool:
    """Whether the signature is the key's over exactly this message. Never raises.

    `sound`: the key was found sound before it was stored; looking again would take as long as the signature.
    """
    if len(signature) != SIGNATURE_BYTES or not (sound or is_sound(key)):
        return False
    crypto_sign_open, bad_signature = _opener()
    try:
        crypto_sign_open(signature + message, key)
    except bad_signature:
        return False
    return True


@functools.cache
def _opener() -> tuple[Callable[[bytes, bytes], bytes], type[Exception]]:
    """Found once: the import statements alone would be a tenth of a small verification."""
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    return crypto_sign_open, BadSignatureError
