"""Backup files on the disk: written whole or not at all, read with distrust."""

import errno
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from ambientd.core.backup import (
    FORMAT,
    MANIFEST,
    MANIFEST_MAX,
    MEMBERS_MAX,
    SMALL_MAX,
    Manifest,
    Member,
    read_manifest,
)
from ambientd.host.private_file import sync_folder
from ambientd.ports.backup import Progress

_PIECE = 4 * 1024 * 1024
WRITING = "writing"
READING = "reading"


class BackupError(Exception):
    """The file is no backup that can be used; the message is a sentence."""


def write_whole(
    path: str, *, read: Callable[[int, int], bytes], size: int, replace: bool, progress: Progress
) -> None:
    """Writes `size` bytes to the new file `path` (0600), which appears only when it is complete and on disk.

    Raises FileExistsError when it is there and `replace` is false, and OSError; nothing is left then.
    """
    _need_free(path, replace=replace)
    folder, name = os.path.split(os.path.abspath(path))
    partial = os.path.join(folder, f".{name}.{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", buffering=0) as file:
            _copy(read, size, file, progress)
            os.fsync(file.fileno())
        _appear(partial, path, replace=replace)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    sync_folder(folder)


def _need_free(path: str, *, replace: bool) -> None:
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it is there already", path)


def _appear(partial: str, path: str, *, replace: bool) -> None:
    _need_free(path, replace=replace)
    os.replace(partial, path)


def _copy(read: Callable[[int, int], bytes], size: int, file: IO[bytes], progress: Progress) -> None:
    done = 0
    while done < size:
        data = read(done, _PIECE)
        if not data:
            raise OSError("the backup ends early")
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        done += len(data)
        progress(WRITING, done, size)


class BackupReader:
    """One backup file, open; its manifest has been read, its content not yet been checked."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest, infos: dict[str, tarfile.TarInfo]) -> None:
        """Made by `open_backup`."""
        self._tar = tar
        self._infos = infos
        self.manifest = manifest

    def check(self, progress: Progress) -> None:
        """Reads everything and compares it with the manifest. Raises BackupError, OSError."""
        total = sum(member.bytes for member in self.manifest.members)
        done = 0
        for member in self.manifest.members:
            for piece in self._pieces(member):
                done += len(piece)
                progress(READING, done, total)

    def content(self, name: str) -> bytes:
        """A small member, checked. Raises BackupError, OSError."""
        member = self.manifest.member(name)
        if member is None or member.bytes > SMALL_MAX:
            raise BackupError(f"it holds no {name}")
        return b"".join(self._pieces(member))

    def extract(self, name: str, target: str, progress: Progress) -> None:
        """Writes a member to the new file `target` (0600), checked and on disk.

        Raises BackupError, OSError; no file is left then.
        """
        member = self.manifest.member(name)
        if member is None:
            raise BackupError(f"it holds no {name}")
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                for piece in self._pieces(member):
                    file.write(piece)
                    progress(WRITING, file.tell(), member.bytes)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                os.unlink(target)
            raise

    def _pieces(self, member: Member) -> Iterator[bytes]:
        """The member's bytes; raises BackupError behind the last of them when they are not what they were."""
        digest, size = hashlib.sha256(), 0
        file = self._tar.extractfile(self._infos[member.name])
        if file is None:
            raise BackupError(f"{member.name} in it is no file")
        with file:
            while piece := _read(file):
                digest.update(piece)
                size += len(piece)
                yield piece
        if size != member.bytes or digest.hexdigest() != member.sha256:
            raise BackupError(f"{member.name} in it is damaged: its content does not match the manifest")


def _read(file: IO[bytes]) -> bytes:
    try:
        return file.read(_PIECE)
    except tarfile.TarError as error:
        raise BackupError(f"it is cut off or damaged: {error}") from None


@contextmanager
def open_backup(path: str, form: str = FORMAT) -> Iterator[BackupReader]:
    """The backup at `path`, its list of contents compared with its manifest. Raises BackupError, OSError."""
    try:
        with tarfile.open(path, "r:") as tar:
            infos = _infos(tar)
            yield BackupReader(tar, _manifest(tar, infos, form), infos)
    except tarfile.TarError as error:
        raise BackupError(f"it is no backup, or it is damaged: {error}") from None


def _infos(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    infos: dict[str, tarfile.TarInfo] = {}
    while (info := tar.next()) is not None:
        if len(infos) >= MEMBERS_MAX or info.name in infos or not info.isreg() or info.issparse():
            raise BackupError("it holds something that no backup holds")
        infos[info.name] = info
    return infos


def _manifest(tar: tarfile.TarFile, infos: dict[str, tarfile.TarInfo], form: str) -> Manifest:
    info = infos.pop(MANIFEST, None)
    if info is None or info.size > MANIFEST_MAX:
        raise BackupError("it has no manifest")
    file = tar.extractfile(info)
    found = read_manifest(file.read(), form) if file is not None else "it has no manifest"
    if isinstance(found, str):
        raise BackupError(found)
    wanted = {member.name: member.bytes for member in found.members}
    if wanted != {name: info.size for name, info in infos.items()}:
        raise BackupError("its files are not those that its manifest names")
    if any(size > SMALL_MAX for name, size in wanted.items() if name != found.database):
        raise BackupError("its configuration is larger than any configuration is")
    return found
