-- Schema 9: which databases all replicas are to use: store.Shelf.
CREATE TABLE wanted (
  kind     TEXT    PRIMARY KEY,
  version  INTEGER NOT NULL,
  database TEXT    NOT NULL,
  doc      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
