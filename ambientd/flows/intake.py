"""Taking in handed-in tasks: each id runs once, whatever happens in between (R2.81–R2.89)."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from ambientd.core.records import TaskOutcome
from ambientd.core.rejection import Rejected
from ambientd.core.spool import Refusal, Requirement, SpoolTask, parse_task
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.sessions import Agents, Order, check_order, record_session
from ambientd.ports.clock import Clock, Ids
from ambientd.ports.spool import BLOCKED, DONE, REJECTED, RUNNING, SpoolFolder
from ambientd.ports.store import Store, Transaction
from ambientd.wire.messages import SpawnRequest

DISPATCHED = "dispatched"
FINAL = frozenset({"committed", "error"})
# Files speak snake_case, the API camelCase.
_FIELDS = {"agentId": "agent_id"}
SCHEMA_REASON = "ambient.spool-reason/1"
SCHEMA_RESULT = "ambient.spool-result/1"


class _Accepted(msgspec.Struct, frozen=True):
    session_id: str


class _Duplicate(msgspec.Struct, frozen=True):
    before: TaskOutcome


class _Blocked(msgspec.Struct, frozen=True):
    unmet: tuple[str, ...]


class Intake(msgspec.Struct, frozen=True, kw_only=True):
    """What taking in needs, given once."""

    spool: SpoolFolder
    store: Store
    clock: Clock
    ids: Ids
    agents: Callable[[], Agents]


async def take_in(intake: Intake, name: str) -> bool:
    """Brings one file of the inbox to where it belongs; True when a session came of it.

    Raises OSError when the file cannot be moved, and what `Store.write` raises; a repeated call goes on
    where the last one stopped.
    """
    content = await intake.spool.read(name)
    if content is None:
        return False
    task = content if isinstance(content, Refusal) else parse_task(content)
    if isinstance(task, Refusal):
        await _refuse(intake, name, task)
        return False
    order = check_order(
        SpawnRequest(
            agent_id=task.agent_id,
            prompt=task.prompt,
            model=task.model,
            title=task.title,
            category=task.category,
        ),
        intake.agents(),
    )
    if isinstance(order, Rejected):
        first = order.details[0]
        field = _FIELDS.get(first.field, first.field)
        await _refuse(intake, name, Refusal(f"{first.issue}_{field}", first.message, field))
        return False
    return await _decide(intake, name, task, order)


async def _decide(intake: Intake, name: str, task: SpoolTask, order: Order) -> bool:
    missing = [
        item
        for item in task.requires
        if item.kind == "file_exists" and not await intake.spool.exists(item.value)
    ]
    at = intake.clock.now()
    session_id = intake.ids.session_id(at)

    def work(tx: Transaction) -> _Accepted | _Duplicate | _Blocked:
        before = tx.tasks.get(task.task_id)
        if before is not None:
            return _Duplicate(before)
        unmet = _unmet(tx, task.requires, missing)
        if unmet:
            tx.tasks.count("blocked")
            for kind in sorted({item.partition(":")[0] for item in unmet}):
                tx.tasks.count(f"blocked.{kind}")
            return _Blocked(unmet)
        record_session(tx, order, session_id=session_id, at=at, actor="spool", task_id=task.task_id)
        tx.tasks.put(
            TaskOutcome(
                task_id=task.task_id, outcome=DISPATCHED, session_id=session_id, file_name=name, at=at
            )
        )
        tx.tasks.count(DISPATCHED)
        return _Accepted(session_id)

    verdict = await intake.store.write(work)
    if isinstance(verdict, _Accepted):
        await intake.spool.move(name, RUNNING)
        return True
    if isinstance(verdict, _Blocked):
        note = _reason(name, at, "blocked", "a requirement is not met", unmet=list(verdict.unmet))
        await intake.spool.move(name, BLOCKED, note=("reason", note))
        return False
    await _again(intake, name, verdict.before, at)
    return False


def _unmet(tx: Transaction, requires: tuple[Requirement, ...], missing: list[Requirement]) -> tuple[str, ...]:
    unmet = [f"{item.kind}:{item.value}" for item in missing]
    for item in requires:
        if item.kind == "task_done":
            done = tx.tasks.get(item.value)
            if done is None or done.outcome != "committed":
                unmet.append(f"{item.kind}:{item.value}")
    return tuple(unmet)


async def _again(intake: Intake, name: str, before: TaskOutcome, at: datetime) -> None:
    """A known task id: either our own file after a crash in the middle, or a second hand-in."""
    if before.file_name == name and before.outcome == DISPATCHED:
        running = (await intake.spool.scan()).running
        if name not in running:
            await intake.spool.move(name, RUNNING)
            return
    if before.file_name == name and before.outcome in FINAL and not await intake.spool.has_result(name):
        await intake.spool.move(name, DONE, note=("result", await _result(intake, before)))
        return
    note = _reason(
        name,
        at,
        "duplicate",
        "this task id has been taken in before; it runs once",
        outcome=before.outcome,
        session_id=before.session_id,
    )
    await intake.spool.move(name, DONE, note=("reason", note))
    await intake.store.write(lambda tx: tx.tasks.count("skipped"))


async def _refuse(intake: Intake, name: str, refusal: Refusal, source: str | None = None) -> None:
    at = intake.clock.now()
    note = _reason(name, at, refusal.code, refusal.message, field=refusal.field)

    def work(tx: Transaction) -> None:
        tx.tasks.count("rejected")
        tx.tasks.count(f"rejected.{refusal.code}")

    await intake.spool.move(name, REJECTED, source=source, note=("reason", note))
    await intake.store.write(work)


async def close_finished(intake: Intake, name: str) -> bool:
    """Moves the file of a task that has ended from `running` to `done`, with its result; False while it
    has not.

    A file there that is no task, or whose task the record does not know, ends in `rejected`: the record was
    lost with a damaged database, or somebody put the file there. Raises what `take_in` raises.
    """
    content = await intake.spool.read(name, RUNNING)
    if content is None:
        return False
    task = content if isinstance(content, Refusal) else parse_task(content)
    if isinstance(task, Refusal):
        await _refuse(intake, name, task, source=RUNNING)
        return True
    outcome = await _outcome(intake, task.task_id)
    if outcome is None:
        unknown = Refusal("outcome_unknown", "the record does not know this task; it may have run", "task_id")
        await _refuse(intake, name, unknown, source=RUNNING)
        return True
    if outcome.outcome not in FINAL:
        return False
    note = ("result", await _result(intake, outcome))
    await intake.spool.move(name, DONE, source=RUNNING, note=note)
    return True


async def _outcome(intake: Intake, task_id: str) -> TaskOutcome | None:
    return await intake.store.read(lambda tx: tx.tasks.get(task_id))


async def _result(intake: Intake, outcome: TaskOutcome) -> Mapping[str, Any]:
    session_id = outcome.session_id or ""
    session = await intake.store.read(lambda tx: tx.ledger.get(session_id))
    result: dict[str, Any] = {
        "schema": SCHEMA_RESULT,
        "task_id": outcome.task_id,
        "outcome": outcome.outcome,
        "session_id": outcome.session_id,
        "at": rfc3339_ms(outcome.at),
    }
    if session is not None:
        result["status"] = session.status.value
        result["runtime_ms"] = session.runtime_ms
        if session.error_code:
            result["error"] = {"code": session.error_code, "message": session.error_message}
    return result


def _reason(name: str, at: datetime, code: str, message: str, **facts: object) -> dict[str, Any]:
    reason: dict[str, Any] = {
        "schema": SCHEMA_REASON,
        "file": name,
        "code": code,
        "message": message,
        "at": rfc3339_ms(at),
    }
    reason.update({key: value for key, value in facts.items() if value is not None})
    return reason
