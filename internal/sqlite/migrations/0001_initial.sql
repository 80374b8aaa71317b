-- Schema 1. Times are Unix nanoseconds, 0 = never. Documents (doc, tags) are
-- JSON, compressed with zstd when that makes them smaller (codec.go).
-- Digests that occur in many rows are replaced by the integer id of their table.

CREATE TABLE repositories (
  id       INTEGER PRIMARY KEY,
  registry TEXT NOT NULL,
  name     TEXT NOT NULL,
  UNIQUE (registry, name)
) STRICT;

-- Every manifest known, whichever repository it came through.
CREATE TABLE images (
  id         INTEGER PRIMARY KEY,
  digest     TEXT    NOT NULL UNIQUE,
  kind       TEXT    NOT NULL,
  first_seen INTEGER NOT NULL,
  doc        BLOB    NOT NULL
) STRICT;

-- Which repository holds which manifest.
CREATE TABLE links (
  image      INTEGER NOT NULL REFERENCES images,
  repository INTEGER NOT NULL REFERENCES repositories,
  PRIMARY KEY (image, repository)
) STRICT, WITHOUT ROWID;

-- Configs and layers that manifests name.
CREATE TABLE blobs (
  id     INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE
) STRICT;

-- Through which manifests of a repository a blob may be had: one index seek for
-- each blob request, however many repositories share the blob.
CREATE TABLE holders (
  repository INTEGER NOT NULL REFERENCES repositories,
  blob       INTEGER NOT NULL REFERENCES blobs,
  image      INTEGER NOT NULL REFERENCES images,
  PRIMARY KEY (repository, blob, image)
) STRICT, WITHOUT ROWID;

CREATE TABLE tags (
  repository INTEGER NOT NULL REFERENCES repositories,
  tag        TEXT    NOT NULL,
  digest     TEXT    NOT NULL,
  media_type TEXT    NOT NULL,
  size       INTEGER NOT NULL,
  checked_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_digest ON tags (digest, repository);

CREATE TABLE tag_lists (
  repository INTEGER PRIMARY KEY REFERENCES repositories,
  fetched_at INTEGER NOT NULL,
  tags       BLOB    NOT NULL
) STRICT;

CREATE TABLE inventories (
  id       INTEGER PRIMARY KEY,
  digest   TEXT NOT NULL,
  analyzer TEXT NOT NULL,
  doc      BLOB NOT NULL,
  UNIQUE (digest, analyzer)
) STRICT;

-- Distinct components; hash is the ComponentID's 16 bytes.
CREATE TABLE components (
  id   INTEGER PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  doc  BLOB NOT NULL
) STRICT;

-- The occurrences of components in one image, as one document.
CREATE TABLE occurrences (
  id     INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE, -- of the image
  doc    BLOB NOT NULL
) STRICT;

-- Which images hold a component: what a database update asks.
CREATE TABLE component_images (
  component INTEGER NOT NULL REFERENCES components,
  image     INTEGER NOT NULL REFERENCES occurrences,
  PRIMARY KEY (component, image)
) STRICT, WITHOUT ROWID;

CREATE TABLE databases (
  id     INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE
) STRICT;

-- What one database, the last that was asked, says of a component.
CREATE TABLE matches (
  hash     BLOB    PRIMARY KEY, -- the ComponentID's 16 bytes
  database INTEGER NOT NULL REFERENCES databases,
  doc      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE reports (
  id          INTEGER PRIMARY KEY,
  digest      TEXT    NOT NULL UNIQUE, -- of the image
  state       TEXT    NOT NULL,
  scanned_at  INTEGER NOT NULL,
  database_at INTEGER NOT NULL,
  doc         BLOB    NOT NULL
) STRICT;

CREATE TABLE pulls (
  id         INTEGER PRIMARY KEY,
  at         INTEGER NOT NULL,
  repository INTEGER NOT NULL REFERENCES repositories,
  tag        TEXT    NOT NULL,
  digest     TEXT    NOT NULL,
  client     TEXT    NOT NULL,
  outcome    TEXT    NOT NULL,
  verdict    TEXT    NOT NULL
) STRICT;
CREATE INDEX pulls_at ON pulls (at);

CREATE TABLE served (
  digest   TEXT    PRIMARY KEY, -- of the manifest
  first_at INTEGER NOT NULL,
  last_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The scheduler's queue: one row per digest. A dead row is not open: it is kept
-- to be looked at, until the digest is pushed again.
CREATE TABLE jobs (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT,
  digest       TEXT    NOT NULL UNIQUE,
  registry     TEXT    NOT NULL,
  repository   TEXT    NOT NULL,
  tag          TEXT    NOT NULL,
  priority     INTEGER NOT NULL,
  attempts     INTEGER NOT NULL DEFAULT 0,
  not_before   INTEGER NOT NULL,
  error        TEXT    NOT NULL DEFAULT '',
  lease        INTEGER NOT NULL DEFAULT 0, -- counts Takes: the token of the holder
  leased_until INTEGER NOT NULL DEFAULT 0,
  dead         INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX jobs_open ON jobs (priority, seq) WHERE dead = 0;
