"""Settings of the other role, `ambientd control-plane`, and what must hold for them together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ambientd.config.setting import DURATION, setting

if TYPE_CHECKING:
    from ambientd.config.checks import Finding

_DAY = 86_400.0
POSTGRESQL = ("postgresql://", "postgres://")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """The control plane (`ambientd control-plane`); a node has no use for this."""

    listen: str = setting("127.0.0.1:7443", doc="Address and port; port 0 takes a free one.")
    tls_cert: str | None = setting(
        None, doc="Certificate chain (PEM); with it only TLS is spoken.", example="/etc/ambient/tls/cert.pem"
    )
    tls_key: str | None = setting(
        None, doc="The certificate's private key (PEM), 0600.", example="/etc/ambient/tls/key.pem"
    )
    tls_client_ca: str | None = setting(
        None,
        doc="Authorities whose client certificates are asked for and needed (mutual TLS).",
        example="/etc/ambient/tls/clients.pem",
    )
    behind_proxy: bool = setting(
        False, doc="Permits an address that other machines reach without TLS: a proxy speaks it."
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), doc="Addresses or networks whose X-Forwarded-For is believed, for rate limits and the audit."
    )
    max_connections: int = setting(
        2048, doc="Connections served at once; more are turned away.", minimum=1, maximum=65_536
    )
    database: str | None = setting(
        None,
        doc="A file, or an address of PostgreSQL without its password (DATABASE_PASSWORD).",
        example="postgresql://ambient@db.example.net/ambient",
    )
    database_connections: int = setting(8, doc="Connections to PostgreSQL at once.", minimum=2, maximum=200)
    registration: bool = setting(
        False, doc="Whether anybody may register an account; otherwise administrators add them."
    )
    access_lifetime: float = setting(
        900.0, doc="How long an access token is good.", kind=DURATION, minimum=60, maximum=_DAY
    )
    refresh_lifetime: float = setting(
        30 * _DAY, doc="How long a refresh token is good.", kind=DURATION, minimum=3600, maximum=400 * _DAY
    )
    unknown_after: float = setting(
        180.0,
        doc="A node without a report for so long is unknown; for one of longer intervals, longer.",
        kind=DURATION,
        minimum=5,
        maximum=30 * _DAY,
    )
    offline_after: float = setting(
        900.0, doc="The same, until it is offline.", kind=DURATION, minimum=5, maximum=400 * _DAY
    )
    sweep_interval: float = setting(
        15.0,
        doc="How often silent nodes, their work, and sessions past their time are looked for.",
        kind=DURATION,
        minimum=0.1,
        maximum=3600,
    )
    keep_reports: float = setting(
        30 * _DAY, doc="How long reports are kept.", kind=DURATION, minimum=3600, maximum=3650 * _DAY
    )
    keep_events: float = setting(
        365 * _DAY,
        doc="How long events of a node's work are kept (task_cleared, task_connected).",
        kind=DURATION,
        minimum=3600,
        maximum=3650 * _DAY,
    )
    tasks_per_node: int = setting(50, doc="Tasks that a node has at once.", minimum=1, maximum=10_000)
    auth_per_minute: int = setting(
        10, doc="Log-ins and registrations of one address.", minimum=1, maximum=1_000_000
    )
    node_per_minute: int = setting(
        20, doc="Registrations and enrolments of nodes of one address.", minimum=1, maximum=1_000_000
    )
    task_per_minute: int = setting(30, doc="Submissions of one address.", minimum=1, maximum=1_000_000)
    general_per_minute: int = setting(60, doc="Other requests of one address.", minimum=1, maximum=1_000_000)
    device_per_minute: int = setting(600, doc="Requests of one joined node.", minimum=1, maximum=1_000_000)


def is_postgresql(database: str | None) -> bool:
    """Whether a database is an address of PostgreSQL."""
    return database is not None and database.startswith(POSTGRESQL)


def check_server(values: Mapping[str, Any]) -> "Iterator[Finding]":
    """Findings about the given settings; those that were refused already are absent."""
    from ambientd.config.checks import Finding
    from ambientd.config.http import check_networks, parse_listen, wrong

    listen = parse_listen(values.get("listen", "127.0.0.1:7443"))
    encrypted = "tls_cert" in values or values.get("behind_proxy", False)
    if listen is None:
        yield wrong("listen", values["listen"], 'an address and a port ("127.0.0.1:7443", "[::1]:7443")')
    elif not listen.is_loopback and not encrypted:
        what = (
            f"is {listen.shown}, which other machines reach without TLS; set tls_cert and tls_key, or say "
            "behind_proxy = true where a proxy speaks TLS"
        )
        yield Finding("listen", what, value=listen.shown, expected="an address of this machine alone")
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        path = values.get(name)
        if path is not None and not path.startswith("/"):
            yield Finding(name, "must be an absolute path", expected="an absolute path")
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if name in values and other not in values:
            yield Finding(name, f"needs {other} beside it", expected="both or neither")
    if "tls_client_ca" in values and "tls_cert" not in values:
        yield Finding("tls_client_ca", "needs tls_cert and tls_key", expected="both beside it")
    yield from check_networks(values.get("trusted_proxies", ()))
    database = values.get("database")
    if database is not None and is_postgresql(database):
        yield from _check_address(database)
    if values.get("offline_after", 900.0) < values.get("unknown_after", 180.0):
        given = "offline_after" if "offline_after" in values else "unknown_after"
        yield Finding(given, "makes offline_after shorter than unknown_after", expected="a longer time")


def _check_address(database: str) -> "Iterator[Finding]":
    """No secret stands in a configuration file or in the arguments of a process."""
    from urllib.parse import parse_qs, urlsplit

    from ambientd.config.checks import Finding

    expected = "an address without a password"
    try:
        address = urlsplit(database)
        secret = address.password is not None or "password" in parse_qs(address.query)
    except ValueError:
        yield Finding("database", "is not a valid address", expected=expected)
        return
    if secret:
        what = "holds a password; give it as DATABASE_PASSWORD (credential, file or variable)"
        yield Finding("database", what, expected=expected)
