-- A rule may want its receivers told again while its alert lasts; NULL is never.
ALTER TABLE alert_rules ADD COLUMN renotify_sec INTEGER CHECK (renotify_sec >= 60);
