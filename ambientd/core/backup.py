"""The form of a backup: one tar file with a manifest first, then configuration, then the database.

The bytes before and between the files are made here, so that a backup can be written, or sent piece by
piece, without being put together on a disk first.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ambientd.core.timefmt import rfc3339_ms

FORMAT = "ambient.backup/1"
FLEET_FORMAT = "ambient.control-plane-backup/1"
MANIFEST = "manifest.json"
DATABASE = "ambient.db"
FLEET_DATABASE = "fleet.db"
IDENTITY = "identity.key"
CONFIG_FOLDER = "config/"
SECRETS_FOLDER = "secrets/"
MANIFEST_MAX = 1024 * 1024
SMALL_MAX = 16 * 1024 * 1024  # any member but the database
MEMBERS_MAX = 1024
_BLOCK = 512
# The database that a backup of each form holds: those of nodes and of control planes are never mixed up.
DATABASES = {FORMAT: DATABASE, FLEET_FORMAT: FLEET_DATABASE}


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a backup; `sha256` in hexadecimal digits."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a backup holds; `counts` are rows per table of the database."""

    format: str
    made_at: str
    version: str
    schema_version: int
    counts: dict[str, int]
    members: list[Member]

    @property
    def database(self) -> str:
        """The name of the database in it."""
        return DATABASES[self.format]

    def member(self, name: str) -> Member | None:
        """The member of that name."""
        return next((member for member in self.members if member.name == name), None)


class Piece(NamedTuple):
    """A run of bytes of the tar: `data` itself, or as many bytes of the member `name`."""

    offset: int
    size: int
    data: bytes | None
    name: str


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it stands in the tar."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read_manifest(raw: bytes, form: str = FORMAT) -> Manifest | str:
    """The manifest of a backup of this form, or a sentence that says why it is none that can be used."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        return f"its manifest cannot be read: {error}"
    if manifest.format != form:
        if manifest.format in DATABASES:
            return f"it is a backup of {'a node' if manifest.format == FORMAT else 'a control plane'}"
        return f"it has the form {manifest.format[:64]!r}, which this program does not know"
    names = [member.name for member in manifest.members]
    if len(set(names)) != len(names) or not all(map(is_member_name, names)):
        return "its manifest names files that no backup has"
    if manifest.member(manifest.database) is None:
        return "it holds no database"
    return manifest


def is_member_name(name: str) -> bool:
    """Whether a backup may hold a file of this name; none leads out of the folder it is unpacked to."""
    if name in (DATABASE, FLEET_DATABASE, IDENTITY):
        return True
    folder, _, rest = name.partition("/")
    folder += "/"
    if folder not in (CONFIG_FOLDER, SECRETS_FOLDER):
        return False
    parts = rest.split("/")
    plain = all(part and part.isprintable() and not part.startswith(".") for part in parts)
    deep = 1 if folder == SECRETS_FOLDER else 2
    return len(parts) <= deep and plain and "\\" not in name and len(name) <= 255


def lay_out(members: Sequence[tuple[str, int]], at: datetime) -> list[Piece]:
    """The pieces of the tar in order, without gaps, for members of these names and sizes."""
    pieces: list[Piece] = []
    offset = 0

    def put(data: bytes | None, size: int, name: str) -> None:
        nonlocal offset
        if size:
            pieces.append(Piece(offset, size, data, name))
            offset += size

    for name, size in members:
        header = _header(name, size, at)
        put(header, len(header), name)
        put(None, size, name)
        padding = bytes(-size % _BLOCK)
        put(padding, len(padding), name)
    end = bytes(2 * _BLOCK)
    put(end, len(end), "")
    return pieces


def total_size(pieces: Sequence[Piece]) -> int:
    """Bytes of the whole tar."""
    return pieces[-1].offset + pieces[-1].size if pieces else 0


def build_manifest(
    *,
    at: datetime,
    version: str,
    schema_version: int,
    counts: dict[str, int],
    members: list[Member],
    form: str = FORMAT,
) -> Manifest:
    """The manifest of a backup made at `at`."""
    return Manifest(
        format=form,
        made_at=rfc3339_ms(at),
        version=version,
        schema_version=schema_version,
        counts=counts,
        members=members,
    )


def _header(name: str, size: int, at: datetime) -> bytes:
    import tarfile  # a third of a megabyte that an idle node does without

    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = int(at.timestamp())
    info.mode = 0o600
    return info.tobuf(tarfile.PAX_FORMAT)
