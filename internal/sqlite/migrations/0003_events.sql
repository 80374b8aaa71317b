-- Events out: store.Outbox, store.EventLog, store.Marks.
CREATE TABLE events (
  seq  INTEGER PRIMARY KEY AUTOINCREMENT, -- order of appending
  id   TEXT    NOT NULL UNIQUE,
  at   INTEGER NOT NULL,
  doc  BLOB    NOT NULL
) STRICT;
CREATE INDEX events_at ON events (at);

CREATE TABLE deliveries (
  event      INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
  sink       TEXT    NOT NULL,
  sequence   TEXT    NOT NULL, -- Event.Order
  state      TEXT    NOT NULL, -- store.DeliveryState
  attempts   INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  settled_at INTEGER NOT NULL,
  error      TEXT    NOT NULL,
  PRIMARY KEY (event, sink)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_open ON deliveries (sink, event) WHERE state = '';
CREATE INDEX deliveries_order ON deliveries (sink, sequence, event) WHERE state = '';
CREATE INDEX deliveries_dead ON deliveries (event) WHERE state = 'dead';

-- What the watcher noted: store.Mark.
CREATE TABLE marks (
  name TEXT    PRIMARY KEY,
  due  INTEGER NOT NULL,
  doc  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX marks_due ON marks (due) WHERE due <> 0;

CREATE INDEX tag_spans_left ON tag_spans (left_at) WHERE left_at <> 0;
