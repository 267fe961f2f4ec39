"""The control plane's settings: what must hold between them."""

import pytest

from ambientd.config.parse import Layer, Parsed, parse

CERTIFICATE = {"tls_cert": "/etc/c.pem", "tls_key": "/etc/c.key"}


def problems(**server: object) -> list[str]:
    outcome = parse([Layer("t", {"server": server})])
    return [] if isinstance(outcome, Parsed) else [problem.text for problem in outcome]


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"listen": "[::1]:0"},
        {"listen": "0.0.0.0:7443", **CERTIFICATE},
        {"listen": "0.0.0.0:7443", "behind_proxy": True, "trusted_proxies": ["10.0.0.0/8", "::1"]},
        {"database": "postgresql://ambient@db.example.net:5432/fleet?sslmode=verify-full"},
        {"database": "postgresql:///fleet?host=/run/postgresql"},
        {"database": "postgres://db/fleet", "database_password_file": "/etc/ambient/db.password"},
        {"unknown_after": "30s", "offline_after": "60s"},
    ],
)
def test_what_goes_together_is_taken(server: dict[str, object]) -> None:
    assert problems(**server) == []


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"listen": "7443"}, "listen"),
        ({"listen": "0.0.0.0:7443"}, "without TLS"),
        ({"listen": "[2001:db8::1]:7443"}, "without TLS"),
        ({"listen": "0.0.0.0:7443", "tls_cert": "/etc/c.pem"}, "tls_key"),
        ({"tls_key": "/etc/c.key"}, "tls_cert"),
        ({"tls_cert": "c.pem", "tls_key": "/etc/c.key"}, "absolute"),
        ({"trusted_proxies": ["proxy.example.net"]}, "trusted_proxies"),
        ({"database": "mysql://db/fleet"}, "postgresql://"),
        ({"database": "fleet.db"}, "postgresql://"),
        ({"database": "postgresql://[::1/fleet"}, "cannot be read"),
        ({"database_password_file": "/etc/p"}, "needs database"),
        ({"database": "postgresql://db/fleet", "database_password_file": "p"}, "absolute"),
        ({"offline_after": "3m"}, "longer than unknown_after"),
        ({"unknown_after": "1h"}, "longer than unknown_after"),
        ({"pool_size": 1}, "pool_size"),
    ],
)
def test_what_does_not_is_refused_with_the_reason(server: dict[str, object], words: str) -> None:
    found = problems(**server)
    assert len(found) == 1, found
    assert words in found[0]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ambient:hunter2@db/fleet",
        "postgresql://ambient@db/fleet?password=hunter2",
        "postgresql://ambient:@db/fleet",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    (found,) = problems(database=address)
    assert "database_password_file" in found
    assert "hunter2" not in found
