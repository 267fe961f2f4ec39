"""Private keys of issuers and what is signed with them, as files of the verbs `policy` and `lease`."""

import os

from ambientd.core.ed25519 import parse_seed
from ambientd.core.text import printable
from ambientd.host.secrets import SecretError, read_secret_file


class FailedError(Exception):
    """Ends the verb; each argument is a line for the operator."""


def read_key(path: str) -> bytes:
    """The seed in a private file. Raises FailedError."""
    try:
        seed = parse_seed(read_secret_file(path).reveal())
    except SecretError as error:
        raise FailedError(*(f"Error: {problem}." for problem in error.problems)) from None
    if seed is None:
        raise FailedError(f"Error: {printable(path)} is no private key (64 hexadecimal digits).")
    return seed


def write_new(path: str, data: bytes, *, mode: int = 0o600) -> None:
    """A file that was not there, complete and on disk, or none. Raises FailedError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except (OSError, ValueError) as error:
        raise cannot(path, error) from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        os.unlink(path)
        raise cannot(path, error) from None


def cannot(path: str, error: OSError | ValueError) -> FailedError:
    """The operator's words for what the system said of a path."""
    if isinstance(error, FileExistsError):
        return FailedError(f"Error: {printable(path)} is there already and is not overwritten.")
    reason = error.strerror if isinstance(error, OSError) else "the path cannot be used"
    return FailedError(f"Error: {printable(path)}: {(reason or 'error').lower()}.")
