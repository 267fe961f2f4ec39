"""Settings of `ambientd control-plane`, the other role of this program."""

from dataclasses import dataclass

from ambientd.config.setting import DURATION, setting

_RPM = "Requests a minute of one client address"
_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """The control plane: where it listens, its database, and how it keeps its fleet."""

    listen: str = setting("127.0.0.1:7443", doc="Address and port; port 0 takes a free one.")
    tls_cert: str | None = setting(
        None, doc="File with the certificate chain.", example="/etc/ambient/control-plane.pem"
    )
    tls_key: str | None = setting(
        None, doc="File with its private key, 0600.", example="/etc/ambient/control-plane.key"
    )
    tls_client_ca: str | None = setting(
        None,
        doc="File with authorities; clients need a certificate of one of them (mutual TLS).",
        example="/etc/ambient/clients-ca.pem",
    )
    behind_proxy: bool = setting(
        False, doc="Permits an address that other machines reach without TLS here: a proxy before it has it."
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), doc="Addresses or networks whose X-Forwarded-For is believed.", example='["10.0.0.0/24"]'
    )
    max_connections: int = setting(
        1024, doc="Connections served at once; more are answered 503 and closed.", minimum=1, maximum=65_536
    )
    database: str | None = setting(
        None,
        doc="postgresql:// address without a password; unset: fleet.db in the state directory.",
        example="postgresql://ambient@db.example.net/fleet?sslmode=verify-full",
    )
    database_password_file: str | None = setting(
        None,
        doc="File with the password of that database, 0600; libpq's own ways work without it.",
        example="/etc/ambient/database.password",
    )
    pool_size: int = setting(
        8, doc="Connections to PostgreSQL of one process at most.", minimum=2, maximum=100
    )
    unknown_after: float = setting(
        180.0,
        doc="A node that reports every minute is unknown after this silence; a slower one after more.",
        kind=DURATION,
        minimum=5,
        maximum=_DAY,
    )
    offline_after: float = setting(
        900.0,
        doc="The same until it is offline; must be longer.",
        kind=DURATION,
        minimum=10,
        maximum=30 * _DAY,
    )
    sweep_interval: float = setting(
        15.0,
        doc="How often silent nodes, absent work and expired sessions are looked for.",
        kind=DURATION,
        minimum=0.5,
        maximum=600,
    )
    cleanup_interval: float = setting(
        600.0,
        doc="How often old history and expired tokens are removed.",
        kind=DURATION,
        minimum=5,
        maximum=_DAY,
    )
    keep_reports: float = setting(
        30 * _DAY, doc="How long reports of nodes are kept.", kind=DURATION, minimum=3600, maximum=3650 * _DAY
    )
    keep_events: float = setting(
        365 * _DAY,
        doc="How long events of nodes (tasks cleared and connected) are kept.",
        kind=DURATION,
        minimum=3600,
        maximum=3650 * _DAY,
    )
    rosters: bool = setting(
        False, doc="Tell the nodes of each owner, signed by ISSUER_KEY, to trust each other as LAN peers."
    )
    max_active_tasks: int = setting(50, doc="Tasks that a node has at once.", minimum=1, maximum=1000)
    max_open_tasks: int = setting(
        10_000, doc="Tasks of one account that have not ended.", minimum=1, maximum=1_000_000
    )
    owner_share: float = setting(
        0.5,
        doc="The part of these that is kept for the node's owner, whatever others hand in.",
        minimum=0,
        maximum=1,
    )
    registration: bool = setting(
        False, doc="Whether anybody may register an account; otherwise administrators add them."
    )
    access_lifetime: float = setting(
        900.0, doc="How long an access token is good.", kind=DURATION, minimum=30, maximum=_DAY
    )
    refresh_lifetime: float = setting(
        30 * _DAY, doc="How long a refresh token is good.", kind=DURATION, minimum=300, maximum=365 * _DAY
    )
    auth_rpm: int = setting(10, doc=f"{_RPM}: log-in and registration of accounts.", minimum=1)
    auth_burst: int = setting(3, doc="How many of those at once.", minimum=1)
    node_rpm: int = setting(20, doc=f"{_RPM}: registration, deletion and rejection of nodes.", minimum=1)
    node_burst: int = setting(5, doc="How many of those at once.", minimum=1)
    task_rpm: int = setting(30, doc=f"{_RPM}: tasks.", minimum=1)
    task_burst: int = setting(10, doc="How many of those at once.", minimum=1)
    proof_rpm: int = setting(15, doc=f"{_RPM}: verification of proofs.", minimum=1)
    proof_burst: int = setting(3, doc="How many of those at once.", minimum=1)
    general_rpm: int = setting(60, doc=f"{_RPM}: everything else.", minimum=1)
    general_burst: int = setting(10, doc="How many of those at once.", minimum=1)
    device_rpm: int = setting(
        120, doc="Requests a minute of one joined node, counted for each node by itself.", minimum=1
    )
    device_burst: int = setting(60, doc="How many of those at once.", minimum=1)
