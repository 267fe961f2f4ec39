"""Is a feed what its readers can live with? Its lines in order, and what they are as a whole.

Plain: every line is a JSON object, and heartbeats follow seed "Heartbeat Event Spec" 3, 7 and 8; the
specification's own examples pass. Strict adds rows R2.8-R2.31 and what the known readers demand of every
line, whoever wrote it (a linter, a monitor, a guard, an indexer, a proof checker, a chain auditor).
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from ambientd.core.feedchain import ChainAudit
from ambientd.core.feedevent import check_heartbeat, check_heartbeat_strictly, is_heartbeat
from ambientd.core.feedline import parse_utc_ms

FUTURE_MS = 5000
READABLE_LINE = 1024 * 1024
"""A longer line is reported, not decoded."""
FILE_NAME_BYTES = 200
_LINE_BREAKS = re.compile("[\x0b\x0c\x0d\x1c\x1d\x1e\x85\u2028\u2029]")


class Problem(NamedTuple):
    """One complaint: 1-based line, and a sentence that starts with the field."""

    line: int
    reason: str


class CheckSummary(NamedTuple):
    """What was read."""

    lines: int
    heartbeats: int
    foreign: int
    chained: bool


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKeyError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class FeedCheck:
    """Folds the lines of one feed into problems; `now_ms` (UTC) lets strict find stamps of the future."""

    def __init__(self, *, strict: bool, now_ms: int | None = None) -> None:
        self._strict = strict
        self._now_ms = now_ms
        self._lines = 0
        self._heartbeats = 0
        self._last_text = ""
        self._last_ms = 0
        self._chain = ChainAudit()
        self._seqs: dict[str, int] = {}
        self._hosts: dict[str, object] = {}

    def summary(self) -> CheckSummary:
        """What was read so far."""
        foreign = self._lines - self._heartbeats
        return CheckSummary(self._lines, self._heartbeats, foreign, self._chain.anchored)

    def check_line(self, raw: bytes, *, ended: bool = True) -> list[Problem]:
        """Problems of the next line: `raw` without its LF; `ended` false when it had none."""
        self._lines += 1
        reasons = [] if ended else ["line: the last line does not end in a newline (torn?)"]
        reasons += self._check(raw)
        return [Problem(self._lines, reason) for reason in reasons]

    def too_long_line(self, length: int) -> list[Problem]:
        """The next line is longer than READABLE_LINE and was not kept."""
        self._lines += 1
        return [Problem(self._lines, f"line: {length} bytes in one line")]

    def _check(self, raw: bytes) -> list[str]:
        if not raw.strip():
            return ["line: blank"]
        if b"\0" in raw:
            return ["line: NUL bytes (a power cut?)"]
        try:
            text = raw.decode("utf-8")
            hook = _object if self._strict else None
            event = json.loads(text, parse_constant=_no_constant, object_pairs_hook=hook)
        except UnicodeDecodeError:
            return ["line: not UTF-8"]
        except _DuplicateKeyError as error:
            return [f"line: {error}"]
        except (ValueError, RecursionError) as error:
            return [f"line: not JSON ({error})"]
        if not isinstance(event, dict):
            return ["line: not a JSON object"]
        reasons: list[str] = []
        if is_heartbeat(event):
            self._heartbeats += 1
            reasons += check_heartbeat(event)
            if self._strict:
                reasons += check_heartbeat_strictly(event, raw) + self._check_run(event)
        if self._strict:
            reasons += self._check_for_readers(event, text)
        return list(dict.fromkeys(reasons))

    # --- strict: what readers demand, also of others' lines

    def _check_for_readers(self, event: Mapping[str, Any], text: str) -> list[str]:
        reasons = []
        if _LINE_BREAKS.search(text):
            reasons.append("line: holds a character that some readers take for a line break")
        for key in ("action", "run_id"):
            value = event.get(key)
            if isinstance(value, str) and not is_file_name(value):
                reasons.append(f"{key}: an indexer uses it as a file name; it cannot be one")
        return reasons + self._check_time(event) + self._chain.step(event)

    def _check_time(self, event: Mapping[str, Any]) -> list[str]:
        reasons = []
        stamp = next((event[key] for key in ("ts_utc", "ts", "timestamp") if event.get(key)), None)
        at_ms = parse_utc_ms(stamp) if isinstance(stamp, str) else None
        if at_ms is None:
            reasons.append("ts_utc: no time with a zone in `ts_utc`, `ts` or `timestamp`")
        text = event.get("ts_utc")
        if isinstance(text, str):
            if text < self._last_text:
                reasons.append(f"ts_utc: goes back from {self._last_text} to {text}")
            self._last_text = max(self._last_text, text)
        epoch = event.get("ts_epoch_ms")
        latest = at_ms or 0
        if isinstance(epoch, int):
            if epoch < self._last_ms:
                reasons.append(f"ts_epoch_ms: goes back by {self._last_ms - epoch} ms")
            self._last_ms = max(self._last_ms, epoch)
            latest = max(latest, epoch)
        if self._now_ms is not None and latest > self._now_ms + FUTURE_MS:
            reasons.append(f"ts_utc: {(latest - self._now_ms) // 1000} s in the future")
        return reasons

    def _check_run(self, event: Mapping[str, Any]) -> list[str]:
        reasons: list[str] = []
        run_id, seq, host = event.get("run_id"), event.get("heartbeat_seq"), event.get("host_id")
        if not isinstance(run_id, str):
            return reasons
        if isinstance(seq, int):
            last = self._seqs.get(run_id, 0)
            if seq <= last:
                reasons.append(f"heartbeat_seq: {seq} after {last} in one run")
            self._seqs[run_id] = max(last, seq)
        if self._hosts.setdefault(run_id, host) != host:
            reasons.append("host_id: differs within one run")
        return reasons


def is_file_name(text: str) -> bool:
    """Whether a value can be a file's name: an indexer makes one per action and per run (R2.56)."""
    return (
        text not in (".", "..")
        and not re.search(r"[/\\\x00-\x1f]", text)
        and 0 < len(text.encode("utf-8", "surrogatepass")) <= FILE_NAME_BYTES
    )
