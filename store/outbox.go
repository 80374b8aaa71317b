package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Event is one thing that happened, as sinks are told of it.
type Event struct {
	// ID follows from what happened: the same fact has the same ID, so that who is
	// told twice can know.
	ID   string    `json:"id"`
	Type string    `json:"type"`
	At   time.Time `json:"at"`
	// Subject is what it is about, mostly an image: REPOSITORY@DIGEST.
	Subject string `json:"subject"`
	// Order names what the order of events is kept for: events of one Order reach a
	// sink one after another, as they were appended.
	Order string `json:"order"`
	// Repository is UPSTREAM/REPOSITORY, where there is one.
	Repository string `json:"repository,omitempty"`
	// Cause joins events that have one cause, such as one database update:
	// database@sha256:….
	Cause string          `json:"cause,omitempty"`
	Data  json.RawMessage `json:"data"`
}

// Addressed is an event with the sinks that are to be told of it.
type Addressed struct {
	Event
	Sinks []string
}

// DeliveryState says how far an event came on its way to one sink. The zero value
// is open: it will be sent.
type DeliveryState string

// States of a delivery.
const (
	DeliveryOpen DeliveryState = ""
	DeliveryDone DeliveryState = "done"
	DeliveryDead DeliveryState = "dead" // given up, until it is replayed
)

// Delivery is one event on its way to one sink.
type Delivery struct {
	Event     Event
	Sink      string
	State     DeliveryState
	Attempts  int       // that failed
	NotBefore time.Time // earliest next attempt
	Settled   time.Time // when it was done or dead
	Error     string    // of the last attempt
}

// Mark is what a watcher noted of something, to know later what changed.
type Mark struct {
	Key string
	Due time.Time // when to look again although nothing changed; zero = never
	Doc []byte
}

// Outbox keeps events until every sink was told. One process sends; a delivery
// that was not settled is pending again: at least once.
type Outbox interface {
	// Append stores events, each with an open delivery to each of its sinks, and
	// marks, all of it or nothing. An event whose ID is there is left as it is.
	Append(ctx context.Context, es []Addressed, ms []Mark) error
	// Pending returns open deliveries to a sink whose NotBefore has come, oldest first,
	// at most limit: of each Order at most the first that is open, and none while
	// that one waits.
	Pending(ctx context.Context, sink string, now time.Time, limit int) ([]Delivery, error)
	// Settle writes State, Attempts, NotBefore, Settled and Error of deliveries that
	// are open.
	Settle(ctx context.Context, ds []Delivery) error
}

// EventQuery chooses events for a list.
type EventQuery struct {
	ID    string // only this one
	Type  string // only those of this type
	Cause string // only those with this cause, or with one that begins with it and "@"
	Dead  bool   // only those with a dead delivery
	Limit int    // at most so many; the newest
}

// EventRecord is an event with what became of it, by sink.
type EventRecord struct {
	Event      Event
	Deliveries []Delivery
}

// Backlog is how many deliveries to a sink are open and dead.
type Backlog struct{ Open, Dead int }

// EventLog is the outbox for people.
type EventLog interface {
	// Events returns events, newest first.
	Events(ctx context.Context, q EventQuery) ([]EventRecord, error)
	// Replay opens the settled deliveries of an event again, as new ones, or with an
	// empty id all dead ones, and returns how many. An unknown id is ErrNotFound.
	Replay(ctx context.Context, id string) (int, error)
	// Backlogs counts by sink; one with neither open nor dead deliveries is absent.
	Backlogs(ctx context.Context) (map[string]Backlog, error)
	// ForgetEvents removes events from before a time that have no open and no dead
	// delivery, and all from before another.
	ForgetEvents(ctx context.Context, settled, all time.Time) error
}

// Marks are a watcher's notes. They are written by Outbox.Append.
type Marks interface {
	Mark(ctx context.Context, key string) (Mark, error)
	// Marks returns those that are there, by key.
	Marks(ctx context.Context, keys []string) (map[string]Mark, error)
	// DueMarks returns those whose Due has come, earliest first, at most limit.
	DueMarks(ctx context.Context, now time.Time, limit int) ([]Mark, error)
}

// Pullers tells who had an image.
type Pullers interface {
	// PulledBy returns who was served this manifest since a time, the latest first.
	PulledBy(ctx context.Context, image digest.Digest, since time.Time) ([]Puller, error)
}

// Puller is one who had an image.
type Puller struct {
	Client string
	Pulls  int
	Last   time.Time
}

// TagMove tells that a tag left a digest.
type TagMove struct {
	Ref pratique.Ref // Registry, Repo and Tag, with the Digest that it left
	// Now is what the tag names now; empty: it is gone.
	Now digest.Digest
	At  time.Time
}

// TagMoves tells which tags moved, of those that have not come back.
type TagMoves interface {
	// TagMoves returns moves since a time, oldest first.
	TagMoves(ctx context.Context, since time.Time) ([]TagMove, error)
}
