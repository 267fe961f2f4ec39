"""What can be configured. Each field carries its help text, unit and range; nothing here reads anything.

`parse` builds these from a mapping; `config init`, `config show` and the README are made from the same
metadata, so a setting is described once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from ambientd.config.autonomy import (
    ConnectivityConfig,
    ControlPlaneConfig,
    DeltaVConfig,
    PeersConfig,
    PolicyConfig,
)
from ambientd.config.server import ServerConfig
from ambientd.config.setting import DURATION, PRICES, SIZE, setting


class Mode(StrEnum):
    """How strict the node is about secrets; `development` is for `ambientd dev`."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


class HostIdSource(StrEnum):
    """Which facts the host id is made from (seed heartbeat 4)."""

    AUTO = "auto"
    NAME = "name"


class OutputFormat(StrEnum):
    """How an agent's standard output is read."""

    TEXT = "text"
    JSONL = "jsonl"


class LogLevel(StrEnum):
    """Least severe level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class NotifierKind(StrEnum):
    """How a notification of an alert leaves the node."""

    LOG = "log"
    COMMAND = "command"
    WEBHOOK = "webhook"


class LogFormat(StrEnum):
    """`auto` is human on a terminal and JSON elsewhere."""

    AUTO = "auto"
    HUMAN = "human"
    JSON = "json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeConfig:
    """Who this node is."""

    name: str | None = setting(
        None,
        doc="Name shown to people; the host name when unset.",
        pattern=r"[^\x00-\x1f/]{1,64}",
        example="edge-07",
    )
    mode: Mode = setting(Mode.PRODUCTION, doc="production or development.")
    host_id: HostIdSource = setting(
        HostIdSource.AUTO, doc="auto: SHA-256 of node name and machine id; name: of the node name alone."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DispatcherConfig:
    """The loop that sweeps the intake and beats."""

    interval: float = setting(
        60.0, doc="Length of a cycle; each cycle is one beat.", kind=DURATION, minimum=0.1, maximum=60
    )
    actor: str = setting(
        "dispatcher", doc="Component id written as `actor` into the feed.", pattern=r"[A-Za-z0-9._-]{1,64}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeartbeatConfig:
    """The activity feed. Nothing about it can stop or slow the dispatcher."""

    enabled: bool = setting(True, doc="Whether beats are appended to the activity feed.")
    feed: str | None = setting(
        None,
        doc="Feed file; LUKA_ACTIVITY_FEED_JSONL wins. Relative to the state directory.",
        example="observability/logs/activity_feed.jsonl",
    )
    timeout: float = setting(
        5.0,
        doc="How long one append may take before the beat counts as lost.",
        kind=DURATION,
        minimum=0.1,
        maximum=60,
    )
    max_size: int = setting(
        16 * 1024 * 1024,
        doc="Our own feed is rotated past this size; a feed with foreign lines never is.",
        kind=SIZE,
        minimum=64 * 1024,
    )
    keep: float = setting(
        7 * 86400.0,
        doc="How long rotated feed files and quarantined fragments are kept.",
        kind=DURATION,
        minimum=3600,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolConfig:
    """The folder `<state>/inbox`, where work is handed in by rename."""

    max_file_size: int = setting(
        1024 * 1024, doc="A larger file is rejected.", kind=SIZE, minimum=1024, maximum=16 * 1024 * 1024
    )
    keep: float = setting(
        30 * 86400.0,
        doc="How long files in done, rejected and blocked are kept.",
        kind=DURATION,
        minimum=3600,
    )
    keep_at_least: int = setting(
        100, doc="As many of the newest are kept whatever their age.", minimum=0, maximum=100_000
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionsConfig:
    """Bounds of local sessions."""

    max_concurrent: int = setting(
        8, doc="Sessions running at once on this node, over all agents.", minimum=1, maximum=1024
    )
    grace: float = setting(
        10.0, doc="Time between TERM and KILL when a session is ended.", kind=DURATION, minimum=0, maximum=600
    )
    output_limit: int = setting(
        16 * 1024 * 1024,
        doc="Output kept per session; the rest is read, counted and dropped.",
        kind=SIZE,
        minimum=4096,
        maximum=1024 * 1024 * 1024,
    )
    line_limit: int = setting(
        16 * 1024,
        doc="Longest output line kept whole in one event; longer ones are split.",
        kind=SIZE,
        minimum=256,
        maximum=256 * 1024,
    )
    keep_folders: float = setting(
        7 * 86400.0, doc="How long the private folder of an ended session is kept.", kind=DURATION, minimum=0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """A local agent: something that can be given a prompt, run as a child process without a shell."""

    id: str
    name: str | None = setting(
        None, doc="Name shown to people.", pattern=r"[^\x00-\x1f]{1,64}", example="Code reviewer"
    )
    command: tuple[str, ...] = setting(
        doc="Program and arguments; {prompt}, {model}, {session_id} are replaced. "
        "The prompt arrives on stdin.",
        example='["my-agent", "--model", "{model}"]',
    )
    model: str | None = setting(
        None, doc="Model used unless the session names one.", example="provider/model-1"
    )
    models: tuple[str, ...] = setting((), doc="Models a session may name; empty: any.")
    output: OutputFormat = setting(
        OutputFormat.TEXT, doc="text, or jsonl: lines that are JSON objects become events."
    )
    timeout: float = setting(
        1800.0, doc="A session is ended after this time.", kind=DURATION, minimum=0.1, maximum=30 * 86400
    )
    max_concurrent: int = setting(
        1, doc="Sessions of this agent running at once; more wait in the queue.", minimum=1, maximum=256
    )
    category: str | None = setting(
        None, doc="Task category written into the ledger.", pattern=r"[^\x00-\x1f]{1,64}", example="review"
    )
    environment: Mapping[str, str] = setting({}, doc="Variables added to the agent's scrubbed environment.")
    environment_file: str | None = setting(
        None, doc="File of KEY=value lines, mode 0600, for secrets.", example="/etc/ambient/reviewer.env"
    )
    workdir: str | None = setting(
        None,
        doc="Working directory, must exist; a private folder of the session when unset.",
        example="/srv/repo",
    )
    memory_limit: int | None = setting(
        None,
        doc="Address space of each process of the agent.",
        kind=SIZE,
        minimum=16 * 1024 * 1024,
        example="4GiB",
    )
    process_limit: int | None = setting(
        None,
        doc="RLIMIT_NPROC of the agent (counts all processes of the user).",
        minimum=1,
        maximum=4_000_000,
        example="4096",
    )
    file_size_limit: int | None = setting(
        None, doc="Largest file the agent may write.", kind=SIZE, minimum=4096, example="1GiB"
    )
    open_files_limit: int = setting(
        1024, doc="Open files per process of the agent.", minimum=16, maximum=1_048_576
    )
    cpu_time_limit: float | None = setting(
        None, doc="CPU time per process of the agent.", kind=DURATION, minimum=1, example="1h"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerConfig:
    """The database."""

    busy_timeout: float = setting(
        5.0, doc="How long a write waits for another process's lock.", kind=DURATION, minimum=0, maximum=60
    )
    ballast: int = setting(
        1024 * 1024,
        doc="Reserve file that is given up to clean a full disk.",
        kind=SIZE,
        minimum=0,
        maximum=1024 * 1024 * 1024,
    )
    legacy_paths: tuple[str, ...] = setting(
        (), doc="Files or folders of the earlier JSON store that the import-drift diagnostic compares with."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPrices:
    """Prices of one model (or of all whose name begins alike), in USD per million tokens."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PricingConfig:
    """Price tables, for sessions that report tokens but no cost."""

    current: str | None = setting(
        None, doc="Name of the table that new costs are estimated with; unset: none is.", example="2026-11"
    )
    versions: Mapping[str, Mapping[str, ModelPrices]] = setting(
        {},
        doc="Per version and model, USD per million tokens: input, output, cache_read?, cache_write?. "
        "One * may end a model's name.",
        kind=PRICES,
        example='{"2026-11" = {models = {"provider/model-1" = {input = 3.0, output = 15.0}}}}',
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionConfig:
    """How long the ledger keeps what it knows, and how it is cleaned once a day."""

    raw: float = setting(
        90 * 86400.0,
        doc="How long ended sessions are kept, with their events and usage; counted from their end.",
        kind=DURATION,
        minimum=90 * 86400,
        maximum=36_500 * 86400,
    )
    aggregates: float = setting(
        365 * 86400.0,
        doc="How long the daily totals and the performance of models are kept.",
        kind=DURATION,
        minimum=365 * 86400,
        maximum=36_500 * 86400,
    )
    batch: int = setting(
        30, doc="Sessions removed in one write; others write in between.", minimum=10, maximum=200
    )
    hour: int | None = setting(
        None,
        doc="UTC hour in which the daily run begins; unset: ten minutes after the start, then daily.",
        minimum=0,
        maximum=23,
        example="3",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NotifierConfig:
    """A receiver of alerts' notifications, besides the daemon's own log."""

    id: str
    kind: NotifierKind = setting(doc="log, command or webhook.", example="webhook")
    command: tuple[str, ...] | None = setting(
        None,
        doc="Program and arguments, without a shell; the notification arrives on stdin as JSON.",
        example='["/usr/local/bin/page-me", "--from", "ambient"]',
    )
    url: str | None = setting(
        None, doc="Address that the webhook posts to.", example="https://hooks.example.net/ambient"
    )
    secret_file: str | None = setting(
        None,
        doc="File with the key of the webhook's signature, mode 0600; unsigned when unset.",
        example="/etc/ambient/webhook.key",
    )
    timeout: float = setting(
        10.0, doc="How long one attempt may take.", kind=DURATION, minimum=0.1, maximum=60
    )
    attempts: int = setting(
        5,
        doc="Attempts before a notification is given up; the pauses between them double.",
        minimum=1,
        maximum=10,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertsConfig:
    """Evaluation of the alert rules, and who is told."""

    sweep_interval: float = setting(
        300.0,
        doc="How often all rules are evaluated; the end of a session does it too, at once.",
        kind=DURATION,
        minimum=1,
        maximum=3600,
    )
    notifiers: Mapping[str, NotifierConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayConfig:
    """The OpenClaw Gateway whose agents this node shows and steers."""

    enabled: bool | None = setting(
        None,
        doc="Whether the node connects to a gateway; when unset, it does if it finds a token.",
        example="true",
    )
    url: str = setting(
        "ws://127.0.0.1:18789",
        doc="Where the gateway listens; ws:// only on this host, else wss://.",
    )
    allow_plain: bool = setting(
        False, doc="Allows ws:// to another host: the token can be read on the way there."
    )
    token_file: str | None = setting(
        None,
        doc="File with the gateway's token, mode 0600; OPENCLAW_AUTH_TOKEN and HELICARRIER_GATEWAY_TOKEN "
        "come after it.",
        example="/etc/ambient/gateway.token",
    )
    connect_timeout: float = setting(
        10.0, doc="How long one attempt to connect may take.", kind=DURATION, minimum=0.5, maximum=120
    )
    call_timeout: float = setting(
        10.0, doc="How long an answer may take.", kind=DURATION, minimum=0.5, maximum=120
    )
    reconcile_interval: float = setting(
        30.0,
        doc="How often the sessions are listed anew, beside what the gateway tells by itself.",
        kind=DURATION,
        minimum=5,
        maximum=600,
    )
    recent: float = setting(
        900.0,
        doc="How long an ended session speaks for its agent's status.",
        kind=DURATION,
        minimum=10,
        maximum=7 * 86400,
    )
    allow_models: tuple[str, ...] = setting(
        (), doc="Models that a session or an agent may be given; empty: any that the gateway lists."
    )
    allow_agent_model: bool = setting(
        False,
        doc="Allows changing an agent's model, for which the gateway must grant operator.admin.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketConfig:
    """The Unix socket of the local API."""

    group: str | None = setting(None, doc="Group that may connect and read.", example="ambient")
    admin_group: str = setting("ambient-admin", doc="Group whose members may also write.")
    max_connections: int = setting(
        64, doc="Connections served at once; more are answered 503 and closed.", minimum=1, maximum=4096
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpConfig:
    """The same API on TCP, for a browser on this machine and for scripts; every request needs the secret."""

    enabled: bool | None = setting(
        None, doc="Whether to listen; unset: when there is a secret.", example="true"
    )
    listen: str = setting("127.0.0.1:7777", doc="Address and port; port 0 takes a free one.")
    allow_non_loopback: bool = setting(
        False, doc="Permits an address that other machines reach; there is no TLS here."
    )
    secret_file: str | None = setting(
        None,
        doc="File of the secret, 0600; credential http.secret wins, else HELICARRIER_SECRET.",
        example="/etc/ambient/http.secret",
    )
    hosts: tuple[str, ...] = setting(
        (), doc="Further values of the Host header that are this node, each exact, with its port."
    )
    origins: tuple[str, ...] = setting(
        (), doc="Further values of the Origin header that may call, each exact."
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), doc="Addresses or networks whose X-Forwarded-For is believed, for the audit."
    )
    max_connections: int = setting(
        64, doc="Connections served at once; more are answered 503 and closed.", minimum=1, maximum=4096
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """The daemon's own log, on standard error."""

    level: LogLevel = setting(LogLevel.INFO, doc="debug, info, warning or error.")
    format: LogFormat = setting(LogFormat.AUTO, doc="auto, human or json.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole effective configuration."""

    node: NodeConfig = field(default_factory=NodeConfig)
    dispatcher: DispatcherConfig = field(default_factory=DispatcherConfig)
    heartbeat: HeartbeatConfig = field(default_factory=HeartbeatConfig)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    agents: Mapping[str, AgentConfig] = field(default_factory=dict)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    pricing: PricingConfig = field(default_factory=PricingConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    connectivity: ConnectivityConfig = field(default_factory=ConnectivityConfig)
    control_plane: ControlPlaneConfig = field(default_factory=ControlPlaneConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    peers: PeersConfig = field(default_factory=PeersConfig)
    delta_v: DeltaVConfig = field(default_factory=DeltaVConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    socket: SocketConfig = field(default_factory=SocketConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    log: LogConfig = field(default_factory=LogConfig)
