"""Work as nodes take, do and return it."""

from ambientd.api.fleet.nodes import NODE
from ambientd.api.fleet.scope import about_node, by_node
from ambientd.api.fleet.tasks import task_id_of
from ambientd.api.fleet.views import view_given, view_task
from ambientd.api.router import Access, Answer, Route
from ambientd.core.fleet.checks import Problems
from ambientd.core.fleet.jsonlimits import JsonLimits, check_json
from ambientd.flows.fleet.reach import Reach
from ambientd.flows.fleet.tasks import NO_TASK, Result, Tasks
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import (
    AssignmentsAnswer,
    ReconcileAnswer,
    ReconcileRequest,
    ResultRequest,
    TaskInfo,
    VerdictView,
)
from ambientd.wire.fleet_enums import ExecutionStatus
from ambientd.wire.messages import ErrorDetail

ASSIGNMENTS = NODE + "/assignments"
# Of what a node returns; it stands in lists of tasks, whole.
RESULT_LIMITS = JsonLimits(
    depth=16, items=10_000, key_bytes=256, string_bytes=1024 * 1024, total_bytes=1024 * 1024
)
RUNNING_MAX = 1000  # twenty times what a node is given at once
_ID_MAX = 128


def assignment_routes(tasks: Tasks) -> tuple[Route, ...]:
    """All of them."""

    async def given(reach: Reach, _request: Request) -> Answer:
        found = await tasks.given(reach)
        return found if isinstance(found, Rejected) else AssignmentsAnswer([view_given(one) for one in found])

    async def reconcile(reach: Reach, _request: Request, body: ReconcileRequest) -> Answer:
        running = _running(body)
        if isinstance(running, Rejected):
            return running
        found = await tasks.reconcile(reach, running)
        if isinstance(found, Rejected):
            return found
        return ReconcileAnswer(
            [VerdictView(task_id, verdict) for task_id, verdict in found.verdicts.items()],
            [view_given(one) for one in found.given],
        )

    async def result(reach: Reach, request: Request, body: ResultRequest) -> Answer:
        task_id = task_id_of(request.params["task_id"])
        if task_id is None:
            return NO_TASK
        said = _result(body)
        if isinstance(said, Rejected):
            return said
        task = await tasks.result(reach, task_id, said)
        return task if isinstance(task, Rejected) else view_task(task)

    return (
        Route(
            method="GET",
            path=ASSIGNMENTS,
            handler=about_node(given),
            summary="What a node has to do, with all that it needs for it.",
            answers={200: AssignmentsAnswer},
        ),
        Route(
            method="POST",
            path=ASSIGNMENTS + "/reconcile",
            handler=by_node(reconcile),
            summary="A node says what it runs and hears what to keep, stop and start.",
            access=Access.WRITE,
            body=ReconcileRequest,
            answers={200: ReconcileAnswer},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=ASSIGNMENTS + "/{task_id}/result",
            handler=by_node(result),
            summary="How far a node is with a task, or what came of it; the same again changes nothing.",
            access=Access.WRITE,
            body=ResultRequest,
            answers={200: TaskInfo},
            refusals=(409,),
        ),
    )


def _running(body: ReconcileRequest) -> dict[str, str | None] | Rejected:
    """Sessions by task; what is no task's id can only be stopped, and is answered under its own name."""
    if len(body.running) > RUNNING_MAX:
        expected = f"at most {RUNNING_MAX} tasks"
        detail = ErrorDetail("running", "length", f"must have {expected}", expected)
        return Rejected("VALIDATION_ERROR", "too many tasks", (detail,))
    problems = []
    running: dict[str, str | None] = {}
    for place, one in enumerate(body.running):
        if len(one.task_id) > _ID_MAX or len(one.session_id or "") > _ID_MAX:
            expected = f"ids of at most {_ID_MAX} characters"
            problems.append(ErrorDetail(f"running[{place}]", "length", f"must have {expected}", expected))
        running[task_id_of(one.task_id) or one.task_id] = one.session_id
    if problems:
        return Rejected("VALIDATION_ERROR", "the tasks are not valid", tuple(problems[:100]))
    return running


def _result(body: ResultRequest) -> Result | Rejected:
    problems = Problems()
    if body.status is ExecutionStatus.ASSIGNED:
        words = "in_progress, completed, failed or stopped"
        problems.add("status", "enum", f"must be {words}", words)
    check_json(problems, "result", body.result, RESULT_LIMITS)
    for name, value in (("session_id", body.session_id), ("proof_id", body.proof_id)):
        if value is not None and not 1 <= len(value) <= _ID_MAX:
            expected = f"1 to {_ID_MAX} characters"
            problems.add(name, "length", f"must have {expected}", expected)
    details = problems.details()
    if details:
        return Rejected("VALIDATION_ERROR", "the result is not valid", details)
    return Result(status=body.status, result=body.result, session_id=body.session_id, proof_id=body.proof_id)
