"""Results as owners of nodes hand them in by a task's id, and proofs, which nobody verifies here."""

import base64
import binascii

from ambientd.api.fleet.scope import reach_of
from ambientd.api.fleet.tasks import TASK, task_id_of
from ambientd.api.fleet.views import when
from ambientd.api.router import Access, Answer, Route
from ambientd.core.fleet.checks import Problems
from ambientd.flows.fleet.tasks import NO_TASK, Tasks
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import ProofRequest, TaskResultAnswer, TaskResultRequest

PROOFS = "/api/v1/proofs"
PROOF_MAX = 100_000  # characters of base64, as the next two
INPUTS_MAX = 10_000
CIRCUIT_MAX = 128  # bytes
EXECUTION_MAX = 30 * 86_400_000  # ms
PROOF_BODY_MAX = 128 * 1024
_UNPROVEN = Rejected(
    "NOT_IMPLEMENTED",
    "no proof is verified here: the keys of the known proof system are made from a seed that everybody has,"
    " so anybody can make a proof that holds",
)


def result_routes(tasks: Tasks) -> tuple[Route, ...]:
    """Both routes."""

    async def result(request: Request, body: TaskResultRequest) -> Answer:
        problems = _result_problems(body)
        if problems is not None:
            return problems
        reach = reach_of(request, body.node_id, change=True)
        if isinstance(reach, Rejected):
            return reach
        task_id = task_id_of(request.params["task_id"])
        if task_id is None:
            return NO_TASK
        task = await tasks.complete(reach, task_id, body.result)
        if isinstance(task, Rejected):
            return task
        return TaskResultAnswer(
            task_id=task.task_id,
            status=task.status,
            node_id=body.node_id,
            proof_verified=False,
            completed_at=when(task.completed_at),
        )

    async def verify(_request: Request, body: ProofRequest) -> Answer:
        return _proof_problems(body) or _UNPROVEN

    return (
        Route(
            method="POST",
            path=TASK + "/result",
            handler=result,
            summary="What came of a task at a node of the caller's; completes it. The same again changes"
            " nothing. A proof is not verified: a task that requires one cannot be completed.",
            access=Access.WRITE,
            body=TaskResultRequest,
            answers={200: TaskResultAnswer},
            refusals=(409,),
        ),
        Route(
            method="POST",
            path=PROOFS + "/verify",
            handler=verify,
            summary="Answers 501: there is no proof system here whose proofs prove anything.",
            access=Access.WRITE,
            body=ProofRequest,
            body_max=PROOF_BODY_MAX,
            refusals=(501,),
        ),
    )


def _result_problems(body: TaskResultRequest) -> Rejected | None:
    problems = Problems()
    if body.execution_time_ms is not None:
        problems.between("execution_time_ms", body.execution_time_ms, 0, EXECUTION_MAX)
    _check_proof(problems, body.proof_data, body.public_inputs, body.circuit_id)
    details = problems.details()
    return Rejected("VALIDATION_ERROR", "the result is not valid", details) if details else None


def _proof_problems(body: ProofRequest) -> Rejected | None:
    problems = Problems()
    if task_id_of(body.task_id) is None:
        problems.add("task_id", "format", "must be a UUID", "a UUID")
    _check_proof(problems, body.proof_data, body.public_inputs, body.circuit_id)
    details = problems.details()
    return Rejected("VALIDATION_ERROR", "the proof is not valid", details) if details else None


def _check_proof(problems: Problems, proof: str | None, inputs: str | None, circuit: str | None) -> None:
    for field, text, least, most in (
        ("proof_data", proof, 1, PROOF_MAX),
        ("public_inputs", inputs, 0, INPUTS_MAX),  # a circuit may have none
    ):
        if text is None:
            continue
        if not least <= len(text) <= most:
            expected = f"{least} to {most} characters"
            problems.add(field, "length", f"must have {expected}", expected)
        elif not _is_base64(text):
            problems.add(field, "format", "must be base64", "base64")
    if circuit is not None:
        problems.sized("circuit_id", circuit, 1, CIRCUIT_MAX)


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
