import pytest

from ambientd.config.parse import Layer, Parsed, parse
from ambientd.config.upstream import TARGETS_MAX, ControlAddress, Place, parse_control_url, parse_target


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1.1.1.1:443", Place(host="1.1.1.1", port=443)),
        ("one.example.net:53", Place(host="one.example.net", port=53)),
        ("[2606:4700:4700::1111]:443", Place(host="2606:4700:4700::1111", port=443)),
        ("1.1.1.1", None),
        ("1.1.1.1:0", None),
        ("1.1.1.1:65536", None),
        ("2606:4700::1111:443", None),
        ("http://x:80", None),
        (":443", None),
        ("a b:443", None),
        ("-x:443", None),
        ("x:443\n", None),
        ("", None),
    ],
)
def test_a_target_is_a_host_and_a_port(text: str, place: Place | None) -> None:
    assert parse_target(text) == place


@pytest.mark.parametrize(
    ("url", "shown", "header"),
    [
        ("https://cp.example.net", "https://cp.example.net", "cp.example.net"),
        ("https://cp.example.net:7443/", "https://cp.example.net:7443", "cp.example.net:7443"),
        ("http://127.0.0.1:8080/fleet/", "http://127.0.0.1:8080/fleet", "127.0.0.1:8080"),
        ("https://[fd00::1]", "https://[fd00::1]", "[fd00::1]"),
        ("https://[fd00::1]:7443/a/b", "https://[fd00::1]:7443/a/b", "[fd00::1]:7443"),
    ],
)
def test_the_address_of_a_control_plane_has_one_spelling(url: str, shown: str, header: str) -> None:
    found = parse_control_url(url)
    assert isinstance(found, ControlAddress)
    assert (found.url, found.host_header) == (shown, header)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cp.example.net",
        "ftp://cp.example.net",
        "https://",
        "https://u:p@cp.example.net",
        "https://cp.example.net?x=1",
        "https://cp.example.net/#x",
        "https://cp.example.net:0",
        "https://cp.example.net:99999",
        "https://cp example.net",
        "https://cp.exämple.net",
        "https://[fd00",
        "x" * 3000,
    ],
)
def test_anything_else_is_refused_with_a_reason(url: str) -> None:
    assert isinstance(parse_control_url(url), str)


def problems(values: dict[str, object]) -> list[str]:
    verdict = parse([Layer("a.toml", values)])
    return [] if isinstance(verdict, Parsed) else [problem.text for problem in verdict]


def test_the_configuration_names_every_mistake_and_repeats_no_password() -> None:
    found = problems(
        {
            "connectivity": {"targets": ["1.1.1.1:443", "nowhere", "x:0"]},
            "control_plane": {"url": "https://u:geheim@cp.example.net", "ca_file": "ca.pem"},
        }
    )
    assert len(found) == 4
    assert "geheim" not in str(found)
    assert any("connectivity.targets" in text and "nowhere" in text for text in found)
    assert any("control_plane.url" in text and "user name or password" in text for text in found)
    assert any("control_plane.ca_file" in text and "absolute" in text for text in found)
    many = [f"10.0.0.{n}:1" for n in range(TARGETS_MAX + 1)]
    assert len(problems({"connectivity": {"targets": many}})) == 1
    assert problems({"connectivity": {"targets": many[1:]}}) == []
