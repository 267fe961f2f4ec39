"""Files that appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ambientctl.text import inert
from ambientctl.trouble import CommandError
from ambientd.wire import exits


def put_all(descriptor: int, data: bytes) -> None:
    """Writes all of it. Raises OSError, BrokenPipeError among them."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def need_free(path: str, *, replace: bool) -> None:
    """Raises CommandError when something has that name and is not to be replaced."""
    if os.path.lexists(path) and not replace:
        raise CommandError(exits.FAILED, f"Error: {inert(path)} is there already; --force replaces it.")


@contextmanager
def whole_file(path: str, *, replace: bool) -> Iterator[int]:
    """A descriptor to write to; the file appears under its name at the end of the block, complete and on
    disk, or not at all. Raises OSError."""
    folder, name = os.path.split(os.path.abspath(path))
    partial = os.path.join(folder, f".{name}.{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        need_free(path, replace=replace)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
