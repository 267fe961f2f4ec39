"""Messages of the backup's routes (`/api/v1/node/backup`). Keys are only ever added."""

from enum import StrEnum

import msgspec


class BackupState(StrEnum):
    """Life of a backup on the node; `failed` and `gone` are final."""

    MAKING = "making"
    READY = "ready"
    FAILED = "failed"
    GONE = "gone"


class BackupRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/backup`."""

    with_identity: bool = False


class BackupView(msgspec.Struct, omit_defaults=True):
    """One backup. While it is made, `stage`, `done` and `total` tell how far it is (bytes or pages).

    When it is ready, `bytes` is the size of the whole file and `counts` its rows per table; `files` are the
    names in it.
    """

    backup_id: str
    state: BackupState
    stage: str = ""
    done: int = 0
    total: int = 0
    bytes: int = 0
    counts: dict[str, int] | None = None
    schema_version: int = 0
    with_identity: bool = False
    files: list[str] | None = None
    error_code: str | None = None
    error: str | None = None
