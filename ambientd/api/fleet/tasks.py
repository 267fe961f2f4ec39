"""Tasks over HTTP."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from ambientd.api.fleet.answers import created
from ambientd.api.fleet.nodes import CURSOR, LIMIT
from ambientd.api.fleet.principal import Machine, Person, for_people, principal_of
from ambientd.api.fleet.scope import actor_of, own_reach, reach_of
from ambientd.api.fleet.views import listed, view_task
from ambientd.api.router import Access, Answer, QueryParameter, Route
from ambientd.core.fleet.cursor import decode_cursor, encode_cursor
from ambientd.core.fleet.records import TaskQuery
from ambientd.core.fleet.submission import check_submission
from ambientd.core.fleet.tasktypes import TASK_TYPES
from ambientd.flows.fleet.reach import Reach
from ambientd.flows.fleet.tasks import NO_TASK, Tasks
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import TaskDone, TaskInfo
from ambientd.wire.fleet_enums import TaskStatus
from ambientd.wire.fleet_messages import TaskSubmission

TASKS = "/api/v1/tasks"
TASK = TASKS + "/{task_id}"
BODY_MAX = 4 * 1024 * 1024


def task_id_of(text: str) -> str | None:
    """A task's id in its usual spelling; None for what is no UUID."""
    try:
        return str(UUID(text)) if len(text) == 36 else None
    except ValueError:
        return None


def task_routes(tasks: Tasks, *, now: Callable[[], datetime], new_id: Callable[[], str]) -> tuple[Route, ...]:
    """All of them; `now` is the wall clock, `new_id` gives fresh UUIDs."""
    return (*_changing_routes(tasks, now, new_id), *_reading_routes(tasks))


def _changing_routes(
    tasks: Tasks, now: Callable[[], datetime], new_id: Callable[[], str]
) -> tuple[Route, ...]:
    async def submit(person: Person, _request: Request, body: TaskSubmission) -> Answer:
        task = check_submission(body, task_id=new_id(), creator_id=person.user_id, at=now())
        if isinstance(task, Rejected):
            return task
        made = await tasks.submit(task)
        return made if isinstance(made, Rejected) else created(view_task(made))

    async def delete(person: Person, request: Request) -> Answer:
        task_id = task_id_of(request.params["task_id"])
        if task_id is None:
            return NO_TASK
        deleted = await tasks.delete(task_id, person.user_id, actor_of(person))
        return deleted if isinstance(deleted, Rejected) else TaskDone("Task deleted successfully", task_id)

    return (
        Route(
            method="POST",
            path=TASKS,
            handler=for_people(submit),
            summary="Submits a task; nodes that can take it get it at once.",
            access=Access.WRITE,
            body=TaskSubmission,
            body_max=BODY_MAX,
            answers={201: TaskInfo},
        ),
        Route(
            method="DELETE",
            path=TASK,
            handler=for_people(delete),
            summary="Clears a task; every node that has or had it keeps an event of it.",
            access=Access.WRITE,
            answers={200: TaskDone},
        ),
    )


def _reading_routes(tasks: Tasks) -> tuple[Route, ...]:
    async def list_tasks(request: Request) -> Answer:
        after = decode_cursor(request.query.get("cursor"))
        node = _node_asked_for(request)
        if isinstance(after, Rejected):
            return after
        if isinstance(node, Rejected):
            return node
        found = await tasks.page(_query(request, node, after), node)
        if isinstance(found, Rejected):
            return found
        rows, more = found
        cursor = encode_cursor(rows[-1].created_at, rows[-1].task_id) if more else None
        return listed(request, [view_task(row) for row in rows], cursor)

    async def get(request: Request) -> Answer:
        task_id = task_id_of(request.params["task_id"])
        found = principal_of(request)
        if task_id is None:
            return NO_TASK
        if isinstance(found, Person):
            task = await tasks.get(task_id, creator_id=found.user_id)
        else:
            task = await tasks.get(task_id, node=own_reach(found))
        return task if isinstance(task, Rejected) else view_task(task)

    return (
        Route(
            method="GET",
            path=TASKS,
            handler=list_tasks,
            summary="The caller's tasks, or those that a node of theirs has or had, newest first.",
            query=(
                LIMIT,
                CURSOR,
                QueryParameter(name="node_id", doc="Tasks that this node has or had, whosever they are."),
                QueryParameter(
                    name="status",
                    doc="Only tasks that stand so.",
                    choices=tuple(status.value for status in TaskStatus),
                ),
                QueryParameter(name="task_type", doc="Only tasks of this type.", choices=tuple(TASK_TYPES)),
            ),
            answers={200: list[TaskInfo]},
            refusals=(404,),
        ),
        Route(method="GET", path=TASK, handler=get, summary="One task.", answers={200: TaskInfo}),
    )


def _query(request: Request, node: Reach | None, after: tuple[datetime, str] | None) -> TaskQuery:
    found, status = principal_of(request), request.query.get("status")
    mine = found.user_id if node is None and isinstance(found, Person) else None
    return TaskQuery(
        creator_id=mine,
        node_id=None if node is None else node.node_id,
        status=None if status is None else TaskStatus(status),
        task_type=request.query.get("task_type"),
        limit=int(request.query.get("limit", "100")),
        after=after,
    )


def _node_asked_for(request: Request) -> Reach | Rejected | None:
    """Whose tasks are asked for: a joined node may ask for its own only."""
    found, node_id = principal_of(request), request.query.get("node_id")
    if isinstance(found, Machine) and node_id is None:
        return own_reach(found)
    return None if node_id is None else reach_of(request, node_id, change=False)
