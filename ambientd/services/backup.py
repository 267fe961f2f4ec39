"""Makes one backup at a time and keeps it until it has been fetched, or nobody asks for it any more."""

from collections.abc import Callable
from functools import partial

import msgspec
import trio

from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected
from ambientd.flows.backup import Backups, Image, make_backup
from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.errors import StoreError, StoreFullError, UnavailableError
from ambientd.ports.store import Store
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log
from ambientd.wire.backup_messages import BackupState, BackupView

# A copy that nobody asks about for this long, in seconds, is given up: its space is worth more.
KEPT_SEC = 120.0
# Of one answer, in bytes: large enough that the round trips do not count, small enough to hold in memory.
PIECE_MAX = 4 * 1024 * 1024


class BackupService:
    """Implements `ports.backup.BackupControl`; a copy takes disk space only until it has been fetched."""

    def __init__(
        self,
        *,
        backups: Backups,
        store: Store,
        new_id: Callable[[], str],
        log: Log,
        run_sync: RunSync = run_in_thread,
    ) -> None:
        self._backups = backups
        self._store = store
        self._new_id = new_id
        self._log = log
        self._run_sync = run_sync
        self._bell = Bell()
        self._view = BackupView(backup_id="", state=BackupState.GONE)
        self._image: Image | None = None
        self._actor = ""
        self._asked_at = 0.0
        self._reading = 0

    # --- what the routes use

    def order(self, *, with_identity: bool, actor: str) -> BackupView | Rejected:
        """Begins a backup. One that was made and is not asked for at this moment gives way."""
        busy = self._view.state is BackupState.MAKING or self._reading > 0
        if busy:
            return Rejected("TOO_MANY_REQUESTS", "another backup is being made or fetched; try again shortly")
        self._drop()
        self._view = BackupView(
            backup_id=self._new_id(), state=BackupState.MAKING, with_identity=with_identity
        )
        self._actor = actor
        self._touch()
        return self._view

    def view(self, backup_id: str) -> BackupView | Rejected:
        """How far it is; asking keeps it."""
        if not backup_id or backup_id != self._view.backup_id:
            return Rejected("NOT_FOUND", "there is no backup of that id any more")
        self._touch()
        return self._view

    async def piece(self, backup_id: str, offset: int) -> bytes | Rejected:
        """The next bytes. With the last of them the copy is given up."""
        view = self.view(backup_id)
        if isinstance(view, Rejected):
            return view
        image = self._image
        if image is None:
            return Rejected("NOT_FOUND", f"the backup is not there to be fetched: it is {view.state.value}")
        self._reading += 1
        try:
            data = await self._run_sync(partial(image.read, offset, PIECE_MAX))
        finally:
            self._reading -= 1
            self._touch()
        if offset + len(data) >= image.size and image is self._image:
            self._drop()
        return data

    def _touch(self) -> None:
        self._asked_at = trio.current_time()
        self._bell.ring()

    def _drop(self) -> None:
        if self._image is not None:
            self._image.close()
            self._image = None
            self._change(state=BackupState.GONE)

    def _change(self, **facts: object) -> None:
        self._view = msgspec.structs.replace(self._view, **facts)

    # --- its life

    async def run(self) -> None:
        """Makes what is ordered and gives up what nobody fetches, until cancelled."""
        try:
            while True:
                idle = self._image is not None and not self._reading
                await self._bell.wait(self._asked_at + KEPT_SEC if idle else None)
                if self._view.state is BackupState.MAKING:
                    await self._make()
                elif idle and not self._reading and trio.current_time() >= self._asked_at + KEPT_SEC:
                    self._drop()
        finally:
            self._drop()
            if self._view.state is BackupState.MAKING:  # a crash on the way: the next order may begin
                self._failed("INTERNAL_ERROR", "the backup was interrupted")

    async def _make(self) -> None:
        identity = self._view.with_identity
        try:
            image = await make_backup(self._backups, with_identity=identity, progress=self._progress)
        except StoreFullError as error:
            self._failed("STORAGE_FULL", str(error))
            return
        except (StoreError, UnavailableError, OSError) as error:
            self._failed(getattr(error, "code", "STORAGE_UNAVAILABLE"), str(error))
            return
        self._image = image
        names = [member.name for member in image.manifest.members]
        self._touch()
        self._change(
            state=BackupState.READY,
            bytes=image.size,
            counts=image.manifest.counts,
            schema_version=image.manifest.schema_version,
            files=names,
        )
        self._log.info("backup.made", backup=self._view.backup_id, bytes=image.size)
        await self._record(image, identity="identity.key" in names)

    async def _record(self, image: Image, *, identity: bool) -> None:
        entry = AuditEntry(
            kind="backup.made",
            at=self._backups.clock.now(),
            actor=self._actor,
            subject=self._view.backup_id,
            detail={"bytes": image.size, "identity": identity},
        )
        try:
            await self._store.write(lambda tx: tx.audit.append(entry))
        except (StoreError, UnavailableError) as error:  # a disk that fills up is a reason for backups
            self._log.warning("backup.not_recorded", reason=str(error))

    def _progress(self, stage: str, done: int, total: int) -> None:
        """Called from the thread that copies: one assignment, which no reader can see half of."""
        self._change(stage=stage, done=done, total=total)

    def _failed(self, code: str, reason: str) -> None:
        self._change(state=BackupState.FAILED, error_code=code, error=reason)
        self._log.warning("backup.failed", backup=self._view.backup_id, reason=reason)
