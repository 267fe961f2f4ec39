"""JSON bodies become typed values, or a list of everything that is wrong with them.

`msgspec` decodes and stops at the first problem. When it refuses, a walker goes over the same schema and
lists every problem in declaration order, so that one round trip is enough to mend a request (R3.94).
Both must agree: the walker finds nothing exactly when `msgspec` decodes (a property test holds them to it).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect

from ambientd.wire.messages import ErrorDetail

T = TypeVar("T")

# Deeper than any message of ours; far below the point where a decoder runs out of stack (FAULTS I4).
MAX_DEPTH = 64
# A body of 1 MiB can hold 100,000 wrong fields; nobody reads past the first hundred.
MAX_PROBLEMS = 100
# The store's integers (SQLite INTEGER, PostgreSQL BIGINT): anything else would fail after it was accepted.
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

BODY = "body"
_FIELD_SHOWN = 128

# A body without these holds no NUL character and no integer past 64 bits. Looking for them with a regular
# expression would take as long as all the rest.
_NUL = b"\\u0000"
_ONE_DIGIT = bytes.maketrans(b"123456789", b"000000000")
_DIGITS = b"0" * 19
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_BLOCK = 64 * 1024
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[]{}"'))
_TOO_MANY = b"[" * (MAX_DEPTH + 1)


class Problems(NamedTuple):
    """Why a body was refused, in declaration order; never empty."""

    details: tuple[ErrorDetail, ...]


_Walk = Callable[[Any, str, list[ErrorDetail]], None]


def _brackets_outside_strings(raw: bytes) -> bytes:
    """Only brackets, all square; in blocks, because a list of all strings would take 80 bytes for each."""
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = unescaped.translate(_BRACKETS, _NEITHER_BRACKET_NOR_QUOTE)
    kept, inside = bytearray(), 0
    for start in range(0, len(marks), _BLOCK):
        parts = marks[start : start + _BLOCK].split(b'"')
        kept += b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1
    return bytes(kept)


def is_too_deep(raw: bytes) -> bool:
    """Whether brackets outside strings nest deeper than MAX_DEPTH, without recursion, in linear time."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _brackets_outside_strings(raw)
    if _TOO_MANY in brackets:
        return True
    for _ in range(MAX_DEPTH):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    # What is left cannot be paired: it is deeper than the bound, or not JSON and then harmless when short.
    return brackets.count(b"[") > MAX_DEPTH or b"[]" in brackets


class _EnoughError(Exception):
    """MAX_PROBLEMS were found; the rest of the body is not looked at."""


def _problem(field: str, issue: str, message: str, expected: str | None = None) -> ErrorDetail:
    shown = field if len(field) <= _FIELD_SHOWN else field[: _FIELD_SHOWN - 1] + "…"
    return ErrorDetail(field=shown or BODY, issue=issue, message=message, expected=expected)


def _add(out: list[ErrorDetail], field: str, issue: str, message: str, expected: str | None = None) -> None:
    if len(out) >= MAX_PROBLEMS:
        raise _EnoughError
    out.append(_problem(field, issue, message, expected))


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _check_scalar(value: object, field: str, out: list[ErrorDetail]) -> None:
    """The rules that hold for every string and every integer, whatever its type says."""
    if isinstance(value, str) and "\x00" in value:
        _add(out, field, "character", "must not hold a NUL character", "text without U+0000")
    elif type(value) is int and not INT_MIN <= value <= INT_MAX:
        _add(out, field, "range", "must fit into 64 bits", "a 64-bit integer")


def _walk_any(value: object, field: str, out: list[ErrorDetail]) -> None:
    if isinstance(value, dict):
        for name, item in sorted(value.items()):
            _check_scalar(name, field, out)
            _walk_any(item, _join(field, name), out)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _walk_any(item, f"{field}[{index}]", out)
    else:
        _check_scalar(value, field, out)


_KINDS: dict[type[inspect.Type], str] = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.NoneType: "null",
    inspect.ListType: "array",
    inspect.SetType: "array",
    inspect.FrozenSetType: "array",
    inspect.CollectionType: "array",
    inspect.VarTupleType: "array",
    inspect.TupleType: "array",
    inspect.DictType: "object",
    inspect.StructType: "object",
    inspect.DateTimeType: "RFC 3339 date-time",
}
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
_BOUNDS = (
    ("ge", ">= {}", "range"),
    ("gt", "> {}", "range"),
    ("le", "<= {}", "range"),
    ("lt", "< {}", "range"),
    ("multiple_of", "a multiple of {}", "range"),
    ("min_length", "length >= {}", "length"),
    ("max_length", "length <= {}", "length"),
    ("pattern", "matching {}", "pattern"),
)


def _expectation(node: inspect.Type) -> tuple[str, str]:
    """What a node wants, in words, and the issue when only its constraint is broken."""
    if isinstance(node, inspect.EnumType):
        return "one of " + ", ".join(str(member.value) for member in node.cls), "enum"
    if isinstance(node, inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in node.values), "enum"
    if isinstance(node, inspect.UnionType):
        return " or ".join(_expectation(part)[0] for part in node.types), "type"
    kind = _KINDS.get(type(node), "value of the documented type")
    rules = [(text, issue) for name, text, issue in _BOUNDS if getattr(node, name, None) is not None]
    limits = [getattr(node, name) for name, _, _ in _BOUNDS if getattr(node, name, None) is not None]
    words = [text.format(limit) for (text, _), limit in zip(rules, limits, strict=True)]
    return ", ".join([kind, *words]), rules[-1][1] if rules else "format"


def _wrong(node: inspect.Type, value: object) -> tuple[str, str]:
    """Issue and expectation for a value that a node refuses."""
    expected, constraint = _expectation(node)
    if isinstance(node, inspect.EnumType | inspect.LiteralType):
        return ("enum" if isinstance(value, str | int) else "type"), expected
    allowed = _JSON_TYPES.get(_KINDS.get(type(node), ""), ())
    fits = isinstance(value, allowed) and not isinstance(value, bool) if allowed else False
    return (constraint if fits else "type"), expected


def _refuse(node: inspect.Type, value: object, field: str, out: list[ErrorDetail]) -> None:
    issue, expected = _wrong(node, value)
    _add(out, field, issue, f"must be {expected}", expected)


def _walk_leaf(hint: Any, node: inspect.Type, value: object, field: str, out: list[ErrorDetail]) -> None:
    before = len(out)
    _check_scalar(value, field, out)
    if len(out) > before:
        return
    try:
        msgspec.convert(value, hint, strict=True, str_keys=True)
    except (msgspec.ValidationError, ValueError):
        _refuse(node, value, field, out)


def _walk_items(
    item: _Walk, leaf: _Walk, node: inspect.Type, value: object, field: str, out: list[ErrorDetail]
) -> None:
    if not isinstance(value, list):
        _refuse(node, value, field, out)
        return
    before = len(out)
    for index, part in enumerate(value):
        item(part, f"{field}[{index}]", out)
    if len(out) == before:
        leaf(value, field, out)  # lengths, and what only the whole can tell


def _walk_map(
    item: _Walk, leaf: _Walk, node: inspect.Type, value: object, field: str, out: list[ErrorDetail]
) -> None:
    if not isinstance(value, dict):
        _refuse(node, value, field, out)
        return
    before = len(out)
    for name, part in sorted(value.items()):
        _check_scalar(name, field, out)
        item(part, _join(field, name), out)
    if len(out) == before:
        leaf(value, field, out)


def _walk_union(
    arms: Sequence[_Walk], nullable: bool, leaf: _Walk, value: object, field: str, out: list[ErrorDetail]
) -> None:
    if value is None and nullable:
        return
    if len(arms) == 1:
        arms[0](value, field, out)
        return
    before = len(out)
    if isinstance(value, list | dict):
        _walk_any(value, field, out)
    if len(out) == before:
        leaf(value, field, out)


class _StructWalk:
    """One object: declared fields in order, then unknown names in alphabetical order."""

    def __init__(self, cls: type[msgspec.Struct], node: inspect.StructType) -> None:
        self._node = node
        self._fields: list[tuple[str, bool, Any]] = [
            (field.encode_name, field.required, field.type) for field in msgspec.structs.fields(cls)
        ]
        self._walks: dict[str, _Walk] | None = None

    def _built(self) -> dict[str, _Walk]:
        if self._walks is None:  # late, so that a type may hold itself
            self._walks = {name: _build(hint) for name, _, hint in self._fields}
        return self._walks

    def __call__(self, value: Any, field: str, out: list[ErrorDetail]) -> None:
        if not isinstance(value, dict):
            _refuse(self._node, value, field, out)
            return
        walks = self._built()
        for name, required, _ in self._fields:
            if name in value:
                walks[name](value[name], _join(field, name), out)
            elif required:
                _add(out, _join(field, name), "required", "is required")
        for name in sorted(value.keys() - walks.keys()):
            if self._node.forbid_unknown_fields:
                _add(out, _join(field, name), "unknown", "is not a known field")
            else:
                _check_scalar(name, field, out)
                _walk_any(value[name], _join(field, name), out)


_STRUCTS: dict[type[msgspec.Struct], _StructWalk] = {}
_ARRAYS = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.CollectionType,
    inspect.VarTupleType,
)


def _build(hint: Any) -> _Walk:
    """The walk for one annotation; whatever has no walk of its own is judged by `msgspec.convert`."""
    node = inspect.type_info(hint)
    bare = hint
    while get_origin(bare) is Annotated:
        bare = get_args(bare)[0]
    leaf = partial(_walk_leaf, hint, node)
    arguments = get_args(bare)
    if isinstance(node, inspect.AnyType):
        return _walk_any
    if isinstance(node, inspect.StructType) and not node.array_like and node.tag is None:
        walk = _STRUCTS.get(node.cls)
        if walk is None:
            walk = _STRUCTS[node.cls] = _StructWalk(node.cls, node)
        return walk
    if isinstance(node, _ARRAYS):
        return partial(_walk_items, _build(arguments[0]) if arguments else _walk_any, leaf, node)
    if isinstance(node, inspect.DictType):
        return partial(_walk_map, _build(arguments[1]) if arguments else _walk_any, leaf, node)
    if isinstance(node, inspect.UnionType):
        arms = [arm for arm in arguments if arm is not type(None)]
        return partial(_walk_union, [_build(arm) for arm in arms], len(arms) < len(arguments), leaf)
    return leaf


class BodyDecoder(Generic[T]):
    """Decodes JSON into one type, strictly. Safe for any bytes; never raises for what they hold.

    Refused besides what the type refuses: nesting deeper than MAX_DEPTH, NUL characters, lone surrogates,
    integers outside 64 bits, byte order marks, trailing data. Of a repeated key the last one counts, and
    each must fit. A problem never holds a value of the body.
    """

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._walk = _build(kind)

    def decode(self, raw: bytes) -> T | Problems:
        """The value, or every problem."""
        if is_too_deep(raw):
            return Problems((_problem("", "depth", f"nests deeper than {MAX_DEPTH} levels"),))
        value: T | None = None
        try:
            value = self._decoder.decode(raw)
            if _NUL not in raw and _DIGITS not in raw.translate(_ONE_DIGIT):
                return value
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        found = self._explain(raw)
        if found:
            return Problems(tuple(found))
        if value is not None:
            return value
        # Only a repeated key can bring us here: the walker sees its last value, the decoder all of them.
        return Problems((_problem("", "type", "does not fit the documented type, or repeats a key"),))

    def _explain(self, raw: bytes) -> list[ErrorDetail]:
        try:
            value = msgspec.json.decode(raw)
        except msgspec.ValidationError:
            return [_problem("", "range", "holds a number that is out of range")]
        except UnicodeDecodeError:
            return [_problem("", "encoding", "is not valid UTF-8", "UTF-8")]
        except msgspec.DecodeError as refusal:
            return [_problem("", "syntax", f"is not JSON: {refusal}", "application/json")]
        return _walk_bounded(self._walk, value)


def _walk_bounded(walk: _Walk, value: object) -> list[ErrorDetail]:
    out: list[ErrorDetail] = []
    try:
        walk(value, "", out)
    except _EnoughError:
        out.append(_problem("", "range", f"has more problems than the {MAX_PROBLEMS} that are listed"))
    return out


def problems_of(kind: type[Any], value: Mapping[str, Any]) -> tuple[ErrorDetail, ...]:
    """The walker alone, over a value that was decoded elsewhere."""
    return tuple(_walk_bounded(_build(kind), value))
