"""Reads what a control plane answers: its refusals, and how long to wait."""

from collections.abc import Mapping

import msgspec

from ambientd.core.canonical import UNREADABLE
from ambientd.core.outbox import NUMBER_MAX, Meaning, Reply, meaning_of

SHOWN_MAX = 300
NOT_KNOWN = (
    "its credential counts no longer: it was revoked, another machine has joined as this node, its key"
    " was renewed, or the control plane was put back to a time before this node joined"
)


class _Detail(msgspec.Struct):
    field: str = ""
    message: str = ""
    expected: str | None = None


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    details: list[_Detail] = []


class _Refusal(msgspec.Struct):
    error: _Error


_DECODER = msgspec.json.Decoder(_Refusal)


def read_reply(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """An answer that was no success; names of headers are in lower case. Never raises."""
    retry_after = parse_retry_after(headers.get("retry-after"), headers.get("date"))
    try:
        error = _DECODER.decode(body).error
    except UNREADABLE:
        return Reply(status, retry_after=retry_after)
    details = {one.field: one.expected for one in error.details if one.expected is not None}
    return Reply(status, error.code[:64], error.message[:SHOWN_MAX], details, retry_after)


def parse_retry_after(text: str | None, date: str | None = None) -> float | None:
    """Seconds of a Retry-After header; a date counts from the answer's own. None for anything else."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    from email.utils import parsedate_to_datetime  # a date instead of seconds is rare

    try:
        until, now = parsedate_to_datetime(text), parsedate_to_datetime(date or "")
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return None


def words_of(reply: Reply) -> str:
    """What an answer that was no success says, for people."""
    if meaning_of(reply) is Meaning.GONE:
        return NOT_KNOWN
    if 300 <= reply.status < 400:
        return f"answered {reply.status}; redirects are not followed"
    told = f"answered {reply.status}"
    return f"{told} {reply.code}: {reply.message}" if reply.code else told


def number_in(reply: Reply, *fields: str) -> int | None:
    """The number that a refusal names as the last one; None when it names none that can be."""
    for field in fields:
        text = reply.details.get(field, "")
        if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= NUMBER_MAX:
            return int(text)
    return None
