package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"pratique"
	"pratique/store"
)

// Events are those that went out, or will. Part of store.EventLog.
type Events interface {
	// Events returns events, newest first.
	Events(ctx context.Context, q store.EventQuery) ([]store.EventRecord, error)
	// Replay sends an event again, or with an empty id all that were given up, and
	// returns to how many sinks. An unknown id is pratique.ErrNotFound.
	Replay(ctx context.Context, id string) (int, error)
}

// EventList is what GET /api/v1/events answers.
type EventList struct {
	Events []Event `json:"events"` // newest first
}

// Event is one event with what became of it.
type Event struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	Time       time.Time       `json:"time"`
	Subject    string          `json:"subject"`
	Cause      string          `json:"cause,omitempty"` // joins events with one cause: database@sha256:…
	Data       json.RawMessage `json:"data"`
	Deliveries []EventDelivery `json:"deliveries"` // by sink; empty when no sink wants it
}

// EventDelivery is how far an event came on its way to one sink.
type EventDelivery struct {
	Sink     string     `json:"sink"`
	State    string     `json:"state"`    // open, done, dead
	Attempts int        `json:"attempts"` // that failed
	Next     *time.Time `json:"next"`     // earliest next attempt; null: at once, or none
	Settled  *time.Time `json:"settled"`  // when it was done or given up
	Error    string     `json:"error"`    // of the last attempt
}

// Replayed is what POST /api/v1/events/replay answers.
type Replayed struct {
	Deliveries int `json:"deliveries"` // that are open again
}

// Limits of a list of events.
const (
	defaultEvents = 100
	maxEvents     = 1000
	maxEventID    = 64
	maxEventWord  = 256
)

// eventPrefix begins every type of event.
const eventPrefix = "dev.pratique."

// events answers GET /api/v1/events?id=ID&type=TYPE&cause=CAUSE&dead=true&limit=N.
func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	if s.Events == nil {
		return unavailable("the list of events")
	}
	query := r.URL.Query()
	q := store.EventQuery{ID: query.Get("id"), Type: query.Get("type"), Cause: query.Get("cause"), Limit: defaultEvents}
	if len(q.ID) > maxEventID || len(q.Type) > maxEventWord || len(q.Cause) > maxEventWord {
		return badRequest("id, type or cause is longer than any there is", "`pratique events list -o json` shows them")
	}
	if q.Type != "" && !strings.HasPrefix(q.Type, eventPrefix) {
		q.Type = eventPrefix + q.Type
	}
	var err error
	if text := query.Get("dead"); text != "" {
		if q.Dead, err = strconv.ParseBool(text); err != nil {
			return badRequest("dead is neither true nor false: "+text, "write dead=true for those that were given up")
		}
	}
	if text := query.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > maxEvents {
			return badRequest(fmt.Sprintf("limit is no number from 1 to %d: %s", maxEvents, text), "")
		}
	}
	records, err := s.Events.Events(r.Context(), q)
	if err != nil {
		return err
	}
	out := EventList{Events: []Event{}}
	for _, record := range records {
		e := Event{
			ID: record.Event.ID, Type: record.Event.Type, Time: record.Event.At.UTC(), Subject: record.Event.Subject,
			Cause: record.Event.Cause, Data: record.Event.Data, Deliveries: []EventDelivery{},
		}
		for _, d := range record.Deliveries {
			state := string(d.State)
			if d.State == store.DeliveryOpen {
				state = "open"
			}
			e.Deliveries = append(e.Deliveries, EventDelivery{
				Sink: d.Sink, State: state, Attempts: d.Attempts, Next: instant(d.NotBefore), Settled: instant(d.Settled), Error: d.Error,
			})
		}
		out.Events = append(out.Events, e)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// eventReplay answers POST /api/v1/events/replay?id=ID or ?dead=true.
func (s *server) eventReplay(w http.ResponseWriter, r *http.Request) error {
	if s.Events == nil {
		return unavailable("the list of events")
	}
	id, dead := r.URL.Query().Get("id"), r.URL.Query().Get("dead") == "true"
	if (id == "") != dead || len(id) > maxEventID {
		return badRequest("want one of id=ID and dead=true", "`pratique events list` shows ids")
	}
	n, err := s.Events.Replay(r.Context(), id)
	if errors.Is(err, pratique.ErrNotFound) {
		return &apiError{status: http.StatusNotFound, message: "no event " + id, hint: "events are kept for 7 days, those that a sink did not take for 30", err: err}
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Replayed{Deliveries: n})
	return nil
}
