-- Schema 8: what registries told and was not followed up yet: store.Pushes.
CREATE TABLE pushes (
  name TEXT    PRIMARY KEY, -- Push.Key
  at   INTEGER NOT NULL,
  doc  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pushes_at ON pushes (at);
