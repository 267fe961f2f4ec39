"""Whether a task may be submitted: its type, its inputs, what it asks of nodes, and when they are away."""

import base64
import binascii
from datetime import datetime
from typing import Any

from ambientd.core.fleet.checks import Problems
from ambientd.core.fleet.jsonlimits import JsonLimits, check_json
from ambientd.core.fleet.records import Away, NewTask, Requirements
from ambientd.core.fleet.tasktypes import AGENT_SESSION, CONNECT_ONLY, TASK_TYPES, TaskType
from ambientd.core.rejection import Rejected
from ambientd.wire.fleet_enums import AwayPolicy, EgressProfile
from ambientd.wire.fleet_messages import TaskSubmission
from ambientd.wire.routes import PROMPT_MAX_BYTES

NODES = (1, 1_000)
TIME_SEC = (1, 3_600)
AWAY_SEC = (60, 30 * 86_400)
INPUT_LIMITS = JsonLimits(
    depth=16, items=1_000, key_bytes=256, string_bytes=10_000, total_bytes=50 * 1024 * 1024
)
_ID_BYTES = 128
_DURATION_SEC = (1, 3_600)
_BANDWIDTH = (1, 10_000)  # Mbit/s
# An agent session's inputs, with the most bytes of each; the first two are required. As in the spool.
_AGENT_KEYS = {"agent_id": 128, "prompt": PROMPT_MAX_BYTES, "model": 200, "title": 200, "category": 200}
_AGENT_REQUIRED = ("agent_id", "prompt")
_CONNECT_KEYS = (
    "session_id",
    "requester_id",
    "duration_seconds",
    "bandwidth_limit_mbps",
    "egress_profile",
    "destination_policy_id",
)


def check_submission(
    body: TaskSubmission, *, task_id: str, creator_id: str, at: datetime
) -> NewTask | Rejected:
    """The task to add, or everything that is wrong with the request."""
    problems = Problems()
    kind = TASK_TYPES.get(body.task_type)
    if kind is None:
        problems.one_of("task_type", body.task_type, tuple(TASK_TYPES))
    _check_inputs(problems, body, kind)
    _check_requirements(problems, body, kind)
    _check_away(problems, body)
    details = problems.details()
    if details:
        return Rejected("VALIDATION_ERROR", "the task is not valid", details)
    asks, away = body.requirements, body.away
    return NewTask(
        task_id=task_id,
        creator_id=creator_id,
        task_type=body.task_type,
        inputs=body.inputs,
        wasm_module=body.wasm_module,
        requirements=Requirements(
            min_nodes=asks.min_nodes,
            max_execution_time_sec=_time(body, kind),
            require_gpu=asks.require_gpu,
            require_proof=asks.require_proof,
        ),
        away=Away(
            policy=AwayPolicy(away.policy),
            after_ms=None if away.after_sec is None else away.after_sec * 1000,
        ),
        at=at,
    )


def _time(body: TaskSubmission, kind: TaskType | None) -> int:
    """Whoever asks for no time of their own gets what the type has, not more."""
    asked = body.requirements.max_execution_time_sec
    return asked if kind is None else min(asked, kind.max_time_sec)


def _check_inputs(problems: Problems, body: TaskSubmission, kind: TaskType | None) -> None:
    most = INPUT_LIMITS.total_bytes if kind is None else kind.max_bytes
    limits = INPUT_LIMITS._replace(total_bytes=most)
    if kind is not None and kind.name == AGENT_SESSION:
        limits = limits._replace(string_bytes=PROMPT_MAX_BYTES)
        _check_agent(problems, body.inputs)
    check_json(problems, "inputs", body.inputs, limits)
    module = body.wasm_module
    if module is not None:
        if len(module) > most:
            expected = f"at most {most} characters"
            problems.add("wasm_module", "length", f"must have {expected}", expected)
        elif not _is_base64(module):
            problems.add("wasm_module", "format", "must be base64", "base64")
    elif kind is not None and kind.needs_wasm:
        problems.add("wasm_module", "required", "is required for this type of task")
    if kind is not None and kind.name == CONNECT_ONLY:
        _check_connect(problems, body.inputs)


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def _check_requirements(problems: Problems, body: TaskSubmission, kind: TaskType | None) -> None:
    asks = body.requirements
    problems.between("requirements.min_nodes", asks.min_nodes, *NODES)
    problems.between("requirements.max_execution_time_sec", asks.max_execution_time_sec, *TIME_SEC)
    if kind is None or kind.name not in (CONNECT_ONLY, AGENT_SESSION):
        return
    alone = kind.name == CONNECT_ONLY
    if alone and asks.min_nodes != 1:
        problems.add("requirements.min_nodes", "range", "must be 1 for this type of task", "1")
    # Nobody could ever prove what an agent has said.
    for field in ("require_gpu", "require_proof") if alone else ("require_proof",):
        if getattr(asks, field):
            problems.add(f"requirements.{field}", "enum", "must be false for this type of task", "false")


def _check_away(problems: Problems, body: TaskSubmission) -> None:
    away = body.away
    problems.one_of("away.policy", away.policy, tuple(policy.value for policy in AwayPolicy))
    if away.after_sec is not None:
        problems.between("away.after_sec", away.after_sec, *AWAY_SEC)
    elif away.policy in (AwayPolicy.MOVE, AwayPolicy.STOP):
        problems.add("away.after_sec", "required", f"is required for {away.policy}")


def _check_agent(problems: Problems, inputs: Any) -> None:
    """Exactly the fields of an agent's session, each a text."""
    if not isinstance(inputs, dict):
        problems.add("inputs", "type", "must be an object for this type of task", "an object")
        return
    for name in sorted(inputs.keys() - _AGENT_KEYS.keys()):
        problems.add(f"inputs.{name}"[:128], "unknown", "is not a known field")
    for name, most in _AGENT_KEYS.items():
        value = inputs.get(name)
        if name not in inputs:
            if name in _AGENT_REQUIRED:
                problems.add(f"inputs.{name}", "required", "is required")
        elif not isinstance(value, str):
            problems.add(f"inputs.{name}", "type", "must be a string", "a string")
        else:
            problems.sized(f"inputs.{name}", value, 1, most)


def _check_connect(problems: Problems, inputs: Any) -> None:
    """Exactly the fields of a connect session, each as it must be."""
    if not isinstance(inputs, dict):
        problems.add("inputs", "type", "must be an object for this type of task", "an object")
        return
    for name in sorted(inputs.keys() - set(_CONNECT_KEYS)):
        problems.add(f"inputs.{name}"[:128], "unknown", "is not a known field")
    for name in _CONNECT_KEYS:
        if name not in inputs:
            problems.add(f"inputs.{name}", "required", "is required")
            continue
        _check_connect_field(problems, name, inputs[name])


def _check_connect_field(problems: Problems, name: str, value: Any) -> None:
    field = f"inputs.{name}"
    if name in ("duration_seconds", "bandwidth_limit_mbps"):
        bounds = _DURATION_SEC if name == "duration_seconds" else _BANDWIDTH
        whole = name == "duration_seconds"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            expected = "an integer" if whole else "a number"
            problems.add(field, "type", f"must be {expected}", expected)
        else:
            problems.between(field, value, *bounds)
    elif not isinstance(value, str):
        problems.add(field, "type", "must be a string", "a string")
    elif name == "egress_profile":
        problems.one_of(field, value, tuple(profile.value for profile in EgressProfile))
    else:
        problems.sized(field, value, 1, _ID_BYTES)
