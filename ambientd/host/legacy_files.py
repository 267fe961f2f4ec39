"""Reads the files of the earlier JSON store, within bounds."""

import hashlib
import os
from functools import partial
from typing import Any

import msgspec

from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.legacy import LegacyFile

FILE_MAX_BYTES = 256 * 1024 * 1024  # it is held in memory as a whole
FILES_MAX = 256
USUAL_PLACES = ("v3-intelligence.json", os.path.join("data", "v3-intelligence.json"))


class DiskLegacyFiles:
    """`ports.legacy.LegacyFiles` on this machine."""

    def __init__(self, *, run_sync: RunSync = run_in_thread) -> None:
        self._run = run_sync

    async def read(self, path: str) -> list[LegacyFile]:
        """The file; of a folder the store's usual file, else every *.json in it, by name."""
        return await self._run(partial(_read_all, path))


def _read_all(path: str) -> list[LegacyFile]:
    try:
        names = _files_in(path) if os.path.isdir(path) else [path]
    except OSError as error:
        return [_unreadable(path, (error.strerror or str(error)).lower())]
    if not names:
        return [_unreadable(path, "it holds no *.json")]
    return [_read(name) for name in names[:FILES_MAX]]


def _files_in(folder: str) -> list[str]:
    usual = [os.path.join(folder, name) for name in USUAL_PLACES]
    found = [path for path in usual if os.path.isfile(path)]
    return found[:1] or sorted(
        os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".json")
    )


def _read(path: str) -> LegacyFile:
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        return _unreadable(path, (error.strerror or str(error)).lower())
    if len(raw) > FILE_MAX_BYTES:
        return _unreadable(path, f"it is larger than {FILE_MAX_BYTES // 2**20} MiB")
    digest = hashlib.sha256(raw).hexdigest()
    try:
        document: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return LegacyFile(path, len(raw), digest, None, f"it is not JSON: {error}")
    return LegacyFile(path, len(raw), digest, document, None)


def _unreadable(path: str, problem: str) -> LegacyFile:
    return LegacyFile(path, 0, None, None, problem)
