-- The words of new sessions enter the full-text index once per commit.
--
-- FTS5 writes what it holds in memory at every savepoint, and each member of a commit has its own: 64
-- sessions made 64 small segments to be merged. A session that is added or whose text changes is noted in
-- `session_search_pending`, and the writer indexes all that are noted right before it commits.

CREATE TABLE session_search_pending (
    session_key INTEGER PRIMARY KEY
) STRICT;

DROP TRIGGER session_search_insert;
DROP TRIGGER session_search_update;
DROP TRIGGER session_search_delete;

CREATE TRIGGER session_search_insert AFTER INSERT ON session_ledger
BEGIN
    INSERT INTO session_search_pending (session_key) VALUES (NEW.session_key);
END;

CREATE TRIGGER session_search_update AFTER UPDATE OF task_title, task_text ON session_ledger
WHEN (NEW.task_title IS NOT OLD.task_title OR NEW.task_text IS NOT OLD.task_text)
    AND NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key)
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    VALUES ('delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text);
    INSERT INTO session_search_pending (session_key) VALUES (NEW.session_key);
END;

CREATE TRIGGER session_search_delete AFTER DELETE ON session_ledger
BEGIN
    INSERT INTO session_search (session_search, rowid, session_id, task_title, task_text)
    SELECT 'delete', OLD.session_key, OLD.session_id, OLD.task_title, OLD.task_text
    WHERE NOT EXISTS (SELECT 1 FROM session_search_pending WHERE session_key = OLD.session_key);
    DELETE FROM session_search_pending WHERE session_key = OLD.session_key;
END;
