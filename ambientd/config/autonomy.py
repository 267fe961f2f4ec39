"""Settings of the parts that keep a node useful and safe without its control plane."""

from dataclasses import dataclass

from ambientd.config.setting import DURATION, SIZE, setting

_KEY = r"ed25519:[0-9a-f]{64}"
_KEYS = "Public keys, each `ed25519:` and 64 hexadecimal digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectivityConfig:
    """How the node finds out which of its links are there."""

    offline: bool = setting(
        False, doc="Never call the control plane or the targets below, whatever links there are."
    )
    interval: float = setting(
        30.0,
        doc="How often the links are probed; sooner after one failed.",
        kind=DURATION,
        minimum=1,
        maximum=600,
    )
    timeout: float = setting(5.0, doc="How long one probe may take.", kind=DURATION, minimum=0.1, maximum=60)
    targets: tuple[str, ...] = setting(
        (),
        doc="host:port pairs on the internet; one that answers is enough. Without any, a default route is.",
        example='["1.1.1.1:443"]',
    )
    misses: int = setting(
        3, doc="Probes in a row that must fail before a link counts as gone.", minimum=1, maximum=100
    )
    hold: float = setting(
        15.0,
        doc="How long a state is kept at least before another may follow.",
        kind=DURATION,
        minimum=0,
        maximum=3600,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlPlaneConfig:
    """The control plane that this node belongs to."""

    url: str | None = setting(
        None, doc="Base address of the control plane.", example="https://control.example.net"
    )
    ca_file: str | None = setting(
        None,
        doc="File with the certificate authorities that are believed instead of the system's.",
        example="/etc/ambient/control-plane-ca.pem",
    )
    pin: str | None = setting(
        None,
        doc="SHA-256 of the public key (SubjectPublicKeyInfo) of its certificate; another one is refused.",
        pattern=r"sha256:[0-9a-f]{64}",
        example="sha256:" + 64 * "0",
    )
    client_cert: str | None = setting(
        None, doc="Certificate (PEM) that this node shows.", example="/etc/ambient/tls/node.pem"
    )
    client_key: str | None = setting(
        None,
        doc="Private key (PEM) of it; in the same file when unset.",
        example="/etc/ambient/tls/node-key.pem",
    )
    proxy: str | None = setting(
        None,
        doc="http:// or socks5:// address of a proxy on the way.",
        example="http://proxy.example.net:3128",
    )
    allow_plain: bool = setting(
        False, doc="Whether to speak http:// to other machines; the token goes over the wire as it is."
    )
    timeout: float = setting(
        10.0, doc="How long one request may take.", kind=DURATION, minimum=0.5, maximum=120
    )
    interval: float = setting(
        60.0,
        doc="How often the node reports, a tenth more or less.",
        kind=DURATION,
        minimum=5,
        maximum=240,
    )
    pull_interval: float = setting(
        300.0,
        doc="How often policies and leases are asked for; also whenever the link is there again.",
        kind=DURATION,
        minimum=10,
        maximum=86400,
    )
    tasks: bool = setting(True, doc="Whether the control plane may start sessions of this node's agents.")
    outbox: int = setting(
        64 * 1024 * 1024,
        doc="Room for reports that wait; the audit and the ledger are not copied and take none.",
        kind=SIZE,
        minimum=64 * 1024,
        maximum=1024**3,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """Egress policies and session leases: who may issue them, and how much of them is kept."""

    network: str = setting(
        "default",
        doc="Name of the fleet; policies, leases and peers of another one are refused.",
        pattern=r"[A-Za-z0-9._-]{1,64}",
    )
    issuers: tuple[str, ...] = setting(
        (), doc=f"{_KEYS}, whose policies are believed.", pattern=_KEY, example='["ed25519:…"]'
    )
    lease_issuers: tuple[str, ...] = setting(
        (), doc=f"{_KEYS}, whose session leases are believed.", pattern=_KEY, example='["ed25519:…"]'
    )
    max_items: int = setting(
        20_000, doc="Policies and tombstones kept; more are refused.", minimum=1, maximum=200_000
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PeersConfig:
    """Other nodes on the LAN, with which signed policies are exchanged."""

    listen: str | None = setting(
        None, doc="Address and port for peers; off when unset.", example="0.0.0.0:7946"
    )
    static: tuple[str, ...] = setting(
        (),
        doc="host:port pairs of peers; who answers there must have a trusted key.",
        example='["192.168.1.13:7946"]',
    )
    trust: tuple[str, ...] = setting((), doc=f"{_KEYS} of trusted peers.", example='["ed25519:…"]')
    rosters: bool = setting(
        True, doc="Trust the nodes of the same owner that a roster of the control plane names, too."
    )
    discovery: bool = setting(
        False, doc="Announce this node and find others by DNS-SD; needs the extra `discovery`."
    )
    interval: float = setting(
        120.0,
        doc="How often linked peers compare what they hold; changes are told at once.",
        kind=DURATION,
        minimum=1,
        maximum=3600,
    )
    max_links: int = setting(32, doc="Links to peers at once, both ways together.", minimum=1, maximum=1024)
    max_message: int = setting(
        256 * 1024,
        doc="Longest message of a peer.",
        kind=SIZE,
        minimum=4096,
        maximum=16 * 1024 * 1024,
    )
    max_age: float = setting(
        86400.0,
        doc="Older snapshots are refused, whatever they say of themselves.",
        kind=DURATION,
        minimum=60,
        maximum=7 * 86400,
    )
    send_without_upstream: bool = setting(
        False, doc="Whether to pass policies on also without any upstream; receiving is always allowed."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaVConfig:
    """The efficiency metric (AILEE Δv): how often it is sampled, and its parameters."""

    enabled: bool = setting(True, doc="Whether samples are taken.")
    interval: float = setting(60.0, doc="Length of one sample.", kind=DURATION, minimum=1, maximum=3600)
    isp: float = setting(
        1.0,
        doc="Isp: scales the result; a plain number. Above 1e6 sums come near overflow.",
        minimum=0,
        maximum=1e6,
    )
    eta: float = setting(
        1.0, doc="η: the share of the power that counts; a plain number.", minimum=0, maximum=1
    )
    alpha: float = setting(
        0.1,
        doc="α: how fast Δv falls with w² and grows with v; a plain number. Safe: up to 1.",
        minimum=0,
        maximum=10,
    )
    v0: float = setting(
        1.0,
        doc="The velocity that is on target; a plain number, 1 is the nominal rate.",
        minimum=0,
        maximum=10,
    )
    target_load: float = setting(
        0.7,
        doc="Processes that run or wait, per core, at which w is 0; w is the distance from it.",
        minimum=0,
        maximum=100,
    )
    nominal_rate: float = setting(
        6.0,
        doc="Sessions completed per hour at which v is 1; v counts those of the last hour, at most 10.",
        minimum=0.001,
        maximum=1_000_000,
    )
    idle_power: float = setting(
        10.0,
        doc="Watts of the idle machine, for the estimate where nothing measures power.",
        minimum=0,
        maximum=100_000,
    )
    core_power: float = setting(
        5.0, doc="Watts that each busy core adds to that estimate.", minimum=0, maximum=10_000
    )
