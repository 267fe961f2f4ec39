-- The control plane. Instants are milliseconds since 1970 (UTC), truth values 0 and 1, documents JSONB.
-- Table and column names are those of the SQLite schema beside this one. Text that orders or joins is
-- compared byte by byte ("C"), as there.

-- Accounts, keys and tokens. What is called a hash of a token is keyed; a token itself is nowhere.

CREATE TABLE users (
    user_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (user_id <> ''),
    username TEXT COLLATE "C" NOT NULL UNIQUE CHECK (username <> ''),
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    email TEXT,
    created_at BIGINT NOT NULL,
    last_login BIGINT
);

CREATE TABLE api_keys (
    key_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (key_id <> ''),
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    key_hash BYTEA NOT NULL UNIQUE CHECK (length(key_hash) >= 32),
    key_prefix TEXT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    scopes JSONB NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT
);

CREATE INDEX api_keys_by_user ON api_keys (user_id, created_at);

CREATE TABLE access_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY CHECK (length(token_hash) >= 32),
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    family_id TEXT COLLATE "C" NOT NULL,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX access_tokens_by_family ON access_tokens (family_id);
CREATE INDEX access_tokens_by_user ON access_tokens (user_id);
CREATE INDEX access_tokens_by_expiry ON access_tokens (expires_at);

CREATE TABLE refresh_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY CHECK (length(token_hash) >= 32),
    family_id TEXT COLLATE "C" NOT NULL,
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    parent_hash BYTEA,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    successor_hash BYTEA,
    revoked_at BIGINT,
    revoked_reason TEXT,
    CHECK ((successor_hash IS NULL) = (used_at IS NULL))
);

CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

-- Nodes. A deleted one keeps its row, so that its owner alone can bring its id back. Reports change no column
-- that an index holds, and pages keep room, so that they are updated in place (HOT).

CREATE TABLE nodes (
    node_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (node_id <> ''),
    owner_id TEXT COLLATE "C" NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    region TEXT NOT NULL,
    node_type TEXT NOT NULL CHECK (
        node_type IN ('compute', 'gateway', 'storage', 'validator', 'open_internet', 'feen_resonator', 'any')
    ),
    bandwidth_mbps DOUBLE PRECISION NOT NULL CHECK (bandwidth_mbps >= 0),
    cpu_cores INTEGER NOT NULL CHECK (cpu_cores >= 0),
    memory_gb DOUBLE PRECISION NOT NULL CHECK (memory_gb >= 0),
    gpu_available INTEGER NOT NULL CHECK (gpu_available IN (0, 1)),
    observability_port INTEGER CHECK (observability_port BETWEEN 1 AND 65535),
    health_score DOUBLE PRECISION NOT NULL CHECK (health_score BETWEEN 0 AND 100),
    status TEXT NOT NULL CHECK (status IN ('online', 'unknown', 'offline', 'rejected')),
    registered_at BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    last_heartbeat BIGINT,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    report_interval_ms BIGINT NOT NULL CHECK (report_interval_ms > 0),
    incarnation INTEGER NOT NULL DEFAULT 1 CHECK (incarnation >= 1),
    state TEXT,
    delta_v DOUBLE PRECISION,
    audit_head_seq BIGINT,
    audit_head_hash TEXT,
    report_seq BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX nodes_newest ON nodes (registered_at, node_id);
CREATE INDEX nodes_by_owner ON nodes (owner_id, registered_at, node_id);

CREATE TABLE join_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY CHECK (length(token_hash) >= 32),
    token_id TEXT COLLATE "C" NOT NULL UNIQUE CHECK (token_id <> ''),
    owner_id TEXT COLLATE "C" NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    uses_left BIGINT NOT NULL CHECK (uses_left >= 0),
    node_id TEXT COLLATE "C",
    revoked_at BIGINT
);

CREATE INDEX join_tokens_by_owner ON join_tokens (owner_id, created_at);

CREATE TABLE device_credentials (
    credential_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (credential_id <> ''),
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    token_hash BYTEA NOT NULL UNIQUE CHECK (length(token_hash) >= 32),
    public_key BYTEA NOT NULL CHECK (length(public_key) = 32),
    created_at BIGINT NOT NULL,
    rotated_from TEXT,
    revoked_at BIGINT,
    last_seq BIGINT NOT NULL DEFAULT 0 CHECK (last_seq >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX device_credentials_by_node ON device_credentials (node_id, created_at);

-- One row for each report, and for each event of a node's work. Rows are numbered as they come in, so that
-- retention finds the oldest without an index. A report that a node numbered is here once. No foreign key:
-- reports are written while their node's row is locked, and checking it again takes a third of a report's time.

CREATE TABLE node_heartbeat_history (
    heartbeat_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id TEXT COLLATE "C" NOT NULL,
    health_score DOUBLE PRECISION NOT NULL CHECK (health_score BETWEEN 0 AND 100),
    cpu_usage DOUBLE PRECISION CHECK (cpu_usage BETWEEN 0 AND 100),
    memory_usage DOUBLE PRECISION CHECK (memory_usage BETWEEN 0 AND 100),
    disk_usage DOUBLE PRECISION CHECK (disk_usage BETWEEN 0 AND 100),
    network_latency_ms INTEGER CHECK (network_latency_ms >= 0),
    active_tasks INTEGER NOT NULL CHECK (active_tasks >= 0),
    status TEXT NOT NULL CHECK (
        status IN ('online', 'unknown', 'offline', 'rejected', 'task_cleared', 'task_connected')
    ),
    metadata JSONB,
    recorded_at BIGINT NOT NULL,
    sampled_at BIGINT,
    incarnation INTEGER NOT NULL DEFAULT 1,
    report_seq BIGINT
);

CREATE INDEX node_heartbeat_history_by_node ON node_heartbeat_history (node_id, heartbeat_id);
CREATE UNIQUE INDEX node_heartbeat_history_once
ON node_heartbeat_history (node_id, incarnation, report_seq) WHERE report_seq IS NOT NULL;
CREATE INDEX node_heartbeat_history_events
ON node_heartbeat_history (node_id, recorded_at) WHERE status IN ('task_cleared', 'task_connected');

-- Work.

CREATE TABLE tasks (
    task_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (task_id <> ''),
    creator_id TEXT COLLATE "C" REFERENCES users (user_id) ON DELETE SET NULL,
    task_type TEXT COLLATE "C" NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    wasm_module TEXT,
    inputs JSONB NOT NULL,
    min_nodes INTEGER NOT NULL CHECK (min_nodes >= 1),
    max_execution_time_sec INTEGER NOT NULL CHECK (max_execution_time_sec >= 1),
    require_gpu INTEGER NOT NULL CHECK (require_gpu IN (0, 1)),
    require_proof INTEGER NOT NULL CHECK (require_proof IN (0, 1)),
    away_policy TEXT NOT NULL CHECK (away_policy IN ('wait', 'move', 'stop')),
    away_after_ms BIGINT CHECK (away_after_ms > 0),
    result JSONB,
    proof_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    completed_at BIGINT,
    CHECK (away_policy = 'wait' OR away_after_ms IS NOT NULL),
    CHECK ((status IN ('completed', 'failed')) = (completed_at IS NOT NULL))
);

CREATE INDEX tasks_by_creator ON tasks (creator_id, created_at, task_id);
CREATE INDEX tasks_newest ON tasks (created_at, task_id);
CREATE INDEX tasks_pending ON tasks (created_at, task_id) WHERE status = 'pending';
CREATE INDEX tasks_moving ON tasks (task_id) WHERE away_policy <> 'wait' AND status IN ('pending', 'running');

CREATE TABLE task_assignments (
    task_id TEXT COLLATE "C" NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    assigned_at BIGINT NOT NULL,
    disconnected_at BIGINT,
    detach_reason TEXT,
    execution_status TEXT NOT NULL CHECK (
        execution_status IN ('assigned', 'in_progress', 'completed', 'failed', 'stopped')
    ),
    execution_started_at BIGINT,
    execution_completed_at BIGINT,
    session_id TEXT COLLATE "C",
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    PRIMARY KEY (task_id, node_id),
    CHECK ((disconnected_at IS NULL) = (detach_reason IS NULL))
);

CREATE INDEX task_assignments_of_node ON task_assignments (node_id, assigned_at);
CREATE INDEX task_assignments_current
ON task_assignments (node_id, assigned_at) WHERE disconnected_at IS NULL;

-- Relay sessions. Their ids are the requesters' choice, so they are unique for each requester only.

CREATE TABLE connect_sessions (
    requester_id TEXT COLLATE "C" NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    session_id TEXT COLLATE "C" NOT NULL CHECK (session_id <> ''),
    task_id TEXT COLLATE "C" NOT NULL REFERENCES tasks (task_id) ON DELETE CASCADE,
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    token_hash BYTEA NOT NULL UNIQUE CHECK (length(token_hash) >= 32),
    tunnel_protocol TEXT NOT NULL CHECK (tunnel_protocol IN ('mtls', 'wireguard', 'quic')),
    egress_profile TEXT NOT NULL CHECK (
        egress_profile IN ('allowlist_domains', 'protocol_limited', 'metered_general_egress')
    ),
    destination_policy_id TEXT NOT NULL,
    bandwidth_limit_mbps DOUBLE PRECISION NOT NULL CHECK (bandwidth_limit_mbps > 0),
    status TEXT NOT NULL CHECK (status IN ('active', 'ended', 'expired')),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_heartbeat_at BIGINT,
    ended_at BIGINT,
    end_reason TEXT,
    PRIMARY KEY (requester_id, session_id),
    CHECK ((status = 'active') = (ended_at IS NULL))
);

CREATE UNIQUE INDEX connect_sessions_one_a_node ON connect_sessions (node_id) WHERE status = 'active';
CREATE INDEX connect_sessions_by_task ON connect_sessions (task_id);
CREATE INDEX connect_sessions_due ON connect_sessions (expires_at) WHERE status = 'active';

-- What comes down to nodes: signed by an issuer, in the order of its revision.

CREATE TABLE fleet_items (
    revision BIGINT NOT NULL PRIMARY KEY,
    item_id BYTEA NOT NULL UNIQUE CHECK (length(item_id) = 32),
    kind TEXT NOT NULL CHECK (kind IN ('policy', 'tombstone', 'lease', 'revocation', 'roster')),
    subject TEXT COLLATE "C" NOT NULL,
    owner_id TEXT COLLATE "C" REFERENCES users (user_id) ON DELETE CASCADE,
    node_id TEXT COLLATE "C" REFERENCES nodes (node_id) ON DELETE CASCADE,
    body BYTEA NOT NULL,
    issuer BYTEA NOT NULL CHECK (length(issuer) = 32),
    signature BYTEA NOT NULL CHECK (length(signature) = 64),
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE INDEX fleet_items_by_subject ON fleet_items (kind, subject, revision);
CREATE INDEX fleet_items_by_expiry ON fleet_items (expires_at) WHERE expires_at IS NOT NULL;

-- Numbers that are given once, in the order in which they become visible.
CREATE TABLE fleet_counters (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

INSERT INTO fleet_counters (name, value) VALUES ('item_revision', 0);

-- What nodes push. How far each stream is durable here is what they are told.

CREATE TABLE node_streams (
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    stream TEXT COLLATE "C" NOT NULL CHECK (stream IN ('reports', 'audit', 'ledger', 'delta_v')),
    incarnation INTEGER NOT NULL,
    acked_seq BIGINT NOT NULL CHECK (acked_seq >= 0),
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, stream)
);

-- Word for word as it was hashed: `at` and `detail` are text here, whatever they hold.
CREATE TABLE node_audit (
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    incarnation INTEGER NOT NULL,
    seq BIGINT NOT NULL CHECK (seq >= 1),
    kind TEXT NOT NULL,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    detail TEXT NOT NULL,
    prev_hash TEXT NOT NULL CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64),
    received_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, incarnation, seq)
);

-- The control plane's own chain.
CREATE TABLE control_audit (
    seq BIGINT NOT NULL PRIMARY KEY CHECK (seq >= 1),
    kind TEXT NOT NULL,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    detail TEXT NOT NULL,
    prev_hash TEXT NOT NULL UNIQUE CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64)
);

CREATE FUNCTION control_audit_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'control_audit: records are never changed or removed';
END
$$;

CREATE TRIGGER control_audit_stands BEFORE UPDATE OR DELETE OR TRUNCATE ON control_audit
FOR EACH STATEMENT EXECUTE FUNCTION control_audit_stands();

CREATE TABLE node_sessions (
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    session_id TEXT COLLATE "C" NOT NULL CHECK (session_id <> ''),
    stream_seq BIGINT NOT NULL,
    run_id TEXT,
    agent_id TEXT NOT NULL,
    agent_label TEXT NOT NULL,
    model_id TEXT NOT NULL,
    task_id TEXT COLLATE "C",
    task_title TEXT,
    task_category TEXT,
    status TEXT NOT NULL CHECK (
        status IN ('queued', 'running', 'success', 'failed', 'killed', 'cancelled')
    ),
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    runtime_ms BIGINT CHECK (runtime_ms >= 0),
    artifact_count INTEGER NOT NULL DEFAULT 0 CHECK (artifact_count >= 0),
    error_code TEXT,
    error_message TEXT,
    source_version TEXT,
    gateway_session_id TEXT,
    PRIMARY KEY (node_id, session_id)
);

CREATE INDEX node_sessions_newest ON node_sessions (node_id, started_at, session_id);
CREATE INDEX node_sessions_by_task ON node_sessions (task_id) WHERE task_id IS NOT NULL;

CREATE TABLE node_session_events (
    node_id TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL CHECK (seq >= 1),
    event_id TEXT,
    event_type TEXT NOT NULL CHECK (
        event_type IN ('tool_call', 'message', 'state_transition', 'artifact', 'error', 'metric')
    ),
    at BIGINT NOT NULL,
    payload JSONB NOT NULL,
    PRIMARY KEY (node_id, session_id, seq),
    FOREIGN KEY (node_id, session_id) REFERENCES node_sessions (node_id, session_id) ON DELETE CASCADE
);

CREATE TABLE node_usage (
    node_id TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    stream_seq BIGINT NOT NULL,
    prompt_tokens BIGINT CHECK (prompt_tokens >= 0),
    completion_tokens BIGINT CHECK (completion_tokens >= 0),
    total_tokens BIGINT CHECK (total_tokens >= 0),
    cache_read_tokens BIGINT CHECK (cache_read_tokens >= 0),
    cache_write_tokens BIGINT CHECK (cache_write_tokens >= 0),
    runtime_ms BIGINT CHECK (runtime_ms >= 0),
    cost_usd DOUBLE PRECISION CHECK (cost_usd >= 0),
    cost_confidence TEXT NOT NULL CHECK (cost_confidence IN ('exact', 'estimated', 'unknown')),
    cost_source TEXT NOT NULL,
    cost_confidence_level TEXT NOT NULL,
    token_source TEXT NOT NULL,
    token_confidence TEXT NOT NULL,
    runtime_source TEXT NOT NULL,
    runtime_confidence TEXT NOT NULL,
    provider TEXT,
    pricing_version TEXT,
    computed_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, session_id),
    FOREIGN KEY (node_id, session_id) REFERENCES node_sessions (node_id, session_id) ON DELETE CASCADE
);

CREATE TABLE node_delta_v (
    node_id TEXT COLLATE "C" NOT NULL REFERENCES nodes (node_id) ON DELETE CASCADE,
    window_start BIGINT NOT NULL,
    window_end BIGINT NOT NULL,
    value DOUBLE PRECISION,
    samples BIGINT NOT NULL CHECK (samples >= 0),
    refused BIGINT NOT NULL CHECK (refused >= 0),
    source TEXT,
    confidence TEXT,
    PRIMARY KEY (node_id, window_start),
    CHECK (window_end > window_start)
);
