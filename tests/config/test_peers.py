import pytest

from ambientd.config.parse import Layer, Parsed, parse
from ambientd.config.peers import STATIC_MAX, PeerAddress, parse_peer

KEY = "ed25519:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.1.13:7946", PeerAddress("192.168.1.13", 7946)),
        ("edge-03.lan:7946", PeerAddress("edge-03.lan", 7946)),
        ("[fe80::1%eth0]:7946", PeerAddress("fe80::1%eth0", 7946)),
        ("[fd00::2]:1", PeerAddress("fd00::2", 1)),
        ("192.168.1.13", None),
        ("192.168.1.13:0", None),
        ("192.168.1.13:65536", None),
        ("fe80::1:7946", None),
        ("a b:7946", None),
        ("x:7946\n", None),
        ("-x:7946", None),
        ("", None),
    ],
)
def test_a_peer_is_a_host_and_a_port(text: str, address: PeerAddress | None) -> None:
    assert parse_peer(text) == address
    if address is not None:
        assert parse_peer(str(address)) == address


def problems(**peers: object) -> list[str]:
    found = parse([Layer("ambient.toml", {"peers": peers})])
    return [] if isinstance(found, Parsed) else [one.text for one in found]


def test_good_settings_are_taken() -> None:
    assert not problems(listen="0.0.0.0:7946", static=["192.168.1.13:7946"], trust=[KEY], interval="30s")
    assert not problems(listen="[::]:7946")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"listen": "7946"}, "peers.listen"),
        ({"listen": "edge:7946"}, "peers.listen"),
        ({"static": ["192.168.1.13"]}, "peers.static"),
        ({"static": ["x:1"] * (STATIC_MAX + 1)}, "peers.static"),
        ({"trust": [KEY.upper()]}, "peers.trust"),
        ({"trust": ["ab" * 32]}, "peers.trust"),
        ({"trust": [KEY + "0"]}, "peers.trust"),
        ({"lisen": "0.0.0.0:7946"}, "peers.lisen"),
    ],
)
def test_a_bad_setting_is_named_with_what_it_must_be(settings: dict[str, object], named: str) -> None:
    (text,) = problems(**settings)
    assert named in text


def test_all_problems_are_told_at_once() -> None:
    assert len(problems(listen="x", static=["y", "z:1"], trust=["k", KEY, "l"])) == 4
