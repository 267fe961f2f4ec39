"""From what an issuer writes down to policies and tombstones: defaults filled in, everything wrong told.

A draft has `network`, and lists `policy` and `tombstone`. Beside the fields of a body a draft knows
`valid_for` (a duration) instead of `not_after`; times are RFC 3339 texts, dates with time of TOML, or
milliseconds. Destinations are brought into their one form.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ambientd.config.duration import parse_duration
from ambientd.core.destination import BadDestinationError, normal_pattern
from ambientd.core.policy import LIFE_MAX_MS, POLICY, TOMBSTONE, VERSION, Content, Malformed, parse_fields
from ambientd.core.timefmt import parse_rfc3339, to_ms

ENTRIES_MAX = 10_000
_TIMES = ("not_before", "not_after", "issued_at")


class Drafted(NamedTuple):
    """One policy or tombstone, and which of its times the draft itself gave."""

    content: Content
    given: frozenset[str]


class Draft(NamedTuple):
    """What was read; without problems all of it can be signed."""

    entries: tuple[Drafted, ...]
    problems: tuple[str, ...]


def parse_draft(values: Mapping[str, Any], now: int) -> Draft:
    """Policies and tombstones of a draft, issued at an instant (ms since 1970), or all that is wrong."""
    entries_read: list[Drafted] = []
    problems = [f"{name} is not known here" for name in sorted(set(values) - {"network", POLICY, TOMBSTONE})]
    seen: set[tuple[str, str, int]] = set()
    for kind in (POLICY, TOMBSTONE):
        entries = values.get(kind, [])
        if not isinstance(entries, Sequence) or isinstance(entries, str) or len(entries) > ENTRIES_MAX:
            problems.append(f"{kind} must be a list of at most {ENTRIES_MAX} tables")
            continue
        for number, entry in enumerate(entries):
            where = _where(kind, number, entry)
            if not isinstance(entry, Mapping):
                problems.append(f"{where} must be a table")
                continue
            found = _entry(kind, {"network": values.get("network"), **entry}, now)
            if isinstance(found, list):
                problems += [f"{where}: {text}" for text in found]
            elif (key := (kind, found.id, found.revision)) in seen:
                problems.append(f"{where}: there is another one with this id and revision")
            else:
                seen.add(key)
                entries_read.append(Drafted(found, frozenset(_TIMES) & entry.keys()))
    if not entries_read and not problems:
        problems.append("there is neither a policy nor a tombstone in it")
    return Draft(tuple(entries_read), tuple(problems))


def unchanged(drafted: Drafted, before: Content) -> bool:
    """Whether a draft says what was signed before; times that it leaves open may be those of then."""
    then = {name: getattr(before, name) for name in before.__struct_fields__ if name in _TIMES}
    open_times = {name: value for name, value in then.items() if name not in drafted.given}
    if type(drafted.content) is not type(before):
        return False
    return msgspec.structs.replace(drafted.content, **open_times) == before


def _where(kind: str, number: int, entry: object) -> str:
    name = entry.get("id") if isinstance(entry, Mapping) else None
    named = isinstance(name, str) and name.isprintable() and len(name) <= 64
    return f"{kind} {number + 1}" + (f" ({name})" if named else "")


def _entry(kind: str, entry: Mapping[str, Any], now: int) -> Content | list[str]:
    fields, problems = {"kind": kind, "v": VERSION, **entry}, []
    if fields["network"] is None:
        del fields["network"]
    for name in _TIMES:
        if name in fields and (ms := _ms(fields[name])) is not None:
            fields[name] = ms
        elif name in fields:
            problems.append(f"{name} must be a time with a zone, as in 2027-01-31T00:00:00Z")
            fields[name] = now
    fields.setdefault("issued_at", now)
    if kind == POLICY:
        fields.setdefault("not_before", fields["issued_at"])
        fields["destinations"] = _normal(fields.get("destinations"))
        if fields["destinations"] is None:
            del fields["destinations"]
    problems += _end(kind, fields)
    found = parse_fields(fields)
    if isinstance(found, Malformed):
        problems += [f"{detail.field} {detail.message}" for detail in found.details]
        return problems
    return problems or found


def _end(kind: str, fields: dict[str, Any]) -> list[str]:
    """Fills `not_after` in."""
    span = fields.pop("valid_for", None)
    if span is not None and "not_after" in fields:
        return ["valid_for and not_after exclude each other"]
    if span is not None:
        begin = max(
            value for name in ("not_before", "issued_at") if isinstance(value := fields.get(name), int)
        )
        try:
            fields["not_after"] = begin + int(parse_duration(span if isinstance(span, str) else "") * 1000)
        except (ValueError, OverflowError):
            fields["not_after"] = begin + 1
            return ['valid_for must be a duration, as in "90d"']
    elif "not_after" not in fields and kind == TOMBSTONE:
        fields["not_after"] = fields["issued_at"] + LIFE_MAX_MS
    return []


def _ms(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        at = parse_rfc3339(value) if isinstance(value, str) else value
        return to_ms(at) if isinstance(at, datetime) and at.tzinfo is not None else None
    except ValueError:
        return None


def _normal(destinations: Any) -> Any:
    """Those that can be are written in their one form; the others are told when the body is checked."""
    if not isinstance(destinations, (list, tuple)):
        return destinations
    found = []
    for text in destinations:
        try:
            found.append(normal_pattern(text) if isinstance(text, str) else text)
        except BadDestinationError:
            found.append(text)
    return found
