-- Schema 7: events by type and by cause. Those of before have neither here; they are
-- kept for some weeks only.
ALTER TABLE events ADD COLUMN type TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN cause TEXT NOT NULL DEFAULT '';
CREATE INDEX events_cause ON events (cause, seq) WHERE cause <> '';
