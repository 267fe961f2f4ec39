"""Retention: what is old goes, from the ledger and from the node's folders (specification 9.2.5, R2.90).

A dry run makes a plan and says what it would remove; a run carries one out. Removal goes in small writes
with a rest between them, so that nothing else waits long.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TypeVar

import msgspec

from ambientd.config.schema import RetentionConfig, SessionsConfig, SpoolConfig
from ambientd.core.pruning import due
from ambientd.core.records import AgedSessions, AuditEntry
from ambientd.core.retention import CutOff, Plan, build_plan, facts, find_plan
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected, StoreFullError, UnavailableError
from ambientd.ports.spool import BLOCKED, DONE, REJECTED, KeptFiles, SessionFolders
from ambientd.ports.store import Store, Transaction
from ambientd.wire.enums import TERMINAL
from ambientd.wire.messages import RetentionAnswer, RetentionRow
from ambientd.wire.routes import SCHEMA_RETENTION

EVENTS, USAGE, SESSIONS = "session_events", "session_usage", "session_ledger"
AGGREGATES = ("daily_usage_agg", "model_perf_agg")
FOLDERS = (DONE, REJECTED, BLOCKED)
PRIVATE = "sessions"  # the folders of sessions
DAY_SEC = 86_400
# On a full disk only the reserve is there to write into: batches are halved down to this.
BATCH_MIN = 5
VACUUM_PAGES = 128
AGGREGATE_BYTES = 160  # of one row with its indexes, measured
TEXT_PAGES = 64
# A full-text index that lost less than this part shrinks by itself as sessions come in.
TIDY_SHARE = 10

T = TypeVar("T")


async def _no_rest() -> None:
    """For runs that nothing else waits for."""


async def _no_room() -> bool:
    """There is no reserve."""
    return False


class Upkeep(msgspec.Struct, frozen=True, kw_only=True):
    """What retention needs, given once.

    `rest` is called between two writes; `make_room` gives up the reserve of a full disk, if there is one.
    """

    store: Store
    files: KeptFiles
    folders: SessionFolders
    clock: Clock
    spool_bounds: Callable[[], SpoolConfig]
    session_bounds: Callable[[], SessionsConfig]
    ledger_bounds: Callable[[], RetentionConfig] = RetentionConfig
    rest: Callable[[], Awaitable[None]] = _no_rest
    make_room: Callable[[], Awaitable[bool]] = _no_room


def new_plan(upkeep: Upkeep) -> Plan:
    """The plan of this moment."""
    return build_plan(_keeps(upkeep), upkeep.clock.now())


def known_plan(upkeep: Upkeep, plan_id: str) -> Plan | Rejected:
    """The plan that a dry run named within the last hour."""
    plan = find_plan(plan_id, _keeps(upkeep), upkeep.clock.now())
    if plan is None:
        return Rejected(
            "PLAN_UNKNOWN",
            f"no plan {plan_id[:64]!r}: it is older than an hour, or the settings changed since; "
            "make a new one with a dry run",
        )
    return plan


def _keeps(upkeep: Upkeep) -> Mapping[str, float]:
    ledger, spool = upkeep.ledger_bounds(), upkeep.spool_bounds()
    return {
        **dict.fromkeys((EVENTS, USAGE, SESSIONS), ledger.raw),
        **dict.fromkeys(AGGREGATES, ledger.aggregates),
        **{f"inbox/{folder}": spool.keep for folder in FOLDERS},
        # A folder that outlived its session's row would be nobody's.
        PRIVATE: min(upkeep.session_bounds().keep_folders, ledger.raw),
    }


class _Account:
    """What goes of each place, and the answer made of it."""

    def __init__(self, plan: Plan, at: datetime, used: int, *, dry_run: bool) -> None:
        self._plan = plan
        self._at = at
        self._used = used
        self._dry_run = dry_run
        self._found = {cutoff.name: (0, 0) for cutoff in plan.cutoffs}

    def add(self, name: str, rows: int, size: int) -> None:
        before_rows, before_size = self._found[name]
        self._found[name] = before_rows + rows, before_size + size

    def add_sessions(self, found: AgedSessions) -> None:
        self.add(EVENTS, found.events, found.event_bytes)
        self.add(USAGE, found.usage, found.usage_bytes)
        self.add(SESSIONS, found.sessions, found.session_bytes)

    def rows(self) -> dict[str, int]:
        return {name: rows for name, (rows, _) in self._found.items()}

    def answer(self, *, running: bool = False, ended: datetime | None = None) -> RetentionAnswer:
        return RetentionAnswer(
            schema=SCHEMA_RETENTION,
            dry_run=self._dry_run,
            plan_id=self._plan.plan_id,
            started_at=rfc3339_ms(self._at),
            used_bytes=self._used,
            tables=[_row(cutoff, *self._found[cutoff.name]) for cutoff in self._plan.cutoffs],
            running=running,
            ended_at=None if ended is None else rfc3339_ms(ended),
        )


def _row(cutoff: CutOff, rows: int, size: int) -> RetentionRow:
    return RetentionRow(
        name=cutoff.name,
        keep_days=int(cutoff.keep // DAY_SEC),
        keep_sec=round(cutoff.keep),
        before=rfc3339_ms(cutoff.before),
        rows=rows,
        bytes=size,
    )


# --- the dry run


async def preview(upkeep: Upkeep, *, actor: str) -> RetentionAnswer:
    """A plan and what it would remove. Changes nothing but the audit, which gets a record of it.

    Raises OSError and what the store raises; on a full disk there is no audit record.
    """
    plan, now = new_plan(upkeep), upkeep.clock.now()

    def work(tx: Transaction) -> tuple[int, AgedSessions, dict[str, int]]:
        aggregates = {name: tx.retention.count_aggregates(name, plan.of(name).before) for name in AGGREGATES}
        return tx.retention.used_bytes(), tx.retention.count(plan.of(SESSIONS).before), aggregates

    used, sessions, aggregates = await upkeep.store.read(work)
    account = _Account(plan, now, used, dry_run=True)
    account.add_sessions(sessions)
    for name, rows in aggregates.items():
        account.add(name, rows, rows * AGGREGATE_BYTES)
    for folder in FOLDERS:
        await _prune_folder(upkeep, plan, folder, account, dry_run=True)
    await _prune_sessions(upkeep, plan, account, dry_run=True)
    entry = AuditEntry(kind="retention.plan", at=now, actor=actor, subject=plan.plan_id, detail=facts(plan))
    try:
        await upkeep.store.write(lambda tx: tx.audit.append(entry))
    except StoreFullError:
        return account.answer()  # the plan is what helps then
    return account.answer()


# --- the run


async def run(
    upkeep: Upkeep, plan: Plan, *, actor: str, tell: Callable[[RetentionAnswer], None]
) -> RetentionAnswer:
    """Removes what a plan names. The audit has a record before the first removal and one at the end.

    `tell` gets the account so far, again and again. Raises OSError and what the store raises; what was
    removed until then stays removed, and the next run goes on from there. The same when cancelled.
    """
    now = upkeep.clock.now()
    used, size = await upkeep.store.read(lambda tx: (tx.retention.used_bytes(), tx.retention.file_bytes()))
    account = _Account(plan, now, used, dry_run=False)
    intent = AuditEntry(kind="retention.run", at=now, actor=actor, subject=plan.plan_id, detail=facts(plan))
    await _write(upkeep, lambda tx: tx.audit.append(intent))
    tell(account.answer(running=True))
    for folder in FOLDERS:
        await _prune_folder(upkeep, plan, folder, account, dry_run=False)
    await _prune_sessions(upkeep, plan, account, dry_run=False)
    await _remove_sessions(upkeep, plan, account, tell)
    for name in AGGREGATES:
        await _remove_aggregates(upkeep, plan, name, account)
    tell(account.answer(running=True))
    await _tidy(upkeep, account.rows()[SESSIONS])
    done = AuditEntry(
        kind="retention.done", at=upkeep.clock.now(), actor=actor, subject=plan.plan_id, detail=account.rows()
    )
    await _write(upkeep, lambda tx: tx.audit.append(done))
    answer = account.answer(ended=done.at)
    answer.freed_bytes = max(0, size - await upkeep.store.read(lambda tx: tx.retention.file_bytes()))
    return answer


async def _write(upkeep: Upkeep, work: Callable[[Transaction], T]) -> T:
    """A write that may use up the reserve: what retention writes is what makes room."""
    try:
        return await upkeep.store.write(work)
    except StoreFullError:
        if not await upkeep.make_room():
            raise
    return await upkeep.store.write(work)


async def _remove_sessions(
    upkeep: Upkeep, plan: Plan, account: _Account, tell: Callable[[RetentionAnswer], None]
) -> None:
    before, batch, place = plan.of(SESSIONS).before, upkeep.ledger_bounds().batch, ("", "")
    while True:
        size, behind = batch, place
        try:
            removed = await _write(upkeep, lambda tx: tx.retention.remove(before, size, behind))  # noqa: B023 - called before the next turn
        except StoreFullError:
            if batch <= BATCH_MIN:
                raise
            batch = max(BATCH_MIN, batch // 2)
            continue
        if removed.found.sessions == 0:
            return
        account.add_sessions(removed.found)
        place = removed.place
        tell(account.answer(running=True))
        await upkeep.rest()


async def _remove_aggregates(upkeep: Upkeep, plan: Plan, name: str, account: _Account) -> None:
    before = plan.of(name).before
    while (rows := await _write(upkeep, lambda tx: tx.retention.remove_aggregates(name, before))) is not None:
        account.add(name, rows, rows * AGGREGATE_BYTES)
        await upkeep.rest()


async def _tidy(upkeep: Upkeep, removed: int) -> None:
    """Gives the room back: first inside the full-text index, then the file's free pages."""
    if removed == 0:
        return
    left = await upkeep.store.read(lambda tx: tx.ledger.count())
    if removed * TIDY_SHARE >= left + removed:
        more = await _write(upkeep, lambda tx: tx.retention.tidy_text(TEXT_PAGES, start=True))
        while more:
            await upkeep.rest()
            more = await _write(upkeep, lambda tx: tx.retention.tidy_text(TEXT_PAGES, start=False))
    while await _write(upkeep, lambda tx: tx.retention.give_back(VACUUM_PAGES)):
        await upkeep.rest()


# --- files


async def _prune_folder(upkeep: Upkeep, plan: Plan, folder: str, account: _Account, *, dry_run: bool) -> None:
    name = f"inbox/{folder}"
    cutoff = plan.of(name)
    gone = due(
        await upkeep.files.kept(folder),
        keep=cutoff.keep,
        keep_at_least=upkeep.spool_bounds().keep_at_least,
        now=cutoff.before.timestamp() + cutoff.keep,
    )
    if not dry_run:
        await upkeep.files.remove(folder, [name for item in gone for name in item.names])
    account.add(name, len(gone), sum(item.bytes for item in gone))


async def _prune_sessions(upkeep: Upkeep, plan: Plan, account: _Account, *, dry_run: bool) -> None:
    """Folders whose session has ended long enough ago. One the ledger does not know is left alone."""
    before = plan.of(PRIVATE).before
    found = await upkeep.folders.folders()

    def ended(tx: Transaction) -> list[tuple[str, int]]:
        rows = ((name, size, tx.ledger.get(name)) for name, size in found)
        return [
            (name, size)
            for name, size, row in rows
            if row and row.status in TERMINAL and row.ended_at and row.ended_at < before
        ]

    gone = await upkeep.store.read(ended)
    if not dry_run:
        gone = [item for item in gone if await _discarded(upkeep, item[0])]
    account.add(PRIVATE, len(gone), sum(size for _, size in gone))


async def _discarded(upkeep: Upkeep, session_id: str) -> bool:
    """One folder that cannot go (something of the run lives, or it is not ours to remove) stays for the
    next time and keeps no other."""
    try:
        await upkeep.folders.discard(session_id)
    except UnavailableError:
        return False
    return True
