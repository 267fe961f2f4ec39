import enum
import time
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.decode import MAX_DEPTH, MAX_PROBLEMS, BodyDecoder, Problems, is_too_deep, problems_of


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=1, le=10)]
    label: str | None = None


class Loose(msgspec.Struct):
    note: str = ""


class Node(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    children: list["Node"] = []


class Everything(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    agent_id: Annotated[str, msgspec.Meta(min_length=1, max_length=5)]
    colour: Colour
    count: int = 0
    price: float = 0.0
    active: bool = False
    kind: Literal["a", "b"] = "a"
    parts: list[Part] = []
    named: dict[str, Part] = {}
    either: int | str | None = None
    pair: tuple[int, str] | None = None
    limited: Annotated[list[int], msgspec.Meta(max_length=2)] = []
    loose: Loose | None = None
    anything: Any = None
    node: Node | None = None


DECODER = BodyDecoder(Everything)


def problems(raw: bytes) -> list[tuple[str, str]]:
    found = DECODER.decode(raw)
    assert isinstance(found, Problems), found
    return [(detail.field, detail.issue) for detail in found.details]


def test_all_problems_are_listed_in_declaration_order_and_unknown_fields_last() -> None:
    raw = b"""{"zzz": 1, "aaa": 2, "parts": [{"size": 99}, {"label": 3}, 7], "count": "x",
               "agentId": "", "kind": "c", "active": 1, "named": {"k": {"size": 1, "odd": 0}}}"""
    assert problems(raw) == [
        ("agentId", "length"),
        ("colour", "required"),
        ("count", "type"),
        ("active", "type"),
        ("kind", "enum"),
        ("parts[0].size", "range"),
        ("parts[1].size", "required"),
        ("parts[1].label", "type"),
        ("parts[2]", "type"),
        ("named.k.odd", "unknown"),
        ("aaa", "unknown"),
        ("zzz", "unknown"),
    ]


def test_the_order_of_the_keys_sent_does_not_matter() -> None:
    one = b'{"colour":"green","count":"x","b":1,"a":1,"named":{"q":1,"p":2}}'
    other = b'{"named":{"p":2,"q":1},"a":1,"b":1,"count":"x","colour":"green"}'
    assert DECODER.decode(one) == DECODER.decode(other)


def test_a_good_body_becomes_its_value() -> None:
    raw = b'{"agentId":"x","colour":"red","parts":[{"size":3}],"pair":[1,"a"],"anything":[1,{"a":2}]}'
    value = DECODER.decode(raw)
    assert isinstance(value, Everything)
    assert value.parts == [Part(size=3)]
    assert value.pair == (1, "a")


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("empty", b"", ("body", "syntax")),
        ("not an object", b"[]", ("body", "type")),
        ("null", b"null", ("body", "type")),
        ("trailing bytes", b'{"agentId":"x","colour":"red"} x', ("body", "syntax")),
        ("byte order mark", b'\xef\xbb\xbf{"agentId":"x","colour":"red"}', ("body", "syntax")),
        ("UTF-16", '{"agentId":"x","colour":"red"}'.encode("utf-16"), ("body", "syntax")),
        ("broken UTF-8", b'{"agentId":"\xff","colour":"red"}', ("body", "encoding")),
        ("lone high surrogate", rb'{"agentId":"\ud800","colour":"red"}', ("body", "syntax")),
        ("lone low surrogate", rb'{"agentId":"\udc00","colour":"red"}', ("body", "syntax")),
        ("NUL escape", rb'{"agentId":"\u0000","colour":"red"}', ("agentId", "character")),
        (
            "NUL in a value of any type",
            rb'{"agentId":"x","colour":"red","anything":["\u0000"]}',
            ("anything[0]", "character"),
        ),
        (
            "NUL in a key",
            rb'{"agentId":"x","colour":"red","anything":{"\u0000":1}}',
            ("anything", "character"),
        ),
        ("raw NUL", b'{"agentId":"\x00","colour":"red"}', ("body", "syntax")),
        ("2^63", b'{"agentId":"x","colour":"red","count":9223372036854775808}', ("count", "range")),
        ("-2^63-1", b'{"agentId":"x","colour":"red","count":-9223372036854775809}', ("count", "range")),
        (
            "2^64 in any",
            b'{"agentId":"x","colour":"red","anything":18446744073709551616}',
            ("anything", "range"),
        ),
        ("5,000 digits", b'{"agentId":"x","colour":"red","count":' + b"9" * 5000 + b"}", ("body", "range")),
        ("1e400", b'{"agentId":"x","colour":"red","price":1e400}', ("body", "range")),
        ("NaN", b'{"agentId":"x","colour":"red","price":NaN}', ("body", "syntax")),
        ("Infinity", b'{"agentId":"x","colour":"red","price":-Infinity}', ("body", "syntax")),
        ("deep arrays", b'{"anything":' + b"[" * 1000 + b"]" * 1000 + b"}", ("body", "depth")),
        ("200,000 deep, never closed", b"[" * 200_000, ("body", "depth")),
        ("200,000 deep objects", b'{"a":' * 200_000, ("body", "depth")),
        ("2 MB of brackets", b"[]" * 1_000_000, ("body", "syntax")),
        ("a repeated key of two types", b'{"agentId":5,"agentId":"x","colour":"red"}', ("body", "type")),
    ],
)
def test_named_killers_are_refused_with_a_reason(name: str, raw: bytes, expected: tuple[str, str]) -> None:
    assert expected in problems(raw), name


def test_the_largest_integers_and_minus_zero_are_taken() -> None:
    value = DECODER.decode(
        b'{"agentId":"x","colour":"red","count":9223372036854775807,"price":-0,"anything":-9223372036854775808}'
    )
    assert isinstance(value, Everything)
    assert value.count == 2**63 - 1


def test_no_problem_repeats_a_value() -> None:
    found = DECODER.decode(b'{"agentId":"hunter2-secret","colour":"hunter2","count":"hunter2","anything":1}')
    assert isinstance(found, Problems)
    assert b"hunter2" not in msgspec.json.encode(found)


def test_the_list_of_problems_is_bounded() -> None:
    raw = msgspec.json.encode({"agentId": "x", "colour": "red", "parts": [1] * 100_000})
    started = time.process_time()
    found = DECODER.decode(raw)
    assert time.process_time() - started < 2
    assert isinstance(found, Problems)
    assert len(found.details) == MAX_PROBLEMS + 1
    assert "more problems" in found.details[-1].message


def test_a_long_unknown_name_is_cut() -> None:
    found = DECODER.decode(msgspec.json.encode({"agentId": "x", "colour": "red", "n" * 10_000: 1}))
    assert isinstance(found, Problems)
    assert len(found.details[0].field) <= 128


def test_recursive_types_are_walked() -> None:
    decoder = BodyDecoder(Node)
    found = decoder.decode(b'{"name":"a","children":[{"name":"b","children":[{"name":1}]}]}')
    assert isinstance(found, Problems)
    assert found.details[0].field == "children[0].children[0].name"


@given(
    st.recursive(
        st.text(alphabet='[]{}"\\', max_size=6) | st.none(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=20,
    )
)
def test_brackets_in_strings_do_not_count_as_depth(value: Any) -> None:
    assert not is_too_deep(msgspec.json.encode([value, "[" * 200, '"{' * 100]))


@given(st.integers(min_value=MAX_DEPTH - 5, max_value=MAX_DEPTH + 5))
def test_the_bound_of_depth_is_exact(depth: int) -> None:
    padding = b"[]," * 100
    assert is_too_deep(b"[" * depth + b"]" * depth) is (depth > MAX_DEPTH)
    inner = b"[" * (depth - 1) + b"]" * (depth - 1)
    assert is_too_deep(b"[" + padding + inner + b"]") is (depth > MAX_DEPTH)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6)
    | st.sampled_from(["red", "a", "x\x00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["size", "label", "name", "children", "q"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_SMALL = st.integers(0, 11)
_PART = st.fixed_dictionaries({"size": _SMALL | _JSON}, optional={"label": st.text(max_size=3) | _JSON})
_BODY = st.fixed_dictionaries(
    {"agentId": st.text(max_size=6) | _JSON, "colour": st.sampled_from(["red", "blue", "green"]) | _JSON},
    optional={
        "count": _JSON,
        "price": st.floats(allow_nan=False, allow_infinity=False) | _JSON,
        "active": st.booleans() | _JSON,
        "kind": st.sampled_from(["a", "b", "c", 1]) | _JSON,
        "parts": st.lists(_PART, max_size=3) | _JSON,
        "named": st.dictionaries(st.text(max_size=3), _PART, max_size=2) | _JSON,
        "either": _JSON,
        "pair": st.tuples(_SMALL, st.text(max_size=2)) | _JSON,
        "limited": st.lists(_SMALL, max_size=3) | _JSON,
        "loose": st.fixed_dictionaries({}, optional={"note": _JSON, "q": _JSON}) | _JSON,
        "anything": _JSON,
        "node": st.fixed_dictionaries({"name": st.text(max_size=2)}, optional={"children": _JSON}) | _JSON,
        "unknown": st.nothing() | _JSON,
    },
)


def _holds_refused_scalar(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\x00" in name or _holds_refused_scalar(item) for name, item in value.items())
    if isinstance(value, list):
        return any(map(_holds_refused_scalar, value))
    if isinstance(value, str):
        return "\x00" in value
    return type(value) is int and not -(2**63) <= value < 2**63


@given(_BODY | _JSON)
def test_walker_and_decoder_always_agree(value: Any) -> None:
    raw = msgspec.json.encode(value)
    plain = msgspec.json.decode(raw)
    try:
        expected: Everything | None = msgspec.json.decode(raw, type=Everything, strict=True)
    except msgspec.ValidationError:
        expected = None
    found = problems_of(Everything, plain)
    if expected is None:
        assert found
    elif found:  # only the rules that msgspec does not have may add a refusal
        assert _holds_refused_scalar(plain)
        assert {detail.issue for detail in found} <= {"character", "range"}
    answer = DECODER.decode(raw)
    assert isinstance(answer, Problems) is bool(found)
    if not found:
        assert answer == expected


def _depth_by_hand(text: str) -> int:
    depth = deepest = 0
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


@given(
    st.recursive(
        st.text(alphabet='[]{}"\\', max_size=8) | st.none(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]"\\', max_size=4), inner)
        ),
        max_leaves=10,
    ),
    st.integers(0, MAX_DEPTH + 3),
)
def test_depth_is_counted_as_by_hand(value: Any, more: int) -> None:
    for _ in range(more):
        value = [value, '"[[{"', []]
    raw = msgspec.json.encode([value, [[]] * MAX_DEPTH])
    assert is_too_deep(raw) is (_depth_by_hand(raw.decode()) > MAX_DEPTH)
