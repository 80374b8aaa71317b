-- Schema 4: reports are joins. What a database says of a component is kept once,
-- with its history; an image keeps which occurrences it has. What SQL cannot read
-- out of the documents of schema 3 is filled in by backfill_fleet.go in the same
-- transaction; the tables that end in _3 are dropped there.
ALTER TABLE matches RENAME TO matches_3;
ALTER TABLE occurrences RENAME TO occurrences_3;
DROP TABLE component_images;

-- The engines that were begun: the latest has the greatest id, and one that was
-- begun again has another. store.Fleet.
CREATE TABLE engines (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  version     TEXT    NOT NULL,
  database    TEXT    NOT NULL,
  database_at INTEGER NOT NULL
) STRICT;
CREATE INDEX engines_name ON engines (database, version, database_at);

-- What everything is current with, and when that was found: one row, or none.
CREATE TABLE fleet (
  one    INTEGER PRIMARY KEY CHECK (one = 1),
  engine INTEGER NOT NULL REFERENCES engines,
  at     INTEGER NOT NULL
) STRICT;

-- Every component that was ever matched: with which engine last (0: one that is
-- not known), when first, and whether it has a row in matches.
CREATE TABLE matched (
  component INTEGER PRIMARY KEY REFERENCES components,
  engine    INTEGER NOT NULL,
  first_at  INTEGER NOT NULL,
  found     INTEGER NOT NULL
) STRICT;
CREATE INDEX matched_found ON matched (component) WHERE found <> 0;

-- What was ever said of those of which anything was (histories.go).
CREATE TABLE matches (
  component INTEGER PRIMARY KEY REFERENCES components,
  doc       BLOB    NOT NULL
) STRICT;

-- 64 bits of a hash of each of pratique.Component.Keys.
CREATE TABLE component_keys (
  key       INTEGER NOT NULL,
  component INTEGER NOT NULL REFERENCES components,
  PRIMARY KEY (key, component)
) STRICT, WITHOUT ROWID;

-- Likewise of the id of each vulnerability that is known of a component now.
CREATE TABLE component_vulnerabilities (
  vulnerability INTEGER NOT NULL,
  component     INTEGER NOT NULL REFERENCES components,
  PRIMARY KEY (vulnerability, component)
) STRICT, WITHOUT ROWID;

-- Occurrences that images share: those of one layer in one image, as one document
-- (chunks.go), by the hash of what is in it. An id is never used again: whoever
-- keeps one in memory may remember what it means.
CREATE TABLE chunks (
  id   INTEGER PRIMARY KEY AUTOINCREMENT,
  hash BLOB NOT NULL UNIQUE,
  doc  BLOB NOT NULL
) STRICT;
CREATE TABLE component_chunks (
  component INTEGER NOT NULL REFERENCES components,
  chunk     INTEGER NOT NULL REFERENCES chunks,
  PRIMARY KEY (component, chunk)
) STRICT, WITHOUT ROWID;

-- The images whose occurrences are known: latest is what PutImage brought last,
-- standing what the report was put with (chunks.go); NULL when it was put with none.
CREATE TABLE scanned (
  id       INTEGER PRIMARY KEY,
  digest   TEXT NOT NULL UNIQUE,
  latest   BLOB NOT NULL,
  standing BLOB
) STRICT;
-- Which images have a chunk, in latest or standing.
CREATE TABLE chunk_images (
  chunk INTEGER NOT NULL REFERENCES chunks,
  image INTEGER NOT NULL REFERENCES scanned,
  PRIMARY KEY (chunk, image)
) STRICT, WITHOUT ROWID;

-- With which engine a report was put (0: one that was not begun), and its findings
-- apart from the vulnerabilities of components (findings.go).
ALTER TABLE reports ADD COLUMN engine INTEGER NOT NULL DEFAULT 0;
ALTER TABLE reports ADD COLUMN findings BLOB;
