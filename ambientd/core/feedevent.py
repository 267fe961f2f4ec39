"""One heartbeat against its specification: what the seed refuses, and what the strict rows add."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ambientd.core.feedline import LAST_INSTANT_MS, LINE_LIMIT, TOOL, parse_utc_ms
from ambientd.core.heartbeat import META_COUNTS, META_KEYS, META_LIMIT

FORBIDDEN = ("phase", "phase_id", "task_id")
EVIDENCE = ("evidence", "hashes")
REQUIRED = (
    "ts_utc",
    "ts_epoch_ms",
    "category",
    "action",
    "emit_mode",
    "verifier_mode",
    "actor",
    "tool",
    "run_id",
    "host_id",
)
OPTIONAL = ("pid", "interval_sec", "heartbeat_seq", "meta")
CHAIN_KEYS = ("hash", "prev_hash")
EARLIEST_MS = 1_700_000_000_000

_CONSTANTS = {
    "category": "heartbeat",
    "action": "heartbeat",
    "emit_mode": "runtime_auto",
    "verifier_mode": "operational_proof",
}
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_RUN_ID = re.compile(r"dispatcher:[0-9]{8}T[0-9]{6}Z:pid([1-9][0-9]{0,9})")
_HOST_ID = re.compile(r"sha256:[0-9a-f]{64}")


def is_heartbeat(event: Mapping[str, Any]) -> bool:
    """Whether a line claims to be a heartbeat."""
    return event.get("action") == "heartbeat" or event.get("category") == "heartbeat"


def is_integer(value: object) -> bool:
    """A JSON integer: `true` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def keys_at_any_depth(value: object) -> set[str]:
    """All keys of all objects in a JSON value."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            found.update(current)
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
    return found


def check_heartbeat(event: Mapping[str, Any]) -> list[str]:
    """What the specification refuses in a heartbeat (its sections 3, 7 and 8), forbidden keys first."""
    present = keys_at_any_depth(event)
    reasons = [
        f"{key}: dangerous in a heartbeat, it could be taken for activity of a phase"
        for key in FORBIDDEN
        if key in present
    ]
    reasons += [f"{key}: no evidence in a heartbeat" for key in EVIDENCE if key in event]
    for key, wanted in _CONSTANTS.items():
        if event.get(key) != wanted:
            said = f"is {event[key]!r}" if key in event else "is missing"
            reasons.append(f'{key}: {said}, "{wanted}" is required')
    if not is_integer(event.get("ts_epoch_ms")):
        said = "is not an integer" if "ts_epoch_ms" in event else "is missing: drift cannot be detected"
        reasons.append(f"ts_epoch_ms: {said}")
    for key in ("ts_utc", "run_id", "host_id"):
        if not _is_text(event.get(key)):
            reasons.append(f"{key}: {'is not a text' if key in event else 'is missing'}")
    host = event.get("host_id")
    if isinstance(host, str) and not host.startswith("sha256:"):
        reasons.append('host_id: does not start with "sha256:"')
    return reasons


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _fits(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return is_integer(value) and value > 0


_STRICT_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("ts_utc", _fits(_STAMP), "is not YYYY-MM-DDTHH:MM:SSZ"),
    ("ts_epoch_ms", lambda v: is_integer(v) and EARLIEST_MS < v <= LAST_INSTANT_MS, "is no present time"),
    ("actor", _is_text, "is not a text"),
    ("tool", lambda v: v == TOOL, f'is not "{TOOL}"'),
    ("run_id", _fits(_RUN_ID), "is not dispatcher:<YYYYMMDDTHHMMSSZ>:pid<n>"),
    ("host_id", _fits(_HOST_ID), "is not sha256: and 64 hexadecimal digits"),
    ("pid", _is_count, "is not a process id"),
    ("interval_sec", _is_count, "is not a whole number of seconds"),
    ("heartbeat_seq", _is_count, "is not a count from 1 on"),
    ("meta", lambda v: isinstance(v, dict), "is not an object"),
)


def check_heartbeat_strictly(event: Mapping[str, Any], raw: bytes) -> list[str]:
    """What rows R2.8-R2.31 and R2.45-R2.58 add; `raw` is the line without its LF."""
    known = {*REQUIRED, *OPTIONAL, *CHAIN_KEYS}
    reasons = [f"{key}: is missing" for key in REQUIRED if key not in event]
    reasons += [f"{key}: is not a key of the specification" for key in event if key not in known]
    reasons += [
        f"{key}: {complaint}"
        for key, test, complaint in _STRICT_RULES
        if key in event and not test(event[key])
    ]
    reasons += _check_instant(event) + _check_meta(event.get("meta"))
    run = _RUN_ID.fullmatch(str(event.get("run_id")))
    if run and "pid" in event and event["pid"] != int(run[1]):
        reasons.append("pid: is not the one in run_id")
    reasons += [f"{key}: holds a '/'" for key, value in event.items() if "/" in json.dumps(value)]
    if len(raw) + 1 >= LINE_LIMIT:
        reasons.append(f"line: {len(raw) + 1} bytes, fewer than {LINE_LIMIT} are allowed")
    if not raw.isascii():
        reasons.append("line: not ASCII")
    if raw != raw.strip():
        reasons.append("line: white space around the object (CR?)")
    return reasons


def _check_instant(event: Mapping[str, Any]) -> list[str]:
    text, epoch = event.get("ts_utc"), event.get("ts_epoch_ms")
    at_ms = parse_utc_ms(text) if isinstance(text, str) else None
    if at_ms is not None and isinstance(epoch, int) and epoch // 1000 != at_ms // 1000:
        return ["ts_epoch_ms: is another instant than ts_utc"]
    return []


def _check_meta(meta: object) -> list[str]:
    if not isinstance(meta, dict):
        return []
    reasons = [f"meta.{key}: is not a known key" for key in meta if key not in META_KEYS]
    reasons += [
        f"meta.{key}: is not a count"
        for key in meta
        if key in META_COUNTS and not (is_integer(meta[key]) and meta[key] >= 0)
    ]
    if len(json.dumps(meta, separators=(",", ":"))) > META_LIMIT:
        reasons.append(f"meta: longer than {META_LIMIT} bytes")
    return reasons
