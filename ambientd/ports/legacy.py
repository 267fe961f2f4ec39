"""The files of the earlier generation: read, never written."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ambientd.core.legacy import Normalised
from ambientd.ports.store import Store


class LegacyFile(NamedTuple):
    """One file that was looked at. `document` is its JSON; `problem` says why there is none."""

    path: str
    bytes: int
    sha256: str | None
    document: Any
    problem: str | None


class LegacyFiles(Protocol):
    """Reads files of the earlier store."""

    async def read(self, path: str) -> list[LegacyFile]:
        """The file, or every store file in the folder; what cannot be read is told. Never raises OSError."""


class OpenLegacy(Protocol):
    """Makes a store of records that were read; writing to it is refused."""

    def __call__(self, records: Sequence[Normalised], /) -> Store: ...
