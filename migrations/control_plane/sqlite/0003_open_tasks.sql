-- How many tasks of one account have not ended is counted with each that is handed in.

CREATE INDEX tasks_open ON tasks (creator_id) WHERE status IN ('pending', 'running');
