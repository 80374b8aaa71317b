package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/store"
	"pratique/web"
)

// fakeEvents remembers what it was asked.
type fakeEvents struct {
	asked []string
	fail  error
}

func (f *fakeEvents) Events(_ context.Context, q store.EventQuery) ([]store.EventRecord, error) {
	f.asked = append(f.asked, strings.TrimSpace(fmt.Sprintf("list %v %d %s", q.Dead, q.Limit, strings.Join([]string{q.ID, q.Type, q.Cause}, " "))))
	e := store.Event{ID: "e1", Type: "dev.pratique.image.refused", At: now, Subject: "lab/a@sha256:1", Cause: "database@sha256:2", Data: json.RawMessage(`{"text":"x"}`)}
	return []store.EventRecord{{Event: e, Deliveries: []store.Delivery{
		{Sink: "a", Attempts: 2, NotBefore: now.Add(time.Minute), Error: "answered 500"},
		{Sink: "b", State: store.DeliveryDead, Settled: now},
	}}, {Event: e}}, f.fail
}

func (f *fakeEvents) Replay(_ context.Context, id string) (int, error) {
	f.asked = append(f.asked, "replay "+id)
	return 2, f.fail
}

func TestEvents(t *testing.T) {
	f := &fakeEvents{}
	url := serve(t, web.Config{Events: f}).URL + "/api/v1/events"
	status, body := ask(t, http.MethodGet, url+"?dead=true&limit=5", "")
	var got web.EventList
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s %v", status, body, err)
	}
	next := now.Add(time.Minute)
	e := web.Event{ID: "e1", Type: "dev.pratique.image.refused", Time: now, Subject: "lab/a@sha256:1", Cause: "database@sha256:2", Deliveries: []web.EventDelivery{}}
	first := e
	first.Deliveries = []web.EventDelivery{{Sink: "a", State: "open", Attempts: 2, Next: &next, Error: "answered 500"}, {Sink: "b", State: "dead", Settled: &now}}
	for i := range got.Events {
		if !strings.Contains(string(got.Events[i].Data), `"x"`) {
			t.Errorf("data %s", got.Events[i].Data)
		}
		got.Events[i].Data = nil
	}
	if d := cmp.Diff(web.EventList{Events: []web.Event{first, e}}, got); d != "" {
		t.Error(d)
	}
	for _, tc := range []struct {
		method, path string
		status       int
		want         string
	}{
		{http.MethodGet, "", 200, `"e1"`},
		{http.MethodGet, "?id=e1&type=image.refused&cause=database%40sha256:2", 200, `"e1"`},
		{http.MethodGet, "?type=dev.pratique.tag.moved", 200, `"e1"`},
		{http.MethodGet, "?cause=" + strings.Repeat("x", 300), 400, "longer than any"},
		{http.MethodGet, "?dead=x", 400, "neither true nor false"},
		{http.MethodGet, "?limit=0", 400, "from 1 to 1000"},
		{http.MethodGet, "?limit=1001", 400, "from 1 to 1000"},
		{http.MethodPost, "/replay?id=e1", 200, `"deliveries": 2`},
		{http.MethodPost, "/replay?dead=true", 200, "2"},
		{http.MethodPost, "/replay", 400, "want one of"},
		{http.MethodPost, "/replay?id=e1&dead=true", 400, "want one of"},
		{http.MethodPost, "/replay?id=" + strings.Repeat("x", 100), 400, "want one of"},
		{http.MethodGet, "/replay", 405, "POST"},
	} {
		status, body := ask(t, tc.method, url+tc.path, "")
		if status != tc.status || !strings.Contains(body, tc.want) && !strings.Contains(body, strings.ReplaceAll(tc.want, ": ", ":")) {
			t.Errorf("%s %s: %d %s, want %d %q", tc.method, tc.path, status, body, tc.status, tc.want)
		}
	}
	if d := cmp.Diff([]string{
		"list true 5", "list false 100", "list false 100 e1 dev.pratique.image.refused database@sha256:2", "list false 100  dev.pratique.tag.moved",
		"replay e1", "replay ",
	}, f.asked); d != "" {
		t.Error(d)
	}
	f.fail = pratique.ErrNotFound
	if status, _ := ask(t, http.MethodPost, url+"/replay?id=none", ""); status != http.StatusNotFound {
		t.Errorf("an unknown event: %d", status)
	}
	f.fail = errors.New("disk")
	for _, tc := range [][2]string{{http.MethodGet, ""}, {http.MethodPost, "/replay?dead=true"}} {
		if status, _ := ask(t, tc[0], url+tc[1], ""); status != http.StatusInternalServerError {
			t.Errorf("%s%s of a broken store: %d", tc[0], tc[1], status)
		}
	}
	none := serve(t, web.Config{}).URL + "/api/v1/events"
	for _, tc := range [][2]string{{http.MethodGet, ""}, {http.MethodPost, "/replay?dead=true"}} {
		if status, _ := ask(t, tc[0], none+tc[1], ""); status != http.StatusServiceUnavailable {
			t.Errorf("%s%s without events: %d", tc[0], tc[1], status)
		}
	}
}
