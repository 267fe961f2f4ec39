"""The heartbeat event and the heartbeat file's document (seed "Heartbeat Event Spec", CONTRACT 3 and 7).

A heartbeat is observability only. It never carries what a proof checker could take for evidence: no
`phase`, `phase_id` or `task_id`, no paths, no other action than `heartbeat` (R2.2, R2.44-R2.46).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ambientd.core.feedline import TOOL, utc_text

HEARTBEAT_SCHEMA = "ambient_heartbeat_v1"
META_LIMIT = 1024
META_COUNTS = frozenset({"dropped", "cycle_ms", "active_sessions", "clamped_ms"})
META_KEYS = META_COUNTS | {"state"}
STATUSES = frozenset({"starting", "watching", "stopped"})

_COUNT_LIMIT = 2**53
_STATE_TEXT = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Beat(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One beat as it was made; `cycle_ms` is how long the cycle before it took."""

    seq: int
    at_ms: int
    active_sessions: int
    cycle_ms: int | None
    state: str | None


def build_run_id(started_ms: int, pid: int) -> str:
    """`dispatcher:<YYYYMMDDTHHMMSSZ>:pid<pid>`: one per process, safe as a file name (R2.17, R2.56)."""
    return f"dispatcher:{re.sub('[-:]', '', utc_text(started_ms))}:pid{pid}"


def whole_seconds(interval: float) -> int | None:
    """The interval as `interval_sec` may say it: whole seconds from 1 on, else nothing."""
    if not math.isfinite(interval) or interval < 1 or interval != int(interval):
        return None
    return int(interval)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value) or not 0 <= value < _COUNT_LIMIT:
        return None
    return int(value)


def clean_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What of `meta` may enter the feed: known keys with plain values, far below a kilobyte (R2.23).

    Everything else is left out silently; numbers are cut to whole ones, NaN and Infinity dropped.
    """
    kept: dict[str, Any] = {}
    for key, value in meta.items():
        if key == "state" and isinstance(value, str) and _STATE_TEXT.fullmatch(value):
            kept[key] = str(value)
        elif key in META_COUNTS and (count := _count(value)) is not None:
            kept[key] = count
    return kept


def build_event(
    *,
    at_ms: int,
    actor: str,
    run_id: str,
    host_id: str,
    pid: int,
    seq: int,
    interval: float,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One beat, keys in the order of the specification's example, `meta` last when it says anything.

    `interval` in seconds; `seq` counts attempts and starts at 1 (R2.21, R2.22).
    """
    event: dict[str, Any] = {
        "ts_utc": utc_text(at_ms),
        "ts_epoch_ms": at_ms,
        "category": "heartbeat",
        "action": "heartbeat",
        "emit_mode": "runtime_auto",
        "verifier_mode": "operational_proof",
        "actor": actor,
        "tool": TOOL,
        "run_id": run_id,
        "host_id": host_id,
        "pid": pid,
        "heartbeat_seq": seq,
    }
    interval_sec = whole_seconds(interval)
    if interval_sec is not None:
        event["interval_sec"] = interval_sec
    kept = clean_meta(meta or {})
    if kept:
        event["meta"] = kept
    return event


def with_dropped(event: Mapping[str, Any], dropped: int) -> dict[str, Any]:
    """The event with `meta.dropped` as it is now; a beat waits in a queue while others are lost."""
    told = {key: value for key, value in event.get("meta", {}).items() if key != "dropped"}
    if dropped:
        told["dropped"] = dropped
    rest = {key: value for key, value in event.items() if key != "meta"}
    return {**rest, "meta": told} if told else rest


def build_heartbeat_document(
    *,
    at_ms: int,
    started_ms: int,
    pid: int,
    status: str,
    interval: float,
    cycles: int,
    last_cycle_tasks: int,
) -> dict[str, Any]:
    """The document of `<state>/heartbeat.json` (R2.79). Raises ValueError for an unknown status."""
    if status not in STATUSES:
        raise ValueError(f"status is one of {sorted(STATUSES)}, not {status!r}")
    return {
        "schema_version": HEARTBEAT_SCHEMA,
        "ts": utc_text(at_ms),
        "pid": pid,
        "status": status,
        "interval_sec": int(interval) if interval == int(interval) else interval,
        "cycles": cycles,
        "last_cycle_tasks": last_cycle_tasks,
        "uptime_sec": max(0, at_ms - started_ms) // 1000,
    }
