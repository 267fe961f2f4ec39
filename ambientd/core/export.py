"""Sessions as lines of CSV or NDJSON, for spreadsheets and for programs.

A spreadsheet takes text that begins with certain characters for a formula, and runs it. Such text gets an
apostrophe in front, which spreadsheets hide; NDJSON has every text as it is.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from ambientd.wire.messages import SessionSummary

COLUMNS = (
    "sessionId",
    "runId",
    "agentId",
    "agentLabel",
    "modelId",
    "status",
    "startedAt",
    "endedAt",
    "runtimeMs",
    "taskCategory",
    "taskTitle",
    "taskText",
    "artifactCount",
    "totalTokens",
    "costUsd",
    "costConfidence",
    "errorCode",
    "errorMessage",
    "sourceVersion",
    "ingestedAt",
)
# Also the full-width forms, which some spreadsheets take for the others.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_QUOTED = (",", '"', "\r", "\n", ";", "\t")

_encoder = msgspec.json.Encoder()


class Format(NamedTuple):
    """A format: its media type, its name as a file's end, what comes first, and one row."""

    content_type: str
    suffix: str
    head: bytes
    line: Callable[[SessionSummary], bytes]


def csv_line(values: Iterable[Any]) -> bytes:
    """One record of RFC 4180; None is empty. Text that looks like a formula is made harmless."""
    return (",".join(_cell(value) for value in values) + "\r\n").encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = f"'{value}" if value.lstrip(" ").startswith(_FORMULA) else value
    if any(mark in text for mark in _QUOTED) or text[:1] == " " or text[-1:] == " ":
        return '"' + text.replace('"', '""') + '"'
    return text


def _csv_row(row: SessionSummary) -> bytes:
    document = msgspec.to_builtins(row)
    return csv_line(document.get(name) for name in COLUMNS)


def _json_row(row: SessionSummary) -> bytes:
    return _encoder.encode(row) + b"\n"


FORMATS = {
    "csv": Format("text/csv; charset=utf-8", "csv", csv_line(COLUMNS), _csv_row),
    "ndjson": Format("application/x-ndjson", "ndjson", b"", _json_row),
}
