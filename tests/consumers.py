"""What the feed's known readers demand, restated without any of the product's code.

`check_feed(path)` plays each of them over one file and returns their complaints. They are described in
ACCEPTANCE.md section 2: a drift monitor, a linter, a guard, an indexer, a proof checker, a page that cuts
at every Unicode line break, a chain auditor.
"""

import hashlib
import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

PHASES = ("PHASE_15_5_3", "PHASE_A", "phase-0")
PROOF_ACTIONS = ("started", "completed", "verified")


def check_feed(path: str | Path, *, now: float | None = None, live: bool = True) -> list[str]:
    """Complaints of all readers; empty when the feed serves them all. `live`: the last event is fresh."""
    raw = Path(path).read_bytes()
    now = time.time() if now is None else now
    return [
        *_strict_jsonl(raw),
        *_monitor(raw, now if live else None),
        *_linter(raw),
        *_guard(raw, now if live else None),
        *_indexer(raw),
        *_checker(raw),
        *_mission_control(raw),
        *_chain_auditor(raw),
        *_beats(raw, now),
    ]


def _objects(raw: bytes) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append((number, value))
    return found


def _strict_jsonl(raw: bytes) -> list[str]:
    def refuse(name: str) -> None:
        raise ValueError(name)

    problems = []
    if raw and not raw.endswith(b"\n"):
        problems.append("jsonl: no LF at the end")
    if raw.startswith(b"\xef\xbb\xbf"):
        problems.append("jsonl: BOM")
    if b"\r" in raw:
        problems.append("jsonl: CR")
    for number, line in enumerate(raw.removesuffix(b"\n").split(b"\n") if raw else [], 1):
        if not line.strip():
            problems.append(f"jsonl: line {number} blank")
            continue
        try:
            value = json.loads(line.decode(), parse_constant=refuse)
        except ValueError as error:
            problems.append(f"jsonl: line {number}: {error}")
            continue
        if not isinstance(value, dict):
            problems.append(f"jsonl: line {number} is no object")
        if len(line) + 1 >= 4096 and value.get("action") == "heartbeat":
            problems.append(f"jsonl: line {number} has {len(line) + 1} bytes")
    return problems


def _instant(event: dict[str, Any]) -> float | None:
    """First of three keys that parses; a naive stamp is an exception there, so it is a complaint here."""
    for key in ("ts", "ts_utc", "timestamp"):
        text = event.get(key)
        if isinstance(text, str):
            at = datetime.fromisoformat(text)
            if at.tzinfo is None:
                raise ValueError("naive")
            return at.timestamp()
    return None


def _lenient_instant(event: dict[str, Any]) -> float | None:
    try:
        return _instant(event)
    except ValueError:
        return None


def _monitor(raw: bytes, now: float | None) -> list[str]:
    newest = None
    for number, event in _objects(raw):
        try:
            at = _instant(event)
        except ValueError as error:
            return [f"monitor: line {number}: {error}"]
        if at is None:
            return [f"monitor: line {number} has no time"]
        if event.get("action") == "heartbeat":
            newest = max(newest or at, at)
    if now is None:
        return []
    if newest is None:
        return ["monitor: no heartbeat"]
    if newest > now + 5:
        return [f"monitor: a beat {newest - now:.0f} s in the future hides drift"]
    return [f"monitor: drift, the last beat is {now - newest:.0f} s old"] if now - newest > 120 else []


def _linter(raw: bytes) -> list[str]:
    last, problems = "", []
    for number, event in _objects(raw):
        text = event.get("ts_utc")
        if isinstance(text, str):
            if text < last:
                problems.append(f"linter: line {number}: timestamp_regression {last} {text}")
            last = max(last, text)
    return problems


def _guard(raw: bytes, now: float | None) -> list[str]:
    last, problems, events = 0, [], _objects(raw)
    for number, event in events:
        epoch = event.get("ts_epoch_ms")
        if isinstance(epoch, int):
            if epoch < last:
                problems.append(f"guard: line {number}: ts_epoch_ms goes back by {last - epoch}")
            last = max(last, epoch)
    if now is not None and events:
        at = _lenient_instant(events[-1][1])
        if at is None or now - at > 600:
            problems.append("guard: the last event is older than 600 s")
    return problems


def _indexer(raw: bytes) -> list[str]:
    problems, last = [], 0.0
    for number, event in _objects(raw):
        for key in ("action", "run_id"):
            name = event.get(key)
            if isinstance(name, str) and ("/" in name or "\0" in name or len(name.encode()) > 200):
                problems.append(f"indexer: line {number}: {key} cannot be a file name")
        at = int(_lenient_instant(event) or 0)
        if at < last:
            problems.append(f"indexer: line {number}: time goes back")
        last = max(last, at)
    return problems


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_keys(inner) for inner in value.values()))
    return set().union(*(_keys(inner) for inner in value)) if isinstance(value, list) else set()


def verdicts(raw: bytes) -> dict[str, tuple[str, ...]]:
    """What a proof checker sees per phase: the proof actions of events that match it by any of three keys."""
    return {
        phase: tuple(
            str(event.get("action"))
            for _, event in _objects(raw)
            if phase in (event.get("phase_id"), event.get("phase"), event.get("task_id"))
        )
        for phase in PHASES
    }


def _checker(raw: bytes) -> list[str]:
    """Differential: the verdicts with the heartbeats are those without them."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return ["checker: a byte that is not UTF-8"]
    without = b"\n".join(
        line for line in raw.split(b"\n") if line and json_or_empty(line).get("category") != "heartbeat"
    )
    problems = [] if verdicts(raw) == verdicts(without) else ["checker: heartbeats change a verdict"]
    for number, event in _objects(raw):
        if event.get("category") == "heartbeat":
            if _keys(event) & {"phase", "phase_id", "task_id", "evidence", "hashes"}:
                problems.append(f"checker: line {number}: a key of evidence")
            if any(word in str(event.get("action")).lower() for word in PROOF_ACTIONS):
                problems.append(f"checker: line {number}: a proof action")
            if "/" in json.dumps(list(event.values())):
                problems.append(f"checker: line {number}: a path")
    return problems


def json_or_empty(line: bytes) -> dict[str, Any]:
    """The object in a line, or nothing."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _mission_control(raw: bytes) -> list[str]:
    text = raw.decode(errors="replace")
    cut = len(text.splitlines()) != text.count("\n") + (0 if text.endswith("\n") or not text else 1)
    return ["page: a line break inside a line"] if cut else []


def _chain_auditor(raw: bytes) -> list[str]:
    last: str | None = None
    problems = []
    for number, event in _objects(raw):
        stored = event.get("hash")
        if last is None and stored is None:
            continue
        if last is None and event.get("action") != "ledger_anchor":
            problems.append(f"chain: line {number}: hash before an anchor")
            continue
        if stored is None:
            problems.append(f"chain: line {number}: unhashed after the anchor")
            continue
        rest = {key: value for key, value in event.items() if key != "hash"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(text.encode()).hexdigest() != stored:
            problems.append(f"chain: line {number}: wrong hash")
        if event.get("prev_hash") != (last or "GENESIS"):
            problems.append(f"chain: line {number}: wrong link")
        last = stored
    return problems


_FORMS = {
    "ts_utc": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "category": "heartbeat",
    "action": "heartbeat",
    "emit_mode": "runtime_auto",
    "verifier_mode": "operational_proof",
    "actor": r"[A-Za-z0-9._-]+",
    "tool": "task_dispatcher",
    "run_id": r"dispatcher:\d{8}T\d{6}Z:pid\d+",
    "host_id": "sha256:[0-9a-f]{64}",
}
_KNOWN = {*_FORMS, "ts_epoch_ms", "pid", "interval_sec", "heartbeat_seq", "meta", "hash", "prev_hash"}


def _beats(raw: bytes, now: float) -> list[str]:
    """The specification's own words about each beat, and each run's sequence."""
    problems = []
    seqs: dict[str, int] = {}
    for number, event in _objects(raw):
        if event.get("category") != "heartbeat":
            continue
        problems += [
            f"spec: line {number}: {key}"
            for key, form in _FORMS.items()
            if not isinstance(event.get(key), str) or not re.fullmatch(form, event[key])
        ]
        if set(event) - _KNOWN:
            problems.append(f"spec: line {number}: unknown keys {sorted(set(event) - _KNOWN)}")
        epoch = event.get("ts_epoch_ms")
        if not isinstance(epoch, int) or epoch <= 1.7e12 or epoch / 1000 > now + 5:
            problems.append(f"spec: line {number}: ts_epoch_ms {epoch}")
        elif epoch // 1000 != int(_lenient_instant(event) or 0):
            problems.append(f"spec: line {number}: two instants")
        if len(json.dumps(event.get("meta", {}))) > 1024:
            problems.append(f"spec: line {number}: meta too long")
        seq, run_id = event.get("heartbeat_seq"), str(event.get("run_id"))
        if isinstance(seq, int):
            if seq <= seqs.get(run_id, 0):
                problems.append(f"spec: line {number}: heartbeat_seq {seq} again")
            seqs[run_id] = seq
    return problems
