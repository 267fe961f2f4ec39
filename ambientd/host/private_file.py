"""Files that only their owner may read (0600), whole or not at all, also after a power cut."""

import os
from contextlib import suppress
from pathlib import Path

_PRIVATE = 0o600


def make_private(path: Path, text: str) -> bool:
    """A new file; False when there is one, or another process makes one meanwhile: that stays.

    Raises OSError.
    """
    draft, made = _write_draft(path, text), False
    try:
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it never replaces
            made = True
    finally:
        os.unlink(draft)
    sync_folder(path.parent)
    return made


def replace_private(path: Path, text: str) -> None:
    """Replaces a file in one step. Raises OSError; the old one stays then."""
    os.rename(_write_draft(path, text), path)
    sync_folder(path.parent)


def drop_drafts(path: Path) -> None:
    """Removes what a crash left of `path` while it was written; for files of one user at a time."""
    with suppress(OSError):
        for draft in path.parent.glob(f"{path.stem}.new*"):
            draft.unlink()


def _write_draft(path: Path, text: str) -> Path:
    draft = path.with_suffix(f".new{os.getpid()}")
    with suppress(FileNotFoundError):
        os.unlink(draft)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)
    try:
        view = memoryview(text.encode() + (b"" if text.endswith("\n") else b"\n"))
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
    finally:
        os.close(fd)
    return draft


def sync_folder(folder: Path | str) -> None:
    """Makes names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
