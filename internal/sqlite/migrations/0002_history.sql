-- Schema 2: the history that policies ask for. What SQL cannot read out of the
-- documents of schema 1 is filled in by backfill.go in the same transaction.

-- Findings that an image had and that the standing report does not tell, or
-- tells milder than they were: store.Past, as one document.
ALTER TABLE reports ADD COLUMN past BLOB;

-- A pull is a time, a client and what was asked and answered; the last two
-- repeat, so they are kept once. An id is never used again: whoever reads page by
-- page may remember what it means.
CREATE TABLE asked (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  repository INTEGER NOT NULL REFERENCES repositories,
  tag        TEXT    NOT NULL,
  digest     TEXT    NOT NULL,
  outcome    TEXT    NOT NULL,
  verdict    TEXT    NOT NULL,
  head       INTEGER NOT NULL,
  UNIQUE (digest, repository, tag, outcome, verdict, head)
) STRICT;
CREATE INDEX asked_verdict ON asked (verdict);

CREATE TABLE clients (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  address TEXT NOT NULL UNIQUE
) STRICT;

ALTER TABLE pulls RENAME TO pulls_1;
DROP INDEX pulls_at;
CREATE TABLE pulls (
  id     INTEGER PRIMARY KEY,
  at     INTEGER NOT NULL,
  asked  INTEGER NOT NULL REFERENCES asked,
  client INTEGER NOT NULL REFERENCES clients
) STRICT;
INSERT INTO asked (repository, tag, digest, outcome, verdict, head) SELECT DISTINCT repository, tag, digest, outcome, verdict, 0 FROM pulls_1;
INSERT INTO clients (address) SELECT DISTINCT client FROM pulls_1;
INSERT INTO pulls (id, at, asked, client)
  SELECT p.id, p.at, a.id, c.id FROM pulls_1 p
  JOIN asked a ON (a.digest, a.repository, a.tag, a.outcome, a.verdict) = (p.digest, p.repository, p.tag, p.outcome, p.verdict)
  JOIN clients c ON c.address = p.client;
DROP TABLE pulls_1;
CREATE INDEX pulls_at ON pulls (at);
CREATE INDEX pulls_asked ON pulls (asked);
CREATE INDEX pulls_client ON pulls (client);

-- Verdicts that somebody met: store.Judged.
CREATE TABLE verdicts (
  name TEXT    PRIMARY KEY,
  at   INTEGER NOT NULL,
  doc  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX verdicts_at ON verdicts (at);

CREATE TABLE exceptions (
  name    TEXT    PRIMARY KEY,
  created INTEGER NOT NULL,
  doc     BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE attestations (
  digest TEXT PRIMARY KEY, -- of the image
  doc    BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Every digest that a tag ever named. While it names it, tags.checked_at is when
-- that was last confirmed, and last_at and left_at say nothing.
CREATE TABLE tag_spans (
  id         INTEGER PRIMARY KEY,
  repository INTEGER NOT NULL REFERENCES repositories,
  tag        TEXT    NOT NULL,
  digest     TEXT    NOT NULL,
  first_at   INTEGER NOT NULL,
  last_at    INTEGER NOT NULL,
  left_at    INTEGER NOT NULL, -- when the tag was first seen to name something else
  UNIQUE (repository, tag, digest)
) STRICT;
CREATE INDEX tag_spans_digest ON tag_spans (digest, repository);
INSERT INTO tag_spans (repository, tag, digest, first_at, last_at, left_at)
  SELECT repository, tag, digest, changed_at, checked_at, 0 FROM tags WHERE digest <> '';

-- When a tag was first seen in a list of its repository.
CREATE TABLE tags_seen (
  repository INTEGER NOT NULL REFERENCES repositories,
  tag        TEXT    NOT NULL,
  first_at   INTEGER NOT NULL,
  PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;

-- What indexes name: a tag that names the index names them too.
CREATE TABLE children (
  parent INTEGER NOT NULL REFERENCES images,
  child  TEXT    NOT NULL,
  PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX children_child ON children (child);

-- The layers of each image as a chain: hashes holds, for 1, 2, … layers from the
-- lowest, 8 bytes over their digests; bottom and top are the first and the last
-- of them. An image is built on another whose top is among its hashes.
CREATE TABLE chains (
  image  INTEGER PRIMARY KEY REFERENCES images,
  layers INTEGER NOT NULL,
  bottom BLOB    NOT NULL,
  top    BLOB    NOT NULL,
  hashes BLOB    NOT NULL
) STRICT;
CREATE INDEX chains_bottom ON chains (bottom, layers);
CREATE INDEX chains_top ON chains (top);
