"""Paths of the local API, schema names and limits that both sides rely on."""

LIVEZ = "/livez"
READYZ = "/readyz"
OPENAPI = "/openapi.json"
STATUS = "/api/system/status"
SPAWN = "/api/control/spawn"
KILL = "/api/control/kill"
LEDGER = "/api/v3/ledger"
NODE = "/api/v1/node"
MIGRATIONS = "/api/v1/node/migrations"

REQUEST_ID_HEADER = "X-Request-Id"

PROMPT_MAX_BYTES = 512 * 1024
BODY_MAX_BYTES = 1024 * 1024
LONG_POLL_MAX_SEC = 25

SCHEMA_STATUS = "ambient.status/1"
SCHEMA_SESSIONS = "ambient.sessions/1"
SCHEMA_SESSION = "ambient.session/1"
SCHEMA_EVENTS = "ambient.events/1"
SCHEMA_SPAWN = "ambient.spawn/1"
SCHEMA_KILL = "ambient.kill/1"
SCHEMA_AGENTS = "ambient.agents/1"
SCHEMA_VERSION = "ambient.version/1"
SCHEMA_FEED_CHECK = "ambient.feed-check/1"
SCHEMA_FEED_DRIFT = "ambient.feed-drift/1"
SCHEMA_CONFIG = "ambient.config/1"
SCHEMA_MIGRATIONS = "ambient.migrations/1"
