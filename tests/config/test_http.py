import pytest

from ambientd.config.http import Listen, parse_listen
from ambientd.config.parse import Layer, Parsed, parse


def problems(**http: object) -> list[str]:
    outcome = parse([Layer("t", {"http": http})])
    return [] if isinstance(outcome, Parsed) else [problem.text for problem in outcome]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7777", Listen("127.0.0.1", 7777)),
        ("localhost:0", Listen("127.0.0.1", 0)),
        ("[::1]:80", Listen("::1", 80)),
        ("[0:0:0:0:0:0:0:1]:80", Listen("::1", 80)),
        ("127.0.0.1", None),
        ("127.0.0.1:", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:-1", None),
        ("::1:80", None),
        ("[127.0.0.1]:80", None),
        ("[::1:80", None),
        ("example.net:80", None),
        (":80", None),
        ("127.0.0.1: 80", None),
        ("127.0.0.1:٨٠", None),
    ],
)
def test_an_address_and_a_port_make_a_listener(text: str, expected: Listen | None) -> None:
    assert parse_listen(text) == expected


def test_other_machines_are_let_in_only_by_an_explicit_word() -> None:
    (problem,) = problems(listen="192.0.2.5:7777")
    assert "allow_non_loopback" in problem
    assert problems(listen="192.0.2.5:7777", allow_non_loopback=True) == []
    assert problems(listen="[::1]:7777") == []
    assert problems(listen="127.8.8.8:1") == []
    assert len(problems(listen="0.0.0.0:7777")) == 1


@pytest.mark.parametrize(
    "http",
    [
        {"listen": "nowhere"},
        {"hosts": ["Node.example.net"]},
        {"hosts": ["http://node.example.net"]},
        {"hosts": ["a b"]},
        {"origins": ["node.example.net"]},
        {"origins": ["https://node.example.net/"]},
        {"origins": ["null"]},
        {"trusted_proxies": ["10.0.0.0/33"]},
        {"trusted_proxies": ["10.0.0.1/24"]},
        {"secret_file": "key"},
        {"max_connections": 0},
    ],
)
def test_what_can_never_match_is_a_problem(http: dict[str, object]) -> None:
    (problem,) = problems(**http)
    assert f"http.{next(iter(http))}" in problem


def test_what_is_exact_is_taken() -> None:
    assert (
        problems(
            hosts=["node.example.net", "node.example.net:7777", "[2001:db8::1]:80"],
            origins=["https://node.example.net", "http://127.0.0.1:8080"],
            trusted_proxies=["10.0.0.1", "10.0.0.0/24", "2001:db8::/32"],
            secret_file="/etc/ambient/http.secret",
            enabled=True,
        )
        == []
    )
