-- Schema 5: turns of repositories in the queue, dead jobs and pauses for people,
-- runs of schedules.
ALTER TABLE jobs ADD COLUMN turn      INTEGER NOT NULL DEFAULT 0; -- its place within a priority, see queue.go
ALTER TABLE jobs ADD COLUMN waits     INTEGER NOT NULL DEFAULT 0; -- until when it cannot be taken; 0: it can
ALTER TABLE jobs ADD COLUMN opened_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN died_at   INTEGER NOT NULL DEFAULT 0;

UPDATE jobs SET died_at = unixepoch() * 1000000000 WHERE dead = 1;
UPDATE jobs SET waits = max(not_before, leased_until) WHERE dead = 0;
UPDATE jobs SET opened_at = not_before WHERE dead = 0 AND attempts = 0;
UPDATE jobs SET turn = n.turn FROM (
  SELECT seq, row_number() OVER (PARTITION BY priority, registry, repository ORDER BY seq) - 1 AS turn FROM jobs WHERE dead = 0
) AS n WHERE n.seq = jobs.seq;

DROP INDEX jobs_open;
CREATE INDEX jobs_ready   ON jobs (priority, turn, seq) WHERE dead = 0 AND waits = 0;
CREATE INDEX jobs_waiting ON jobs (priority, waits) WHERE dead = 0 AND waits <> 0;
CREATE INDEX jobs_turns   ON jobs (priority, registry, repository, turn) WHERE dead = 0;
CREATE INDEX jobs_dead    ON jobs (died_at, seq) WHERE dead = 1;

-- How far a priority is: the greatest turn that was taken.
CREATE TABLE turns (
  priority INTEGER PRIMARY KEY,
  turn     INTEGER NOT NULL
) STRICT;

CREATE TABLE pauses (
  priority INTEGER PRIMARY KEY,
  since    INTEGER NOT NULL
) STRICT;

-- scheduler.Run
CREATE TABLE schedule_runs (
  name       TEXT    PRIMARY KEY,
  spec       TEXT    NOT NULL,
  base       INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at   INTEGER NOT NULL,
  unfinished INTEGER NOT NULL,
  outcome    TEXT    NOT NULL,
  note       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
