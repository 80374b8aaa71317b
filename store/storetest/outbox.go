package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pratique"
	"pratique/store"
)

// outbox is what the suite of events needs.
type outbox interface {
	store.Outbox
	store.EventLog
	store.Marks
}

func event(id, order string, sinks ...string) store.Addressed {
	return store.Addressed{Event: store.Event{
		ID: id, Type: "t", At: clock, Subject: "docker.io/r@" + order, Order: order, Repository: "docker.io/r", Cause: "c",
		Data: json.RawMessage(`{"text":"` + id + `"}`),
	}, Sinks: sinks}
}

// pending are the ids that wait for a sink at a time.
func pending[T store.Outbox](t *testing.T, s T, sink string, at time.Time) string {
	t.Helper()
	ds, err := s.Pending(t.Context(), sink, at, 100)
	mustBe(t, err)
	out := ""
	for _, d := range ds {
		out += d.Event.ID + " "
	}
	return out
}

// Outbox checks an implementation of store.Outbox that is a store.EventLog and
// store.Marks too.
func Outbox[T outbox](t *testing.T, fresh Fresh[T]) {
	tests := map[string]func(t *testing.T, open func() T){
		"Append": outboxAppend[T],
		"Order":  outboxOrder[T],
		"Replay": outboxReplay[T],
		"Forget": outboxForget[T],
		"Marks":  outboxMarks[T],
		"Query":  outboxQuery[T],
		"Ended":  outboxEnded[T],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func outboxAppend[T outbox](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	a, none := event("a", "1", "x", "y"), event("none", "3")
	mustBe(t, s.Append(ctx, []store.Addressed{a, event("b", "2", "x"), none}, []store.Mark{{Key: "k", Due: clock, Doc: []byte("{}")}}))
	again := event("a", "1", "x", "y", "z")
	again.Type = "another"
	mustBe(t, s.Append(ctx, []store.Addressed{again}, nil))
	s = open()
	ds, err := s.Pending(ctx, "x", clock, 1)
	mustBe(t, err)
	same(t, "Pending, the oldest", ds, []store.Delivery{{Event: a.Event, Sink: "x"}})
	same(t, "x", pending(t, s, "x", clock), "a b ")
	same(t, "y", pending(t, s, "y", clock), "a ")
	same(t, "a sink that was added to an event that is there", pending(t, s, "z", clock), "")
	list, err := s.Events(ctx, store.EventQuery{Limit: 2})
	mustBe(t, err)
	same(t, "Events, newest first", list, []store.EventRecord{{Event: none.Event}, {Event: event("b", "2").Event, Deliveries: []store.Delivery{{Event: event("b", "2").Event, Sink: "x"}}}})
	list, err = s.Events(ctx, store.EventQuery{ID: "a", Limit: 10})
	mustBe(t, err)
	if len(list) != 1 || len(list[0].Deliveries) != 2 {
		t.Errorf("Events by id: %+v", list)
	}
}

func outboxOrder[T outbox](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	mustBe(t, s.Append(ctx, []store.Addressed{event("a1", "a", "x", "y"), event("a2", "a", "x", "y"), event("b1", "b", "x")}, nil))
	same(t, "the first of each order", pending(t, s, "x", clock), "a1 b1 ")
	later := store.Delivery{Event: event("a1", "a").Event, Sink: "x", Attempts: 1, NotBefore: clock.Add(time.Minute), Error: "503"}
	mustBe(t, s.Settle(ctx, []store.Delivery{later}))
	s = open()
	same(t, "while the first waits, what follows it waits", pending(t, s, "x", clock), "b1 ")
	same(t, "then it comes first", pending(t, s, "x", clock.Add(time.Minute)), "a1 b1 ")
	ds, err := s.Pending(ctx, "x", clock.Add(time.Minute), 1)
	mustBe(t, err)
	same(t, "as it was settled", ds, []store.Delivery{later})
	later.State, later.Settled = store.DeliveryDone, clock
	mustBe(t, s.Settle(ctx, []store.Delivery{later}))
	same(t, "done: the next", pending(t, s, "x", clock.Add(time.Hour)), "a2 b1 ")
	same(t, "another sink waits for nobody", pending(t, s, "y", clock), "a1 ")
	later.State = store.DeliveryOpen
	mustBe(t, s.Settle(ctx, []store.Delivery{later}))
	same(t, "what is settled is not opened by Settle", pending(t, s, "x", clock.Add(time.Hour)), "a2 b1 ")
	counts, err := s.Backlogs(ctx)
	mustBe(t, err)
	same(t, "Backlogs", counts, map[string]store.Backlog{"x": {Open: 2}, "y": {Open: 2}})
}

func outboxReplay[T outbox](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	mustBe(t, s.Append(ctx, []store.Addressed{event("a", "1", "x", "y"), event("b", "2", "x"), event("c", "3", "x")}, nil))
	settle := func(id, sink string, state store.DeliveryState) {
		t.Helper()
		mustBe(t, s.Settle(ctx, []store.Delivery{{Event: event(id, "").Event, Sink: sink, State: state, Attempts: 3, Settled: clock, Error: "gone"}}))
	}
	settle("a", "x", store.DeliveryDead)
	settle("a", "y", store.DeliveryDone)
	settle("b", "x", store.DeliveryDead)
	counts, err := s.Backlogs(ctx)
	mustBe(t, err)
	same(t, "Backlogs", counts, map[string]store.Backlog{"x": {Open: 1, Dead: 2}})
	dead, err := s.Events(ctx, store.EventQuery{Dead: true, Limit: 10})
	mustBe(t, err)
	if len(dead) != 2 || dead[0].Event.ID != "b" || dead[1].Event.ID != "a" || dead[0].Deliveries[0].Error != "gone" {
		t.Errorf("dead events: %+v", dead)
	}
	_, err = s.Replay(ctx, "nobody")
	wantNotFound(t, "Replay of an unknown event", err)
	n, err := s.Replay(ctx, "a")
	mustBe(t, err)
	same(t, "replayed, dead and done", n, 2)
	ds, err := s.Pending(ctx, "x", clock, 1)
	mustBe(t, err)
	same(t, "as new", ds, []store.Delivery{{Event: event("a", "1").Event, Sink: "x"}})
	if n, err = s.Replay(ctx, ""); err != nil || n != 1 {
		t.Errorf("Replay of all that is dead = %d, %v, want 1", n, err)
	}
	if n, err = s.Replay(ctx, "c"); err != nil || n != 0 {
		t.Errorf("Replay of one that is open = %d, %v, want 0", n, err)
	}
	same(t, "x", pending(t, s, "x", clock), "a b c ")
}

func outboxForget[T outbox](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	var es []store.Addressed
	for i, id := range []string{"done", "dead", "open", "nobody's", "fresh"} {
		e := event(id, id, "x")
		e.At = clock.Add(time.Duration(i) * time.Minute)
		es = append(es, e)
	}
	es[3].Sinks = nil
	mustBe(t, s.Append(ctx, es, nil))
	for i, state := range []store.DeliveryState{store.DeliveryDone, store.DeliveryDead} {
		mustBe(t, s.Settle(ctx, []store.Delivery{{Event: es[i].Event, Sink: "x", State: state, Settled: clock}}))
	}
	left := func(want string) {
		t.Helper()
		list, err := s.Events(ctx, store.EventQuery{Limit: 10})
		mustBe(t, err)
		got := ""
		for _, r := range list {
			got = r.Event.ID + " " + got
		}
		same(t, "what is left", got, want)
	}
	mustBe(t, s.ForgetEvents(ctx, clock.Add(4*time.Minute), clock))
	left("dead open fresh ")
	mustBe(t, s.ForgetEvents(ctx, clock, clock.Add(4*time.Minute)))
	left("fresh ")
	same(t, "pending", pending(t, s, "x", clock), "fresh ")
}

func outboxMarks[T outbox](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	_, err := s.Mark(ctx, "a")
	wantNotFound(t, "Mark before Append", err)
	marks := []store.Mark{{Key: "a", Due: clock.Add(time.Hour), Doc: []byte("1")}, {Key: "b", Due: clock, Doc: []byte("2")}, {Key: "c", Doc: []byte("3")}}
	mustBe(t, s.Append(ctx, nil, marks))
	s = open()
	for _, m := range marks {
		got, err := s.Mark(ctx, m.Key)
		mustBe(t, err)
		same(t, "Mark", got, m)
	}
	some, err := s.Marks(ctx, []string{"c", "none", "a"})
	mustBe(t, err)
	same(t, "Marks", some, map[string]store.Mark{"a": marks[0], "c": marks[2]})
	some, err = s.Marks(ctx, nil)
	mustBe(t, err)
	same(t, "Marks of nothing", len(some), 0)
	due := func(at time.Time, limit int, want ...store.Mark) {
		t.Helper()
		got, err := s.DueMarks(ctx, at, limit)
		mustBe(t, err)
		same(t, "DueMarks", got, want)
	}
	due(clock.Add(-1), 10)
	due(clock, 10, marks[1])
	due(clock.Add(time.Hour), 10, marks[1], marks[0])
	due(clock.Add(time.Hour), 1, marks[1])
	marks[1].Due, marks[1].Doc = time.Time{}, []byte("4")
	mustBe(t, s.Append(ctx, nil, marks[1:2]))
	due(clock.Add(time.Hour), 10, marks[0])
}

func outboxQuery[T outbox](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	var es []store.Addressed
	for i, e := range []struct{ kind, cause string }{{"x", "database@1"}, {"y", "database@1"}, {"x", "database"}, {"x", "databases"}, {"x", "database@2"}, {"x", ""}, {"y", ""}} {
		a := event(fmt.Sprint(i), fmt.Sprint(i))
		a.Type, a.Cause = e.kind, e.cause
		es = append(es, a)
	}
	mustBe(t, s.Append(ctx, es, nil))
	for _, tc := range []struct {
		q    store.EventQuery
		want string
	}{
		{store.EventQuery{Limit: 10}, "6543210"},
		{store.EventQuery{Type: "y", Limit: 10}, "61"},
		{store.EventQuery{Cause: "database@1", Limit: 10}, "10"},
		{store.EventQuery{Cause: "database", Limit: 10}, "4210"},
		{store.EventQuery{Cause: "database", Limit: 2}, "42"},
		{store.EventQuery{Cause: "database", Type: "x", Limit: 10}, "420"},
		{store.EventQuery{Cause: "database@", Limit: 10}, ""},
		{store.EventQuery{Cause: "%", Limit: 10}, ""},
		{store.EventQuery{Cause: "database", ID: "2", Limit: 10}, "2"},
		{store.EventQuery{Cause: "database", Dead: true, Limit: 10}, ""},
	} {
		list, err := s.Events(ctx, tc.q)
		mustBe(t, err)
		got := ""
		for _, r := range list {
			got += r.Event.ID
		}
		same(t, fmt.Sprintf("Events %+v", tc.q), got, tc.want)
	}
}

func outboxEnded[T outbox](t *testing.T, open func() T) {
	s := open()
	mustBe(t, s.Append(t.Context(), []store.Addressed{event("a", "1", "x")}, nil))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ended, []store.Addressed{event("b", "1", "x")}, nil); err == nil {
		t.Error("Append with an ended context did not fail")
	}
	if ds, err := s.Pending(ended, "x", clock, 1); err == nil {
		t.Errorf("Pending with an ended context = %v: an error must not look like none", ds)
	}
	if es, err := s.Events(ended, store.EventQuery{Limit: 1}); err == nil {
		t.Errorf("Events with an ended context = %v", es)
	}
	same(t, "nothing half done", pending(t, s, "x", clock), "a ")
}

// Pullers checks an implementation of store.Pullers that is a store.Pulls too.
func Pullers[T interface {
	store.Pulls
	store.Pullers
}](t *testing.T, fresh Fresh[T]) {
	s, ctx := fresh(t)(), t.Context()
	var ps []store.Pull
	for i, p := range []struct {
		image, client string
		outcome       pratique.Outcome
	}{
		{"a", "10.0.0.1", pratique.OutcomeAllow}, // too long ago
		{"a", "10.0.0.2", pratique.OutcomeAllow},
		{"b", "10.0.0.3", pratique.OutcomeAllow},
		{"a", "10.0.0.4", pratique.OutcomeDeny},
		{"a", "10.0.0.1", pratique.OutcomeWarn},
		{"a", "10.0.0.2", pratique.OutcomeAllow},
	} {
		pull := pulled(p.image, clock.Add(time.Duration(i)*time.Minute))
		pull.Client, pull.Outcome = p.client, p.outcome
		ps = append(ps, pull)
	}
	mustBe(t, s.Record(ctx, ps))
	got, err := s.PulledBy(ctx, sum("a"), clock.Add(time.Minute))
	mustBe(t, err)
	same(t, "PulledBy", got, []store.Puller{
		{Client: "10.0.0.2", Pulls: 2, Last: clock.Add(5 * time.Minute)}, {Client: "10.0.0.1", Pulls: 1, Last: clock.Add(4 * time.Minute)},
	})
	got, err = s.PulledBy(ctx, sum("nobody had it"), time.Time{})
	mustBe(t, err)
	same(t, "PulledBy of what nobody had", len(got), 0)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if got, err := s.PulledBy(ended, sum("a"), clock); err == nil {
		t.Errorf("PulledBy with an ended context = %v", got)
	}
}

// TagMoves checks an implementation of store.TagMoves that is store.Tags too.
func TagMoves[T interface {
	store.Tags
	store.TagMoves
}](t *testing.T, fresh Fresh[T]) {
	open := fresh(t)
	s, ctx := open(), t.Context()
	ref := func(tag string) pratique.Ref { return pratique.Ref{Registry: "docker.io", Repo: "r", Tag: tag} }
	for i, step := range []struct{ tag, digest string }{
		{"v1", "a"}, {"v2", "a"}, {"stays", "a"}, {"v1", "b"}, {"v2", ""}, {"back", "a"}, {"back", "b"}, {"back", "a"},
	} {
		at := clock.Add(time.Duration(i) * time.Minute)
		state := store.TagState{CheckedAt: at, ChangedAt: at}
		if step.digest != "" {
			state.Digest = sum(step.digest)
		}
		mustBe(t, s.SetTag(ctx, ref(step.tag), state))
	}
	s = open()
	got, err := s.TagMoves(ctx, time.Time{})
	mustBe(t, err)
	want := []store.TagMove{
		{Ref: ref("v1").At(sum("a")), Now: sum("b"), At: clock.Add(3 * time.Minute)},
		{Ref: ref("v2").At(sum("a")), At: clock.Add(4 * time.Minute)},
		{Ref: ref("back").At(sum("b")), Now: sum("a"), At: clock.Add(7 * time.Minute)},
	}
	same(t, "TagMoves, oldest first", got, want)
	for i := range want {
		got, err = s.TagMoves(ctx, want[i].At)
		mustBe(t, err)
		same(t, fmt.Sprintf("TagMoves since %d", i), got, want[i:])
	}
}
