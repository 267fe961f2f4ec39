-- What a ledger of a million sessions needs: filters answered from an index alone, totals without counting,
-- and ends of ids without an index that every new session writes to at another place.

-- Filters beside the first are decided in the index, before a row is looked at.
DROP INDEX session_ledger_by_agent;
CREATE INDEX session_ledger_by_agent
    ON session_ledger (agent_id, started_at DESC, status, model_id, task_category);

DROP INDEX session_ledger_by_model;
CREATE INDEX session_ledger_by_model
    ON session_ledger (model_id, started_at DESC, status, task_category);

DROP INDEX session_ledger_by_category;
CREATE INDEX session_ledger_by_category ON session_ledger (task_category, started_at DESC, status)
    WHERE task_category IS NOT NULL;

-- How many sessions there are of each kind, kept in step by triggers; '' is no category.
CREATE TABLE session_counts (
    agent_id TEXT NOT NULL,
    model_id TEXT NOT NULL,
    task_category TEXT NOT NULL,
    status TEXT NOT NULL,
    sessions INTEGER NOT NULL CHECK (sessions >= 0),
    PRIMARY KEY (agent_id, model_id, task_category, status)
) STRICT, WITHOUT ROWID;

INSERT INTO session_counts (agent_id, model_id, task_category, status, sessions)
SELECT agent_id, model_id, coalesce(task_category, ''), status, count(*)
FROM session_ledger
GROUP BY 1, 2, 3, 4;

CREATE TRIGGER session_counts_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_counts (agent_id, model_id, task_category, status, sessions)
    VALUES (NEW.agent_id, NEW.model_id, coalesce(NEW.task_category, ''), NEW.status, 1)
    ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_counts_update AFTER UPDATE OF model_id, task_category, status ON session_ledger
WHEN NEW.status IS NOT OLD.status
    OR NEW.model_id IS NOT OLD.model_id
    OR NEW.task_category IS NOT OLD.task_category
BEGIN
    UPDATE session_counts SET sessions = sessions - 1
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status;
    DELETE FROM session_counts
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status AND sessions = 0;
    INSERT INTO session_counts (agent_id, model_id, task_category, status, sessions)
    VALUES (NEW.agent_id, NEW.model_id, coalesce(NEW.task_category, ''), NEW.status, 1)
    ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_counts_delete AFTER DELETE ON session_ledger
BEGIN
    UPDATE session_counts SET sessions = sessions - 1
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status;
    DELETE FROM session_counts
    WHERE agent_id = OLD.agent_id AND model_id = OLD.model_id
        AND task_category = coalesce(OLD.task_category, '') AND status = OLD.status AND sessions = 0;
END;

-- The same by the UTC day on which they started.
CREATE TABLE session_day_counts (
    bucket_date TEXT NOT NULL PRIMARY KEY,
    sessions INTEGER NOT NULL CHECK (sessions >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO session_day_counts (bucket_date, sessions)
SELECT substr(started_at, 1, 10), count(*) FROM session_ledger GROUP BY 1;

CREATE TRIGGER session_day_counts_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_day_counts (bucket_date, sessions) VALUES (substr(NEW.started_at, 1, 10), 1)
    ON CONFLICT DO UPDATE SET sessions = sessions + 1;
END;

CREATE TRIGGER session_day_counts_delete AFTER DELETE ON session_ledger
BEGIN
    UPDATE session_day_counts SET sessions = sessions - 1 WHERE bucket_date = substr(OLD.started_at, 1, 10);
    DELETE FROM session_day_counts WHERE bucket_date = substr(OLD.started_at, 1, 10) AND sessions = 0;
END;

-- The last four characters of each id, as one word of hexadecimal digits. As an index of its own kind it
-- takes new entries in order and merges them later; at a million sessions the plain index cost a fifth of
-- all pages written.
DROP INDEX session_ledger_by_suffix;

CREATE VIEW session_id_ends (session_key, ending) AS
SELECT session_key, hex(substr(session_id, -4)) FROM session_ledger;

CREATE VIRTUAL TABLE session_end_search USING fts5 (
    ending, content = 'session_id_ends', content_rowid = 'session_key', detail = none, columnsize = 0
);

INSERT INTO session_end_search (rowid, ending)
SELECT session_key, hex(substr(session_id, -4))
FROM session_ledger
WHERE session_key NOT IN (SELECT session_key FROM session_search_pending);

DROP TRIGGER session_search_update;
DROP TRIGGER session_search_delete;

CREATE TRIGGER session_search_update AFTER UPDATE OF task_title, task_text ON session_ledger
WHEN (NEW.task_title IS NOT OLD.task_title OR NEW.task_text IS NOT OLD.task_text)
    AND NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key)
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    VALUES ('delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text);
    INSERT INTO session_end_search (session_end_search, rowid, ending)
    VALUES ('delete', OLD.session_key, hex(substr(OLD.session_id, -4)));
    INSERT INTO session_search_pending (session_key) VALUES (NEW.session_key);
END;

CREATE TRIGGER session_search_delete AFTER DELETE ON session_ledger
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    SELECT 'delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text
    WHERE NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key);
    INSERT INTO session_end_search (session_end_search, rowid, ending)
    SELECT 'delete', OLD.session_key, hex(substr(OLD.session_id, -4))
    WHERE NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key);
    DELETE FROM session_search_pending WHERE session_key = OLD.session_key;
END;
