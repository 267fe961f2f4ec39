-- Signed egress policies and tombstones, as their issuers made them. Of each policy id at most one item is in
-- force; another may be held behind it, newer, because who brought it may not change what is in force.
-- Times are milliseconds since 1970.
CREATE TABLE policy_items (
    item_id BLOB PRIMARY KEY CHECK (length(item_id) = 32),
    policy_id TEXT NOT NULL CHECK (length(policy_id) BETWEEN 1 AND 64),
    kind TEXT NOT NULL CHECK (kind IN ('policy', 'tombstone')),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    in_force INTEGER NOT NULL CHECK (in_force IN (0, 1)),
    not_after INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    body BLOB NOT NULL CHECK (length(body) <= 16384),
    signature BLOB NOT NULL CHECK (length(signature) = 64),
    way TEXT NOT NULL CHECK (way IN ('control_plane', 'operator', 'peer')),
    sender TEXT NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX policy_items_by_policy ON policy_items (policy_id, in_force);
CREATE INDEX policy_items_by_expiry ON policy_items (not_after);

-- The hosts that the policies in force name, as their patterns write them: how a destination finds its policies.
CREATE TABLE policy_hosts (
    host TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    PRIMARY KEY (host, policy_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX policy_hosts_by_policy ON policy_hosts (policy_id);

-- The highest revision of each policy that was ever seen from an issuer, and the highest that was removed;
-- kept while an item of such a revision could still be valid, so that none comes back.
CREATE TABLE policy_floors (
    policy_id TEXT NOT NULL,
    issuer BLOB NOT NULL CHECK (length(issuer) = 32),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    removed INTEGER NOT NULL CHECK (removed BETWEEN 0 AND revision),
    keep_until INTEGER NOT NULL,
    PRIMARY KEY (policy_id, issuer)
) STRICT, WITHOUT ROWID;

CREATE INDEX policy_floors_by_time ON policy_floors (keep_until);
