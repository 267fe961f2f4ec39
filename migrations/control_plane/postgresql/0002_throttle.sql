-- Rate limits that an administrator has changed for an address, a network or an account, for some time.

CREATE TABLE throttle_overrides (
    override_id TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (override_id <> ''),
    tier TEXT NOT NULL CHECK (tier IN ('auth', 'node', 'task', 'proof', 'general', 'device')),
    network TEXT COLLATE "C",
    user_id TEXT COLLATE "C" REFERENCES users (user_id) ON DELETE CASCADE,
    rpm INTEGER NOT NULL CHECK (rpm >= 1),
    burst INTEGER NOT NULL CHECK (burst >= 1),
    reason TEXT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    CHECK ((network IS NULL) <> (user_id IS NULL))
);

CREATE UNIQUE INDEX throttle_overrides_of_network ON throttle_overrides (network, tier);
CREATE UNIQUE INDEX throttle_overrides_of_user ON throttle_overrides (user_id, tier);

INSERT INTO fleet_counters (name, value) VALUES ('throttle_revision', 0);
