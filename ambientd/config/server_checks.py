"""What must hold between the settings of `[server]`; imported only where the section is given."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ambientd.config.checks import Finding
from ambientd.config.http import check_networks, parse_listen
from ambientd.config.problems import show_text
from ambientd.config.server import ServerConfig

SCHEMES = ("postgresql", "postgres")
_LISTEN = 'an address and a port ("127.0.0.1:7443", "[::1]:7443")'
_DATABASE = "postgresql://user@host/name without a password"
_FILES = ("tls_cert", "tls_key", "tls_client_ca", "database_password_file")
_DEFAULTS = ServerConfig()


def check_server(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings about the given settings; those that were refused already are absent."""
    for name in _FILES:
        path = values.get(name)
        if path is not None and not path.startswith("/"):
            yield Finding(name, "must be an absolute path", expected="an absolute path")
    yield from _check_tls(values)
    if "listen" in values:
        yield from _check_listen(values)
    if values.get("database") is not None:
        yield from _check_database(values["database"])
    elif values.get("database_password_file") is not None:
        yield Finding("database_password_file", "needs database beside it", expected="database as well")
    yield from check_networks(values.get("trusted_proxies", ()))
    yield from _check_times(values)


def warnings_of(server: ServerConfig) -> list[str]:
    """What is permitted and hardly meant, one sentence each."""
    if server.behind_proxy and not server.trusted_proxies:
        sentence = (
            "server.behind_proxy is set and server.trusted_proxies is empty: all clients of the proxy are one"
            " client, with one rate limit; name the proxy's address in server.trusted_proxies"
        )
        return [sentence]
    return []


def _check_tls(values: Mapping[str, Any]) -> Iterator[Finding]:
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if values.get(name) is not None and values.get(other) is None:
            yield Finding(name, f"needs {other} beside it", expected=f"{other} as well")
    if values.get("tls_client_ca") is not None and values.get("tls_cert") is None:
        yield Finding("tls_client_ca", "needs tls_cert beside it", expected="tls_cert as well")


def _check_listen(values: Mapping[str, Any]) -> Iterator[Finding]:
    text = values["listen"]
    listen, shown = parse_listen(text), show_text(text)
    if listen is None:
        yield Finding("listen", f"has {shown}, but must be {_LISTEN}", value=shown, expected=_LISTEN)
    elif not listen.is_loopback and values.get("tls_cert") is None and not values.get("behind_proxy"):
        yield Finding(
            "listen",
            f"is {shown}, which other machines reach without TLS; set tls_cert and tls_key, or say"
            " behind_proxy = true if a proxy before it has TLS",
            value=shown,
            expected="TLS, or an address of this machine alone",
            suggestion=show_text(f"127.0.0.1:{listen.port}"),
        )


def _check_database(text: str) -> Iterator[Finding]:
    """The text is never shown: it may hold a password, which is the very thing that is refused."""
    try:
        parts = urlsplit(text)
        secret = parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True)
    except ValueError:
        yield Finding("database", f"cannot be read: it must be {_DATABASE}", expected=_DATABASE)
        return
    if parts.scheme not in SCHEMES or not text.isprintable() or parts.fragment:
        yield Finding("database", f"cannot be used: it must be {_DATABASE}", expected=_DATABASE)
    elif secret:
        what = "holds a password, which everybody who may list processes or files could read;"
        yield Finding("database", f"{what} put it into database_password_file", expected=_DATABASE)


def _check_times(values: Mapping[str, Any]) -> Iterator[Finding]:
    unknown = values.get("unknown_after", _DEFAULTS.unknown_after)
    offline = values.get("offline_after", _DEFAULTS.offline_after)
    if offline <= unknown:
        given = "offline_after" if "offline_after" in values else "unknown_after"
        expected = "offline_after longer than unknown_after"
        yield Finding(given, f"leaves no time between the two: it must be {expected}", expected=expected)
