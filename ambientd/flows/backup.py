"""Making a backup: a checked copy of the database, the configuration, and a manifest over both (R3.149)."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ambientd.core.backup import (
    DATABASES,
    FORMAT,
    IDENTITY,
    MANIFEST,
    Manifest,
    Member,
    Piece,
    build_manifest,
    encode_manifest,
    lay_out,
    total_size,
)
from ambientd.ports.backup import BackupPlace, ExtraFile, Held, Progress, Snapshots
from ambientd.ports.clock import Clock


class Backups(msgspec.Struct, frozen=True, kw_only=True):
    """What making a backup needs, given once.

    `configuration` reads the files as they are now; `identity` the key, None when there is none; `form` is
    that of a node's or of a control plane's backup.
    """

    snapshots: Snapshots
    place: BackupPlace
    clock: Clock
    version: str
    configuration: Callable[[], Sequence[ExtraFile]]
    identity: Callable[[], bytes | None]
    form: str = FORMAT


class Image:
    """A whole backup that can be read piece by piece; it lasts until `close`."""

    def __init__(self, manifest: Manifest, small: Sequence[ExtraFile], database: Held, at: datetime) -> None:
        """`small` are the members before the database, the manifest not among them."""
        self.manifest = manifest
        self._database = database
        first = ExtraFile(MANIFEST, encode_manifest(manifest))
        self._small = {file.name: file.content for file in (first, *small)}
        sizes = [(name, len(content)) for name, content in self._small.items()]
        self._pieces = lay_out([*sizes, (manifest.database, database.size)], at)
        self._offsets = [piece.offset for piece in self._pieces]
        self.size = total_size(self._pieces)

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Blocks on the disk. Raises OSError."""
        found = []
        end = min(offset + length, self.size)
        while offset < end:
            piece = self._pieces[bisect_right(self._offsets, offset) - 1]
            start = offset - piece.offset
            data = self._part(piece, start, min(piece.size - start, end - offset))
            found.append(data)
            offset += len(data)
        return b"".join(found)

    def _part(self, piece: Piece, start: int, length: int) -> bytes:
        if piece.data is not None:
            return piece.data[start : start + length]
        if piece.name in self._small:
            return self._small[piece.name][start : start + length]
        data = self._database.read(start, length)
        if not data:
            raise OSError("the copy of the database is shorter than it was")
        return data

    def close(self) -> None:
        """Gives the copy's space back."""
        self._database.close()


async def make_backup(backups: Backups, *, with_identity: bool, progress: Progress) -> Image:
    """A checked backup of this instant; the caller closes it.

    Raises StoreError, StoreFullError, OSError; nothing is left on the disk then, nor when cancelled.
    """
    at = backups.clock.now()
    small = list(backups.configuration())
    key = backups.identity() if with_identity else None
    if key is not None:
        small.append(ExtraFile(IDENTITY, key))
    path = await backups.place.prepare()
    try:
        facts = await backups.snapshots.snapshot(path, progress)
        held = await backups.place.hold(path, progress)
    except BaseException:
        await backups.place.discard(path)
        raise
    members = [_member(file) for file in small]
    members.append(Member(name=DATABASES[backups.form], bytes=held.size, sha256=held.sha256))
    manifest = build_manifest(
        at=at,
        version=backups.version,
        schema_version=facts.schema_version,
        counts=dict(facts.counts),
        members=members,
        form=backups.form,
    )
    return Image(manifest, small, held, at)


def _member(file: ExtraFile) -> Member:
    digest = hashlib.sha256(file.content).hexdigest()
    return Member(name=file.name, bytes=len(file.content), sha256=digest)
