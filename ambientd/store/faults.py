"""SQLite's errors in the words of `ports.errors`, and values that SQLite must never see."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from ambientd.ports.errors import StoreBusyError, StoreError, StoreFullError

UNAVAILABLE = "STORAGE_UNAVAILABLE"
INT_LIMIT = 2**63
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# Less than this and an I/O error on a file that had to grow is a full disk, whatever SQLite calls it.
_FREE_BYTES_MIN = 64 * 1024


class PassingStoreError(StoreError):
    """A StoreError that may pass without a restart: a read-only file, a failing disk."""


def translate(error: apsw.Error, path: Path) -> Exception:
    """The error to raise for one of SQLite's; a broken constraint is the caller's ValueError."""
    text = str(error)
    match error:
        case apsw.ConstraintError() | apsw.TooBigError() | apsw.MismatchError():
            return ValueError(text)
        case apsw.BusyError() | apsw.LockedError():
            return StoreBusyError(f"another process holds the database: {text}")
        case apsw.InterruptError():
            return StoreBusyError("the query was given up before it ended")
        case apsw.CorruptError() | apsw.NotADBError():
            return StoreError(f"the database is damaged: {text}; restart to set it aside", code=UNAVAILABLE)
    return _translate_disk(error, path)


def _translate_disk(error: apsw.Error, path: Path) -> Exception:
    failed = isinstance(error, (apsw.IOError, apsw.CantOpenError))
    if isinstance(error, apsw.FullError) or (failed and disk_is_full(path.parent)):
        return StoreFullError("the disk is full; nothing was written")
    if failed:
        return PassingStoreError(f"the database's disk failed: {error}", code=UNAVAILABLE)
    if isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError)):
        return PassingStoreError(f"the database cannot be written: {error}", code=UNAVAILABLE)
    return StoreError(f"the database refused: {error}", code=UNAVAILABLE)


def translate_os(error: OSError) -> Exception:
    """The same for errors of the operating system around the database's files."""
    if error.errno in _NO_SPACE:
        return StoreFullError(f"the disk is full: {error}")
    return PassingStoreError(f"the database's files cannot be used: {error}")


def disk_is_full(folder: Path) -> bool:
    """Whether a file in `folder` could not grow or be made: no space, or no inodes."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return False
    return facts.f_bavail * facts.f_frsize < _FREE_BYTES_MIN or (facts.f_files > 0 and facts.f_favail == 0)


def text(value: str | None, name: str) -> str | None:
    """The text, or ValueError for what a text column must not hold: NUL and lone surrogates."""
    if value is None:
        return None
    if "\0" in value:
        raise ValueError(f"{name}: a NUL character cannot be stored")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: a lone surrogate cannot be stored") from None
    return value


def whole(value: int | None, name: str) -> int | None:
    """The number, or ValueError outside 0 … 2^63 - 1."""
    if value is not None and not 0 <= value < INT_LIMIT:
        raise ValueError(f"{name}: {value.bit_length()} bits; must be from 0 to 2^63 - 1")
    return value


def amount(value: float | None, name: str) -> float | None:
    """The number, or ValueError when it is negative, infinite or no number."""
    if value is None:
        return None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: must be a finite number, not below 0")
    return float(value)


@contextmanager
def constraints(subject: str) -> Iterator[None]:
    """Turns a broken constraint inside it into a ValueError that names the subject."""
    try:
        yield
    except apsw.ConstraintError as error:
        raise ValueError(f"{subject}: {error}") from None
