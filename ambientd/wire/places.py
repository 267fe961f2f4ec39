"""Where things live by convention (CONTRACT 2): pure functions of the environment and the uid."""

# The same class as `collections.abc.Mapping`, but already loaded: that package alone costs the hot verbs of
# `ambientctl` a tenth of their budget.
from _collections_abc import Mapping

SYSTEM_CONFIG = "/etc/ambient/ambient.toml"
SYSTEM_STATE = "/var/lib/ambient"
SYSTEM_RUNTIME = "/run/ambient"
SOCKET_NAME = "ambientd.sock"
DATABASE_NAME = "ambient.db"
FLEET_DATABASE_NAME = "fleet.db"
HEARTBEAT_NAME = "heartbeat.json"
STOPPED_NAME = "stopped.json"
FEED_DEFAULT = "observability/logs/activity_feed.jsonl"

ENV_SOCKET = "AMBIENT_SOCKET"
ENV_STATE = "AMBIENT_STATE_DIR"
ENV_CONFIG = "AMBIENT_CONFIG"
ENV_FEED = "LUKA_ACTIVITY_FEED_JSONL"
ENV_DATABASE = "HELICARRIER_DB_PATH"
# Set by the unit: sessions are started through this socket instead of as our own children.
ENV_EXECUTOR = "AMBIENT_EXECUTOR_SOCKET"


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or "/nonexistent"


def state_dir(environ: Mapping[str, str], uid: int) -> str:
    """The state directory: `AMBIENT_STATE_DIR`, systemd's, the system's for root, else the user's."""
    named = environ.get(ENV_STATE) or environ.get("STATE_DIRECTORY", "").split(":")[0]
    if named:
        return named
    if uid == 0:
        return SYSTEM_STATE
    base = environ.get("XDG_STATE_HOME") or _home(environ) + "/.local/state"
    return base + "/ambient"


def control_plane_dir(environ: Mapping[str, str], uid: int) -> str:
    """The control plane's state directory: as the node's when named, else a folder inside it, since both may
    run on one machine."""
    named = environ.get(ENV_STATE) or environ.get("STATE_DIRECTORY")
    own = state_dir(environ, uid)
    return own if named else own + "/control-plane"


def config_file(environ: Mapping[str, str], uid: int) -> str:
    """The main configuration file: `AMBIENT_CONFIG`, the system's for root, else the user's."""
    named = environ.get(ENV_CONFIG)
    if named:
        return named
    if uid == 0:
        return SYSTEM_CONFIG
    base = environ.get("XDG_CONFIG_HOME") or _home(environ) + "/.config"
    return base + "/ambient/ambient.toml"


def daemon_socket(environ: Mapping[str, str], uid: int) -> str:
    """Where a daemon with this environment listens."""
    named = environ.get(ENV_SOCKET)
    if named:
        return named
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return runtime + "/" + SOCKET_NAME
    if environ.get(ENV_STATE):
        return environ[ENV_STATE] + "/" + SOCKET_NAME
    if uid == 0:
        return SYSTEM_RUNTIME + "/" + SOCKET_NAME
    if environ.get("XDG_RUNTIME_DIR"):
        return environ["XDG_RUNTIME_DIR"] + "/ambient/" + SOCKET_NAME
    return state_dir(environ, uid) + "/" + SOCKET_NAME


def client_sockets(environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """Where a client with this environment looks, in order; the first is named when none is there."""
    own = daemon_socket(environ, uid)
    if environ.get(ENV_SOCKET) or environ.get(ENV_STATE):
        return (own,)
    system = SYSTEM_RUNTIME + "/" + SOCKET_NAME
    state = state_dir(environ, uid) + "/" + SOCKET_NAME
    return tuple(dict.fromkeys((own, state, system)))
