-- The schema after all migrations: a picture, tested against them. Never executed.

CREATE TABLE access_tokens (
    token_hash bytea NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    family_id text COLLATE "C" NOT NULL,
    issued_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    CONSTRAINT access_tokens_token_hash_check CHECK ((length(token_hash) >= 32)),
    CONSTRAINT access_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT access_tokens_pkey PRIMARY KEY (token_hash)
);

CREATE INDEX access_tokens_by_expiry ON access_tokens USING btree (expires_at);

CREATE INDEX access_tokens_by_family ON access_tokens USING btree (family_id);

CREATE INDEX access_tokens_by_user ON access_tokens USING btree (user_id);

CREATE TABLE api_keys (
    key_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    key_hash bytea NOT NULL,
    key_prefix text NOT NULL,
    name text COLLATE "C" NOT NULL,
    scopes jsonb NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    last_used_at bigint,
    revoked_at bigint,
    CONSTRAINT api_keys_key_hash_check CHECK ((length(key_hash) >= 32)),
    CONSTRAINT api_keys_key_id_check CHECK ((key_id <> ''::text)),
    CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT api_keys_pkey PRIMARY KEY (key_id),
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash)
);

CREATE INDEX api_keys_by_user ON api_keys USING btree (user_id, created_at);

CREATE TABLE connect_sessions (
    requester_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    token_hash bytea NOT NULL,
    tunnel_protocol text NOT NULL,
    egress_profile text NOT NULL,
    destination_policy_id text NOT NULL,
    bandwidth_limit_mbps double precision NOT NULL,
    status text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    last_heartbeat_at bigint,
    ended_at bigint,
    end_reason text,
    CONSTRAINT connect_sessions_bandwidth_limit_mbps_check CHECK ((bandwidth_limit_mbps > (0)::double precision)),
    CONSTRAINT connect_sessions_check CHECK (((status = 'active'::text) = (ended_at IS NULL))),
    CONSTRAINT connect_sessions_egress_profile_check CHECK ((egress_profile = ANY (ARRAY['allowlist_domains'::text, 'protocol_limited'::text, 'metered_general_egress'::text]))),
    CONSTRAINT connect_sessions_session_id_check CHECK ((session_id <> ''::text)),
    CONSTRAINT connect_sessions_status_check CHECK ((status = ANY (ARRAY['active'::text, 'ended'::text, 'expired'::text]))),
    CONSTRAINT connect_sessions_token_hash_check CHECK ((length(token_hash) >= 32)),
    CONSTRAINT connect_sessions_tunnel_protocol_check CHECK ((tunnel_protocol = ANY (ARRAY['mtls'::text, 'wireguard'::text, 'quic'::text]))),
    CONSTRAINT connect_sessions_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT connect_sessions_requester_id_fkey FOREIGN KEY (requester_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT connect_sessions_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE,
    CONSTRAINT connect_sessions_pkey PRIMARY KEY (requester_id, session_id),
    CONSTRAINT connect_sessions_token_hash_key UNIQUE (token_hash)
);

CREATE INDEX connect_sessions_by_task ON connect_sessions USING btree (task_id);

CREATE INDEX connect_sessions_due ON connect_sessions USING btree (expires_at) WHERE (status = 'active'::text);

CREATE UNIQUE INDEX connect_sessions_one_a_node ON connect_sessions USING btree (node_id) WHERE (status = 'active'::text);

CREATE TABLE control_audit (
    seq bigint NOT NULL,
    kind text NOT NULL,
    at text NOT NULL,
    actor text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    prev_hash text NOT NULL,
    hash text NOT NULL,
    CONSTRAINT control_audit_hash_check CHECK ((length(hash) = 64)),
    CONSTRAINT control_audit_prev_hash_check CHECK ((length(prev_hash) = 64)),
    CONSTRAINT control_audit_seq_check CHECK ((seq >= 1)),
    CONSTRAINT control_audit_pkey PRIMARY KEY (seq),
    CONSTRAINT control_audit_prev_hash_key UNIQUE (prev_hash)
);

CREATE TRIGGER control_audit_stands BEFORE DELETE OR UPDATE OR TRUNCATE ON control_audit FOR EACH STATEMENT EXECUTE FUNCTION control_audit_stands();

CREATE TABLE device_credentials (
    credential_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    token_hash bytea NOT NULL,
    public_key bytea NOT NULL,
    created_at bigint NOT NULL,
    rotated_from text,
    revoked_at bigint,
    last_seq bigint NOT NULL DEFAULT 0,
    CONSTRAINT device_credentials_credential_id_check CHECK ((credential_id <> ''::text)),
    CONSTRAINT device_credentials_last_seq_check CHECK ((last_seq >= 0)),
    CONSTRAINT device_credentials_public_key_check CHECK ((length(public_key) = 32)),
    CONSTRAINT device_credentials_token_hash_check CHECK ((length(token_hash) >= 32)),
    CONSTRAINT device_credentials_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT device_credentials_pkey PRIMARY KEY (credential_id),
    CONSTRAINT device_credentials_token_hash_key UNIQUE (token_hash)
) WITH (fillfactor=70, autovacuum_vacuum_scale_factor=0.05);

CREATE INDEX device_credentials_by_node ON device_credentials USING btree (node_id, created_at);

CREATE TABLE fleet_counters (
    name text COLLATE "C" NOT NULL,
    value bigint NOT NULL,
    CONSTRAINT fleet_counters_pkey PRIMARY KEY (name)
);

CREATE TABLE fleet_items (
    revision bigint NOT NULL,
    item_id bytea NOT NULL,
    kind text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C",
    node_id text COLLATE "C",
    body bytea NOT NULL,
    issuer bytea NOT NULL,
    signature bytea NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    CONSTRAINT fleet_items_issuer_check CHECK ((length(issuer) = 32)),
    CONSTRAINT fleet_items_item_id_check CHECK ((length(item_id) = 32)),
    CONSTRAINT fleet_items_kind_check CHECK ((kind = ANY (ARRAY['policy'::text, 'tombstone'::text, 'lease'::text, 'revocation'::text, 'roster'::text]))),
    CONSTRAINT fleet_items_signature_check CHECK ((length(signature) = 64)),
    CONSTRAINT fleet_items_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT fleet_items_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT fleet_items_pkey PRIMARY KEY (revision),
    CONSTRAINT fleet_items_item_id_key UNIQUE (item_id)
);

CREATE INDEX fleet_items_by_expiry ON fleet_items USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX fleet_items_by_subject ON fleet_items USING btree (kind, subject, revision);

CREATE TABLE join_tokens (
    token_hash bytea NOT NULL,
    token_id text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    uses_left bigint NOT NULL,
    node_id text COLLATE "C",
    revoked_at bigint,
    CONSTRAINT join_tokens_token_hash_check CHECK ((length(token_hash) >= 32)),
    CONSTRAINT join_tokens_token_id_check CHECK ((token_id <> ''::text)),
    CONSTRAINT join_tokens_uses_left_check CHECK ((uses_left >= 0)),
    CONSTRAINT join_tokens_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT join_tokens_pkey PRIMARY KEY (token_hash),
    CONSTRAINT join_tokens_token_id_key UNIQUE (token_id)
);

CREATE INDEX join_tokens_by_owner ON join_tokens USING btree (owner_id, created_at);

CREATE TABLE node_audit (
    node_id text COLLATE "C" NOT NULL,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    at text NOT NULL,
    actor text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    prev_hash text NOT NULL,
    hash text NOT NULL,
    received_at bigint NOT NULL,
    CONSTRAINT node_audit_hash_check CHECK ((length(hash) = 64)),
    CONSTRAINT node_audit_prev_hash_check CHECK ((length(prev_hash) = 64)),
    CONSTRAINT node_audit_seq_check CHECK ((seq >= 1)),
    CONSTRAINT node_audit_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT node_audit_pkey PRIMARY KEY (node_id, incarnation, seq)
);

CREATE TABLE node_delta_v (
    node_id text COLLATE "C" NOT NULL,
    window_start bigint NOT NULL,
    window_end bigint NOT NULL,
    value double precision,
    samples bigint NOT NULL,
    refused bigint NOT NULL,
    source text,
    confidence text,
    CONSTRAINT node_delta_v_check CHECK ((window_end > window_start)),
    CONSTRAINT node_delta_v_refused_check CHECK ((refused >= 0)),
    CONSTRAINT node_delta_v_samples_check CHECK ((samples >= 0)),
    CONSTRAINT node_delta_v_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT node_delta_v_pkey PRIMARY KEY (node_id, window_start)
);

CREATE TABLE node_heartbeat_history (
    heartbeat_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    node_id text COLLATE "C" NOT NULL,
    health_score double precision NOT NULL,
    cpu_usage double precision,
    memory_usage double precision,
    disk_usage double precision,
    network_latency_ms integer,
    active_tasks integer NOT NULL,
    status text NOT NULL,
    metadata jsonb,
    recorded_at bigint NOT NULL,
    sampled_at bigint,
    incarnation integer NOT NULL DEFAULT 1,
    report_seq bigint,
    CONSTRAINT node_heartbeat_history_active_tasks_check CHECK ((active_tasks >= 0)),
    CONSTRAINT node_heartbeat_history_cpu_usage_check CHECK (((cpu_usage >= (0)::double precision) AND (cpu_usage <= (100)::double precision))),
    CONSTRAINT node_heartbeat_history_disk_usage_check CHECK (((disk_usage >= (0)::double precision) AND (disk_usage <= (100)::double precision))),
    CONSTRAINT node_heartbeat_history_health_score_check CHECK (((health_score >= (0)::double precision) AND (health_score <= (100)::double precision))),
    CONSTRAINT node_heartbeat_history_memory_usage_check CHECK (((memory_usage >= (0)::double precision) AND (memory_usage <= (100)::double precision))),
    CONSTRAINT node_heartbeat_history_network_latency_ms_check CHECK ((network_latency_ms >= 0)),
    CONSTRAINT node_heartbeat_history_status_check CHECK ((status = ANY (ARRAY['online'::text, 'unknown'::text, 'offline'::text, 'rejected'::text, 'task_cleared'::text, 'task_connected'::text]))),
    CONSTRAINT node_heartbeat_history_pkey PRIMARY KEY (heartbeat_id)
);

CREATE INDEX node_heartbeat_history_by_node ON node_heartbeat_history USING btree (node_id, heartbeat_id);

CREATE INDEX node_heartbeat_history_events ON node_heartbeat_history USING btree (node_id, recorded_at) WHERE (status = ANY (ARRAY['task_cleared'::text, 'task_connected'::text]));

CREATE UNIQUE INDEX node_heartbeat_history_once ON node_heartbeat_history USING btree (node_id, incarnation, report_seq) WHERE (report_seq IS NOT NULL);

CREATE TABLE node_session_events (
    node_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    event_id text,
    event_type text NOT NULL,
    at bigint NOT NULL,
    payload jsonb NOT NULL,
    CONSTRAINT node_session_events_event_type_check CHECK ((event_type = ANY (ARRAY['tool_call'::text, 'message'::text, 'state_transition'::text, 'artifact'::text, 'error'::text, 'metric'::text]))),
    CONSTRAINT node_session_events_seq_check CHECK ((seq >= 1)),
    CONSTRAINT node_session_events_node_id_session_id_fkey FOREIGN KEY (node_id, session_id) REFERENCES node_sessions(node_id, session_id) ON DELETE CASCADE,
    CONSTRAINT node_session_events_pkey PRIMARY KEY (node_id, session_id, seq)
);

CREATE TABLE node_sessions (
    node_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    stream_seq bigint NOT NULL,
    run_id text,
    agent_id text NOT NULL,
    agent_label text NOT NULL,
    model_id text NOT NULL,
    task_id text COLLATE "C",
    task_title text,
    task_category text,
    status text NOT NULL,
    started_at bigint NOT NULL,
    ended_at bigint,
    runtime_ms bigint,
    artifact_count integer NOT NULL DEFAULT 0,
    error_code text,
    error_message text,
    source_version text,
    gateway_session_id text,
    CONSTRAINT node_sessions_artifact_count_check CHECK ((artifact_count >= 0)),
    CONSTRAINT node_sessions_runtime_ms_check CHECK ((runtime_ms >= 0)),
    CONSTRAINT node_sessions_session_id_check CHECK ((session_id <> ''::text)),
    CONSTRAINT node_sessions_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'success'::text, 'failed'::text, 'killed'::text, 'cancelled'::text]))),
    CONSTRAINT node_sessions_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT node_sessions_pkey PRIMARY KEY (node_id, session_id)
);

CREATE INDEX node_sessions_by_task ON node_sessions USING btree (task_id) WHERE (task_id IS NOT NULL);

CREATE INDEX node_sessions_newest ON node_sessions USING btree (node_id, started_at, session_id);

CREATE TABLE node_streams (
    node_id text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    incarnation integer NOT NULL,
    acked_seq bigint NOT NULL,
    updated_at bigint NOT NULL,
    CONSTRAINT node_streams_acked_seq_check CHECK ((acked_seq >= 0)),
    CONSTRAINT node_streams_stream_check CHECK ((stream = ANY (ARRAY['reports'::text, 'audit'::text, 'ledger'::text, 'delta_v'::text]))),
    CONSTRAINT node_streams_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT node_streams_pkey PRIMARY KEY (node_id, stream)
);

CREATE TABLE node_usage (
    node_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    stream_seq bigint NOT NULL,
    prompt_tokens bigint,
    completion_tokens bigint,
    total_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    runtime_ms bigint,
    cost_usd double precision,
    cost_confidence text NOT NULL,
    cost_source text NOT NULL,
    cost_confidence_level text NOT NULL,
    token_source text NOT NULL,
    token_confidence text NOT NULL,
    runtime_source text NOT NULL,
    runtime_confidence text NOT NULL,
    provider text,
    pricing_version text,
    computed_at bigint NOT NULL,
    CONSTRAINT node_usage_cache_read_tokens_check CHECK ((cache_read_tokens >= 0)),
    CONSTRAINT node_usage_cache_write_tokens_check CHECK ((cache_write_tokens >= 0)),
    CONSTRAINT node_usage_completion_tokens_check CHECK ((completion_tokens >= 0)),
    CONSTRAINT node_usage_cost_confidence_check CHECK ((cost_confidence = ANY (ARRAY['exact'::text, 'estimated'::text, 'unknown'::text]))),
    CONSTRAINT node_usage_cost_usd_check CHECK ((cost_usd >= (0)::double precision)),
    CONSTRAINT node_usage_prompt_tokens_check CHECK ((prompt_tokens >= 0)),
    CONSTRAINT node_usage_runtime_ms_check CHECK ((runtime_ms >= 0)),
    CONSTRAINT node_usage_total_tokens_check CHECK ((total_tokens >= 0)),
    CONSTRAINT node_usage_node_id_session_id_fkey FOREIGN KEY (node_id, session_id) REFERENCES node_sessions(node_id, session_id) ON DELETE CASCADE,
    CONSTRAINT node_usage_pkey PRIMARY KEY (node_id, session_id)
);

CREATE TABLE nodes (
    node_id text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    region text NOT NULL,
    node_type text NOT NULL,
    bandwidth_mbps double precision NOT NULL,
    cpu_cores integer NOT NULL,
    memory_gb double precision NOT NULL,
    gpu_available integer NOT NULL,
    observability_port integer,
    health_score double precision NOT NULL,
    status text NOT NULL,
    registered_at bigint NOT NULL,
    last_seen bigint NOT NULL,
    last_heartbeat bigint,
    updated_at bigint NOT NULL,
    deleted_at bigint,
    report_interval_ms bigint NOT NULL,
    incarnation integer NOT NULL DEFAULT 1,
    state text,
    delta_v double precision,
    audit_head_seq bigint,
    audit_head_hash text,
    report_seq bigint NOT NULL DEFAULT 0,
    CONSTRAINT nodes_bandwidth_mbps_check CHECK ((bandwidth_mbps >= (0)::double precision)),
    CONSTRAINT nodes_cpu_cores_check CHECK ((cpu_cores >= 0)),
    CONSTRAINT nodes_gpu_available_check CHECK ((gpu_available = ANY (ARRAY[0, 1]))),
    CONSTRAINT nodes_health_score_check CHECK (((health_score >= (0)::double precision) AND (health_score <= (100)::double precision))),
    CONSTRAINT nodes_incarnation_check CHECK ((incarnation >= 1)),
    CONSTRAINT nodes_memory_gb_check CHECK ((memory_gb >= (0)::double precision)),
    CONSTRAINT nodes_node_id_check CHECK ((node_id <> ''::text)),
    CONSTRAINT nodes_node_type_check CHECK ((node_type = ANY (ARRAY['compute'::text, 'gateway'::text, 'storage'::text, 'validator'::text, 'open_internet'::text, 'feen_resonator'::text, 'any'::text]))),
    CONSTRAINT nodes_observability_port_check CHECK (((observability_port >= 1) AND (observability_port <= 65535))),
    CONSTRAINT nodes_report_interval_ms_check CHECK ((report_interval_ms > 0)),
    CONSTRAINT nodes_status_check CHECK ((status = ANY (ARRAY['online'::text, 'unknown'::text, 'offline'::text, 'rejected'::text]))),
    CONSTRAINT nodes_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT nodes_pkey PRIMARY KEY (node_id)
) WITH (fillfactor=60, autovacuum_vacuum_scale_factor=0.05);

CREATE INDEX nodes_by_owner ON nodes USING btree (owner_id, registered_at, node_id);

CREATE INDEX nodes_newest ON nodes USING btree (registered_at, node_id);

CREATE TABLE refresh_tokens (
    token_hash bytea NOT NULL,
    family_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    parent_hash bytea,
    issued_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    used_at bigint,
    successor_hash bytea,
    revoked_at bigint,
    revoked_reason text,
    CONSTRAINT refresh_tokens_check CHECK (((successor_hash IS NULL) = (used_at IS NULL))),
    CONSTRAINT refresh_tokens_token_hash_check CHECK ((length(token_hash) >= 32)),
    CONSTRAINT refresh_tokens_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT refresh_tokens_pkey PRIMARY KEY (token_hash)
);

CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens USING btree (expires_at);

CREATE INDEX refresh_tokens_by_family ON refresh_tokens USING btree (family_id);

CREATE INDEX refresh_tokens_by_user ON refresh_tokens USING btree (user_id);

CREATE TABLE schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at text NOT NULL,
    CONSTRAINT schema_migrations_version_check CHECK ((version >= 1)),
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (version)
);

CREATE TABLE task_assignments (
    task_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    assigned_at bigint NOT NULL,
    disconnected_at bigint,
    detach_reason text,
    execution_status text NOT NULL,
    execution_started_at bigint,
    execution_completed_at bigint,
    session_id text COLLATE "C",
    attempt integer NOT NULL,
    CONSTRAINT task_assignments_attempt_check CHECK ((attempt >= 1)),
    CONSTRAINT task_assignments_check CHECK (((disconnected_at IS NULL) = (detach_reason IS NULL))),
    CONSTRAINT task_assignments_execution_status_check CHECK ((execution_status = ANY (ARRAY['assigned'::text, 'in_progress'::text, 'completed'::text, 'failed'::text, 'stopped'::text]))),
    CONSTRAINT task_assignments_node_id_fkey FOREIGN KEY (node_id) REFERENCES nodes(node_id) ON DELETE CASCADE,
    CONSTRAINT task_assignments_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE,
    CONSTRAINT task_assignments_pkey PRIMARY KEY (task_id, node_id)
);

CREATE INDEX task_assignments_current ON task_assignments USING btree (node_id, assigned_at) WHERE (disconnected_at IS NULL);

CREATE INDEX task_assignments_of_node ON task_assignments USING btree (node_id, assigned_at);

CREATE TABLE tasks (
    task_id text COLLATE "C" NOT NULL,
    creator_id text COLLATE "C",
    task_type text COLLATE "C" NOT NULL,
    status text NOT NULL,
    wasm_module text,
    inputs jsonb NOT NULL,
    min_nodes integer NOT NULL,
    max_execution_time_sec integer NOT NULL,
    require_gpu integer NOT NULL,
    require_proof integer NOT NULL,
    away_policy text NOT NULL,
    away_after_ms bigint,
    result jsonb,
    proof_id text,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    completed_at bigint,
    CONSTRAINT tasks_away_after_ms_check CHECK ((away_after_ms > 0)),
    CONSTRAINT tasks_away_policy_check CHECK ((away_policy = ANY (ARRAY['wait'::text, 'move'::text, 'stop'::text]))),
    CONSTRAINT tasks_check CHECK (((away_policy = 'wait'::text) OR (away_after_ms IS NOT NULL))),
    CONSTRAINT tasks_check1 CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text])) = (completed_at IS NOT NULL))),
    CONSTRAINT tasks_max_execution_time_sec_check CHECK ((max_execution_time_sec >= 1)),
    CONSTRAINT tasks_min_nodes_check CHECK ((min_nodes >= 1)),
    CONSTRAINT tasks_require_gpu_check CHECK ((require_gpu = ANY (ARRAY[0, 1]))),
    CONSTRAINT tasks_require_proof_check CHECK ((require_proof = ANY (ARRAY[0, 1]))),
    CONSTRAINT tasks_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'running'::text, 'completed'::text, 'failed'::text]))),
    CONSTRAINT tasks_task_id_check CHECK ((task_id <> ''::text)),
    CONSTRAINT tasks_creator_id_fkey FOREIGN KEY (creator_id) REFERENCES users(user_id) ON DELETE SET NULL,
    CONSTRAINT tasks_pkey PRIMARY KEY (task_id)
);

CREATE INDEX tasks_by_creator ON tasks USING btree (creator_id, created_at, task_id);

CREATE INDEX tasks_moving ON tasks USING btree (task_id) WHERE ((away_policy <> 'wait'::text) AND (status = ANY (ARRAY['pending'::text, 'running'::text])));

CREATE INDEX tasks_newest ON tasks USING btree (created_at, task_id);

CREATE INDEX tasks_open ON tasks USING btree (creator_id) WHERE (status = ANY (ARRAY['pending'::text, 'running'::text]));

CREATE INDEX tasks_pending ON tasks USING btree (created_at, task_id) WHERE (status = 'pending'::text);

CREATE TABLE throttle_overrides (
    override_id text COLLATE "C" NOT NULL,
    tier text NOT NULL,
    network text COLLATE "C",
    user_id text COLLATE "C",
    rpm integer NOT NULL,
    burst integer NOT NULL,
    reason text,
    created_by text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    CONSTRAINT throttle_overrides_burst_check CHECK ((burst >= 1)),
    CONSTRAINT throttle_overrides_check CHECK (((network IS NULL) <> (user_id IS NULL))),
    CONSTRAINT throttle_overrides_override_id_check CHECK ((override_id <> ''::text)),
    CONSTRAINT throttle_overrides_rpm_check CHECK ((rpm >= 1)),
    CONSTRAINT throttle_overrides_tier_check CHECK ((tier = ANY (ARRAY['auth'::text, 'node'::text, 'task'::text, 'proof'::text, 'general'::text, 'device'::text]))),
    CONSTRAINT throttle_overrides_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(user_id) ON DELETE CASCADE,
    CONSTRAINT throttle_overrides_pkey PRIMARY KEY (override_id)
);

CREATE UNIQUE INDEX throttle_overrides_of_network ON throttle_overrides USING btree (network, tier);

CREATE UNIQUE INDEX throttle_overrides_of_user ON throttle_overrides USING btree (user_id, tier);

CREATE TABLE users (
    user_id text COLLATE "C" NOT NULL,
    username text COLLATE "C" NOT NULL,
    password_hash text,
    role text NOT NULL,
    email text,
    created_at bigint NOT NULL,
    last_login bigint,
    CONSTRAINT users_role_check CHECK ((role = ANY (ARRAY['user'::text, 'admin'::text]))),
    CONSTRAINT users_user_id_check CHECK ((user_id <> ''::text)),
    CONSTRAINT users_username_check CHECK ((username <> ''::text)),
    CONSTRAINT users_pkey PRIMARY KEY (user_id),
    CONSTRAINT users_username_key UNIQUE (username)
);

CREATE OR REPLACE FUNCTION public.control_audit_stands()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION 'control_audit: records are never changed or removed';
END
$function$;
