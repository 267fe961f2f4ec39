"""Work that the control plane gives this node: begun once, ended when its time is over, told of durably.

A task of the type `agent_session` runs as a session of a local or gateway agent, `connect_only` is a lease.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from ambientd.config.schema import AgentConfig
from ambientd.core.assignments import (
    AGENT_SESSION,
    CONNECT_ONLY,
    EXECUTION,
    TOLD_AGAIN,
    Assignment,
    AssignmentState,
    Offered,
    SessionOrder,
    StopCause,
    Told,
    ended_state,
    failure,
    is_sound,
    limit_failure,
    overdue,
    read_order,
    session_result,
    steps_of,
)
from ambientd.core.outbox import Meaning, Reply, meaning_of
from ambientd.core.records import EventRecord
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import rfc3339_ms
from ambientd.core.trustedtime import Trusted
from ambientd.flows import control as operator
from ambientd.flows.control import Controls, choose_agent
from ambientd.flows.leases import Leases
from ambientd.flows.pulls import ACTOR, find_lease, pull_revocations
from ambientd.flows.push import NOTHING, Pushing, Step, failed
from ambientd.flows.sessions import Order, check_order, record_session
from ambientd.ports.errors import UnavailableError
from ambientd.ports.store import Transaction
from ambientd.wire.enums import EventType
from ambientd.wire.fleet_api_messages import (
    AssignmentView,
    ReconcileAnswer,
    ReconcileRequest,
    ResultRequest,
    RunningBody,
    TaskInfo,
)
from ambientd.wire.fleet_enums import AwayPolicy, ExecutionStatus, Verdict
from ambientd.wire.messages import SpawnRequest
from ambientd.wire.outbox_enums import OutboxStream

if TYPE_CHECKING:
    from ambientd.core.gateway_view.rows import AgentEntry

NODE = "node"
# Of the agent's words: the last ones, which hold the outcome.
OUTPUT_MAX = 8 * 1024
OUTPUT_EVENTS = 100
KEEP = timedelta(days=30)  # of tasks that both sides know the end of, so that none runs twice
FORGET_BATCH = 500
_MILLISECOND = 1000


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the use cases need. `wanted` says whether the control plane may start sessions here; `picked_up`
    is told of each that was started; `look_at_time` says how late it is, for durations."""

    pushing: Pushing
    controls: Controls
    leases: Leases
    wanted: Callable[[], bool]
    picked_up: Callable[[], None]
    look_at_time: Callable[[], Trusted]


# --- what the control plane wants


async def reconcile(work: Work, open_there: Iterable[str] = ()) -> Step:
    """Says what runs here, hears what is to be kept, stopped and begun, and does it; `again` when not all of
    it was in the answer. `open_there`: tasks that the control plane counts on, as it said last."""
    pushing = work.pushing
    held = await pushing.store.read(lambda tx: _held(tx, open_there))
    # What has ended and was not told counts as running, or it would be taken for lost and given anew. What
    # could not be begun yet is offered again.
    running = [
        RunningBody(one.task_id, one.session_id)
        for one in held.values()
        if one.state is not AssignmentState.STARTING
    ]
    answer = await pushing.calls.change(
        "POST", f"{pushing.base}/assignments/reconcile", ReconcileRequest(running), ReconcileAnswer
    )
    if isinstance(answer, Reply):
        return failed(answer)
    offered = [_offered(view) for view in answer.assignments]
    if not all(is_sound(one) for one in offered):
        return Step(meaning=Meaning.AGAIN, text="it offers work that cannot be")
    known = await pushing.store.read(
        lambda tx: {one.task_id: mine for one in offered if (mine := tx.assignments.get(one.task_id))}
    )
    verdicts = {view.task_id: view.verdict for view in answer.verdicts}
    steps = steps_of(verdicts, offered, known | held)
    for task_id in (*steps.stop, *_withdrawn(offered, verdicts, held)):
        await stop(work, held[task_id], StopCause.VERDICT)
    if steps.tell:
        await pushing.store.write(lambda tx: _tell_again(tx, steps.tell))
    for one in (*steps.begin, *_unbegun(offered, held)):
        await begin(work, one)
    left_out = _wanted(verdicts) - {one.task_id for one in offered}
    return Step(moved=len(steps.begin) + len(steps.stop), again=bool(left_out))


def _wanted(verdicts: Mapping[str, Verdict]) -> set[str]:
    """Tasks that are to be begun; an answer may hold fewer of them than it names."""
    return {task_id for task_id, verdict in verdicts.items() if verdict is Verdict.START}


def _held(tx: Transaction, open_there: Iterable[str]) -> dict[str, Assignment]:
    """Tasks that this node has, by id; also those whose end the control plane was told of and counts on all
    the same: it was put back, and would give them out anew."""
    held = {one.task_id: one for one in tx.assignments.open()}
    for task_id in open_there:
        mine = None if task_id in held else tx.assignments.get(task_id)
        if mine is not None and mine.state in TOLD_AGAIN and mine.stop_cause in (None, StopCause.TIME_LIMIT):
            held[task_id] = mine
    return held


def _withdrawn(
    offered: list[Offered], verdicts: Mapping[str, Verdict], held: Mapping[str, Assignment]
) -> list[str]:
    """Tasks that could not be begun yet, and are not wanted any more."""
    wanted = {one.task_id for one in offered} | _wanted(verdicts)
    return [
        task_id
        for task_id, mine in held.items()
        if mine.state is AssignmentState.STARTING and task_id not in wanted
    ]


def _unbegun(offered: list[Offered], held: Mapping[str, Assignment]) -> list[Offered]:
    """Tasks that were taken in before and could not be begun then."""
    return [
        one
        for one in offered
        if (mine := held.get(one.task_id)) is not None
        and mine.state is AssignmentState.STARTING
        and mine.stop_cause is None
    ]


def _tell_again(tx: Transaction, task_ids: tuple[str, ...]) -> None:
    for task_id in task_ids:
        mine = tx.assignments.get(task_id)
        if mine is not None:
            tx.assignments.put(msgspec.structs.replace(mine, told=Told.NOTHING))


def _offered(view: AssignmentView) -> Offered:
    after = view.away.after_sec
    return Offered(
        task_id=view.task_id,
        attempt=view.attempt,
        task_type=view.task_type,
        inputs=view.inputs,
        away_policy=view.away.policy,
        away_after_ms=None if after is None else after * _MILLISECOND,
        max_execution_sec=view.requirements.max_execution_time_sec,
    )


# --- beginning


async def begin(work: Work, offered: Offered) -> None:
    """Begins one task; durable before anything runs. Raises as `Store` does."""
    if offered.task_type == CONNECT_ONLY:
        await _begin_lease(work, offered)
        return
    order = _order_of(work, offered)
    if isinstance(order, dict):
        await _fail(work, offered, order)
        return
    agent = choose_agent(order.agent_id, work.controls)
    if isinstance(agent, Rejected):
        if agent.code == "GATEWAY_UNAVAILABLE":  # it may know the agent: asked again
            await _keep(work, offered, AssignmentState.STARTING)
            return
        await _fail(work, offered, failure(agent.code, agent.message))
    elif agent is None or isinstance(agent, AgentConfig):
        await _begin_local(work, offered, order, agent)
    else:
        await _begin_at_gateway(work, offered, order, agent)


def _order_of(work: Work, offered: Offered) -> SessionOrder | dict[str, Any]:
    if offered.task_type != AGENT_SESSION:
        text = f"this node does no work of the type {offered.task_type[:64]}"
        return failure("unsupported_task_type", text)
    if not work.wanted():
        return failure("tasks_refused", "this node takes no sessions from the control plane")
    order = read_order(offered.inputs)
    return failure("bad_inputs", order) if isinstance(order, str) else order


def _request_of(order: SessionOrder, agent_id: str) -> SpawnRequest:
    return SpawnRequest(
        agent_id=agent_id,
        prompt=order.prompt,
        model=order.model,
        title=order.title,
        category=order.category,
    )


async def _begin_local(work: Work, offered: Offered, order: SessionOrder, agent: AgentConfig | None) -> None:
    """Session and assignment are one transaction, so that neither is ever there without the other."""
    controls = work.controls
    request = _request_of(order, agent.id if agent is not None else order.agent_id)
    checked = check_order(request, controls.agents())
    if isinstance(checked, Rejected):
        first = checked.details[0].message if checked.details else checked.message
        await _fail(work, offered, failure(checked.code, f"{checked.message}: {first}"))
        return
    accepted: Order = checked
    at = controls.clock.now()
    session_id = controls.ids.session_id(at)
    new = _begun(work, _assignment(offered, rfc3339_ms(at), AssignmentState.RUNNING, session_id=session_id))

    def write(tx: Transaction) -> bool:
        if _is_begun(tx, offered):
            return False
        record_session(tx, accepted, session_id=session_id, at=at, actor=ACTOR)
        tx.assignments.put(new)
        return True

    try:
        if await work.pushing.store.write(write):
            work.picked_up()
    finally:
        controls.sessions.wake()


async def _begin_at_gateway(work: Work, offered: Offered, order: SessionOrder, agent: "AgentEntry") -> None:
    """The gateway is asked under a key that is the task's own: asked again, it starts nothing twice."""
    from ambientd.flows import gateway_control

    gateway = work.controls.gateway
    if gateway is None or not await _keep(work, offered, AssignmentState.STARTING):
        return
    key = f"{offered.task_id}-{offered.attempt}"
    keyed = msgspec.structs.replace(gateway, new_key=lambda: key)
    answer = await gateway_control.spawn(_request_of(order, agent.id), agent, keyed, actor=ACTOR)
    if isinstance(answer, Rejected):
        if answer.code != "GATEWAY_UNAVAILABLE":
            await _fail(work, offered, failure(answer.code, answer.message))
        return
    await _put(work, offered, AssignmentState.RUNNING, session_id=answer.session_id)
    work.picked_up()


async def _begin_lease(work: Work, offered: Offered) -> None:
    """The lease of a connect session is bound to the task's id. Without one it is looked for again."""
    if not await _keep(work, offered, AssignmentState.STARTING):
        return
    item = await find_lease(work.pushing, offered.task_id)
    if item is None or isinstance(item, Step):
        return
    outcome = await work.leases.activate(item, ACTOR)
    if not isinstance(outcome, Rejected):
        await _put(work, offered, AssignmentState.RUNNING, lease_id=outcome.row.lease.jti)
        return
    found = await work.pushing.store.read(
        lambda tx: next((r for r in tx.leases.active() if r.lease.session_id == offered.task_id), None)
    )
    if found is not None:  # activated before a crash
        await _put(work, offered, AssignmentState.RUNNING, lease_id=found.lease.jti)
    elif outcome.code not in ("LINKS_REFUSE", "CLOCK_IN_DOUBT"):
        reason = outcome.details[0].issue if outcome.details else outcome.code
        if reason != "policy_unknown":  # its policy may still be on its way
            await _fail(work, offered, failure(outcome.code, outcome.message))


def _is_begun(tx: Transaction, offered: Offered) -> bool:
    mine = tx.assignments.get(offered.task_id)
    return mine is not None and mine.attempt >= offered.attempt and mine.state is not AssignmentState.STARTING


def _assignment(
    offered: Offered,
    at: str,
    state: AssignmentState,
    *,
    session_id: str | None = None,
    lease_id: str | None = None,
) -> Assignment:
    return Assignment(
        task_id=offered.task_id,
        attempt=offered.attempt,
        task_type=offered.task_type,
        away_policy=offered.away_policy,
        away_after_ms=offered.away_after_ms,
        state=state,
        given_at=at,
        session_id=session_id,
        lease_id=lease_id,
        limit_ms=offered.max_execution_sec * _MILLISECOND,
    )


def _begun(work: Work, new: Assignment) -> Assignment:
    """With the moment that its time counts from."""
    now = work.look_at_time()
    return msgspec.structs.replace(new, begun_boot_id=now.boot_id, begun_boot_ms=now.boot_ms)


async def _keep(work: Work, offered: Offered, state: AssignmentState) -> bool:
    """Remembers a task that is about to be begun; False when it was begun before."""
    at = rfc3339_ms(work.controls.clock.now())

    def write(tx: Transaction) -> bool:
        if _is_begun(tx, offered):
            return False
        if tx.assignments.get(offered.task_id) is None:
            tx.assignments.put(_assignment(offered, at, state))
        return True

    return await work.pushing.store.write(write)


async def _put(
    work: Work,
    offered: Offered,
    state: AssignmentState,
    *,
    session_id: str | None = None,
    lease_id: str | None = None,
) -> None:
    at = rfc3339_ms(work.controls.clock.now())
    new = _begun(work, _assignment(offered, at, state, session_id=session_id, lease_id=lease_id))
    await work.pushing.store.write(lambda tx: tx.assignments.put(new))


async def _fail(work: Work, offered: Offered, result: Mapping[str, Any]) -> None:
    at = rfc3339_ms(work.controls.clock.now())
    new = _assignment(offered, at, AssignmentState.FAILED)
    new = msgspec.structs.replace(new, result=result, ended_at=at)
    await work.pushing.store.write(lambda tx: tx.assignments.put(new))


# --- ending


async def stop(work: Work, assignment: Assignment, cause: StopCause) -> None:
    """Ends what runs for a task; that it is to be ended is durable first. Raises as the flow of its side."""
    at = rfc3339_ms(work.controls.clock.now())

    def write(tx: Transaction) -> Assignment | None:
        mine = tx.assignments.get(assignment.task_id)
        if mine is None or mine.has_ended:
            return None
        wanted = msgspec.structs.replace(mine, stop_cause=cause)
        if mine.session_id is None and mine.lease_id is None:  # nothing of it ever ran
            wanted = msgspec.structs.replace(wanted, state=AssignmentState.STOPPED, ended_at=at)
            wanted = msgspec.structs.replace(wanted, told=_told_after(cause))
        tx.assignments.put(wanted)
        return wanted

    wanted = await work.pushing.store.write(write)
    if wanted is not None and not wanted.has_ended:
        await _end(work, wanted)


async def _end(work: Work, one: Assignment) -> None:
    """Ends what runs for a task; whether it has is seen by `settle`."""
    alone = one.stop_cause is not StopCause.VERDICT
    actor = NODE if alone else ACTOR
    if one.lease_id is not None:
        if not alone:
            await _take_revocations(work)
        await work.leases.end(one.lease_id, actor)  # refused where the revocation has ended it
    elif one.session_id is not None:
        await operator.kill(one.session_id, work.controls, actor=actor)


async def _take_revocations(work: Work) -> None:
    """What the control plane takes away it mostly revokes too: the lease says then who ended it."""
    try:
        await pull_revocations(work.pushing, work.leases)
    except UnavailableError:
        return  # it ends all the same


def _told_after(cause: StopCause) -> Told:
    """Of what the control plane itself has taken away it need not be told."""
    return Told.ENDED if cause is StopCause.VERDICT else Told.NOTHING


async def stop_overdue(work: Work, away_ms: int) -> list[StopCause]:
    """Ends work that must not go on without the control plane, or has had its time; why, one for each."""
    held = await work.pushing.store.read(lambda tx: tx.assignments.open())
    due = overdue(held, away_ms, work.look_at_time())
    for one in held:
        if one.task_id in due:
            await stop(work, one, due[one.task_id])
    return list(due.values())


async def stop_again(work: Work) -> None:
    """Ends what was to be ended and has not: nobody was there to do it, or it was refused."""
    for one in await work.pushing.store.read(lambda tx: tx.assignments.open()):
        if one.stop_cause is not None and not one.has_ended:
            await _end(work, one)


async def stop_alone(work: Work) -> int:
    """Ends work that must not go on without the control plane, which this node is about to leave."""
    held = await work.pushing.store.read(lambda tx: tx.assignments.open())
    due = [one for one in held if one.away_policy is AwayPolicy.STOP and not one.has_ended]
    for one in due:
        await stop(work, one, StopCause.AWAY)
    return len(due)


async def give_up(work: Work) -> None:
    """What is held came with another registration: it ends, and nobody else is told what came of it."""
    for one in await work.pushing.store.read(lambda tx: tx.assignments.open()):
        if not one.has_ended:
            await stop(work, one, StopCause.VERDICT)
            continue
        gone = msgspec.structs.replace(one, told=Told.ENDED)

        def write(tx: Transaction, gone: Assignment = gone) -> None:
            tx.assignments.put(gone)
            tx.outbox.count(OutboxStream.RESULTS, dropped=1)

        await work.pushing.store.write(write)


async def settle(work: Work) -> int:
    """Looks which of the work has ended; how much of it."""
    at = rfc3339_ms(work.controls.clock.now())

    def write(tx: Transaction) -> int:
        ended = 0
        for one in tx.assignments.open():
            if one.has_ended or one.state is not AssignmentState.RUNNING:
                continue
            over = _lease_end(tx, one) if one.lease_id is not None else _session_end(tx, one)
            if over is None:
                continue
            state, result = over
            told = _told_after(one.stop_cause) if one.stop_cause is not None else one.told
            tx.assignments.put(
                msgspec.structs.replace(one, state=state, result=result, ended_at=at, told=told)
            )
            ended += 1
        return ended

    # Looked for in a read first: there is almost never anything, and a write costs a disk its sleep.
    if not await work.pushing.store.read(_may_have_ended):
        return 0
    return await work.pushing.store.write(write)


def _may_have_ended(tx: Transaction) -> bool:
    return any(
        (_lease_end(tx, one) if one.lease_id is not None else _session_end(tx, one)) is not None
        for one in tx.assignments.open()
        if one.state is AssignmentState.RUNNING
    )


def _session_end(tx: Transaction, one: Assignment) -> tuple[AssignmentState, Any] | None:
    session = None if one.session_id is None else tx.ledger.get(one.session_id)
    if session is None:
        return AssignmentState.FAILED, failure("session_gone", "its session is not in the ledger any more")
    state = ended_state(session.status, one.stop_cause)
    if state is None:
        return None
    last = tx.ingest.last_seq(session.session_id)
    events = tx.ledger.events(session.session_id, max(0, last - OUTPUT_EVENTS), OUTPUT_EVENTS)
    result = session_result(session, tx.usage.get(session.session_id), _output(events))
    if one.stop_cause is StopCause.TIME_LIMIT and state is AssignmentState.FAILED:
        result |= limit_failure(one.limit_ms)
    return state, result


def _output(events: list[EventRecord]) -> str | None:
    """The agent's last words, as far as they are texts."""
    texts = [
        text
        for event in events
        if event.event_type is EventType.MESSAGE and isinstance(text := event.payload.get("text"), str)
    ]
    whole = "\n".join(texts)
    return whole[-OUTPUT_MAX:] or None


def _lease_end(tx: Transaction, one: Assignment) -> tuple[AssignmentState, Any] | None:
    row = None if one.lease_id is None else tx.leases.get(one.lease_id)
    if row is None:
        return AssignmentState.FAILED, failure("lease_gone", "its lease is not known any more")
    if row.is_active:
        return None
    state = AssignmentState.STOPPED if one.stop_cause is StopCause.AWAY else AssignmentState.COMPLETED
    result = {
        "lease_id": one.lease_id,
        "end_reason": row.end_reason,
        "bytes": row.held.bytes,
        "elapsed_ms": row.held.elapsed_ms,
        "denied": row.held.denied,
    }
    return state, result


# --- telling


async def tell(work: Work) -> Step:
    """Tells of one task what the control plane does not know: that it runs, or what came of it."""
    waiting = await work.pushing.store.read(
        lambda tx: [one for one in tx.assignments.open() if is_untold(one)]
    )
    if not waiting:
        return NOTHING
    one = waiting[0]
    body = ResultRequest(
        status=EXECUTION.get(one.state, ExecutionStatus.IN_PROGRESS),
        result=one.result,
        session_id=one.session_id,
    )
    target = f"{work.pushing.base}/assignments/{one.task_id}/result"
    answer = await work.pushing.calls.change("POST", target, body, TaskInfo)
    refused = isinstance(answer, Reply)
    if isinstance(answer, Reply) and meaning_of(answer) not in (
        Meaning.BEHIND,
        Meaning.UNKNOWN,
        Meaning.REFUSED,
        Meaning.TOO_LARGE,
    ):
        return failed(answer)

    # The task is over there, was taken away, or never takes this: nothing more can be said of it. Work that
    # runs for such a task is stopped by the next reconciliation.
    def write(tx: Transaction) -> None:
        mine = tx.assignments.get(one.task_id)
        if mine is None or mine.attempt != one.attempt:
            return
        told = Told.ENDED if one.has_ended else Told.IN_PROGRESS
        tx.assignments.put(msgspec.structs.replace(mine, told=told))
        if one.has_ended:
            tx.outbox.count(OutboxStream.RESULTS, acknowledged=int(not refused), refused=int(refused))

    await work.pushing.store.write(write)
    return Step(moved=1)


def is_untold(one: Assignment) -> bool:
    """Whether the control plane does not know how far a task is."""
    if one.has_ended:
        return one.told is not Told.ENDED
    running = one.state is AssignmentState.RUNNING and one.told is Told.NOTHING
    return running and one.stop_cause is not StopCause.VERDICT


async def forget_old(work: Work) -> int:
    """Removes tasks that ended long ago."""
    before = rfc3339_ms(work.controls.clock.now() - KEEP)
    return await work.pushing.store.write(lambda tx: tx.assignments.forget(before, FORGET_BATCH))
