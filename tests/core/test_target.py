from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.target import MAX_PARAMETERS, BadTarget, Target, parse_target


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        (b"/livez", "/livez", {}),
        (b"/livez?", "/livez", {}),
        (b"/a?x=1&y=", "/a", {"x": "1", "y": ""}),
        (b"/a?verbose", "/a", {"verbose": ""}),
        (b"/a?q=one+two%20three", "/a", {"q": "one two three"}),
        (b"/a?q=a=b", "/a", {"q": "a=b"}),
        (b"/a?&&x=1&", "/a", {"x": "1"}),
        (b"/%C3%A4", "/ä", {}),
        (b"/a%2Fb", "/a%2Fb", {}),
        (b"/a%2fb", "/a%2Fb", {}),
        (b"/a+b", "/a+b", {}),
        (b"/../../etc/passwd", "/../../etc/passwd", {}),
        (b"/%2e%2e/x", "/../x", {}),
        (b"http://localhost/livez?x=1", "/livez", {"x": "1"}),
        (b"http://localhost", "/", {}),
        (b"*", "*", {}),
    ],
)
def test_well_formed_targets_are_split_and_decoded(raw: bytes, path: str, query: dict[str, str]) -> None:
    assert parse_target(raw) == Target(path, query)


@pytest.mark.parametrize(
    ("raw", "field", "issue"),
    [
        (b"/%", "path", "encoding"),
        (b"/%2", "path", "encoding"),
        (b"/%zz", "path", "encoding"),
        (b"/%ff", "path", "encoding"),
        (b"/%C3", "path", "encoding"),
        (b"/%ed%a0%80", "path", "encoding"),  # a surrogate in UTF-8
        (b"/%c0%af", "path", "encoding"),  # an overlong slash
        (b"/\xff", "path", "encoding"),
        (b"/a?x=%g1", "x", "encoding"),
        (b"/a?%ff=1", "query", "encoding"),
        (b"/a?x=1&x=2", "x", "duplicate"),
        (b"/a?x=1&%78=2", "x", "duplicate"),
        (b"/a?x=%00", "query", "character"),
    ],
)
def test_broken_targets_are_refused_by_name(raw: bytes, field: str, issue: str) -> None:
    found = parse_target(raw)
    assert isinstance(found, BadTarget)
    assert (found.field, found.issue) == (field, issue)


def test_too_many_parameters_are_refused_and_the_most_are_not() -> None:
    most = "&".join(f"p{number}=1" for number in range(MAX_PARAMETERS)).encode()
    assert isinstance(parse_target(b"/a?" + most), Target)
    assert isinstance(parse_target(b"/a?" + most + b"&more=1"), BadTarget)


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@given(st.dictionaries(_TEXT, _TEXT, max_size=5))
def test_what_a_client_encodes_comes_back(query: dict[str, str]) -> None:
    assert parse_target(b"/a?" + urlencode(query).encode()) == Target("/a", query)


@given(_TEXT)
def test_one_path_segment_comes_back_unless_it_holds_a_slash(text: str) -> None:
    found = parse_target(b"/" + quote(text, safe="").encode())
    assert isinstance(found, Target)
    assert found.path == "/" + text.replace("/", "%2F")


@given(st.binary(max_size=60))
def test_any_bytes_give_an_answer(raw: bytes) -> None:
    assert isinstance(parse_target(raw), Target | BadTarget)
