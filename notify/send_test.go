package notify_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/notify"
	"pratique/store"
)

// TestCloudEvents has the official SDK read both modes.
func TestCloudEvents(t *testing.T) {
	for _, format := range []notify.Format{notify.FormatStructured, notify.FormatBinary} {
		t.Run(string(format), func(t *testing.T) {
			db, recv := database(t), receive(t, nil)
			n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Format: format, Transport: transport(t)}}, quick(nil))
			e := event("id-1", "sha256:1", notify.TypeRefused)
			put(t, db, []string{"a"}, e)
			run(t, n)
			g := recv.wait(t, 1)[0]
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x", strings.NewReader(string(g.body)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = g.header
			ev, err := binding.ToEvent(t.Context(), cehttp.NewMessageFromHttpRequest(req))
			if err != nil {
				t.Fatal(err)
			}
			if err := ev.Validate(); err != nil {
				t.Fatal(err)
			}
			if ev.ID() != "id-1" || ev.Type() != notify.TypeRefused || ev.Source() != "/test" || ev.Subject() != e.Subject || !ev.Time().Equal(start) || ev.DataContentType() != "application/json" {
				t.Errorf("arrived as %s", ev)
			}
			var data struct {
				Text string
				N    int
			}
			if err := ev.DataAs(&data); err != nil || data.Text != "id-1 <told> & done" || data.N != 1 {
				t.Errorf("data %+v, %v", data, err)
			}
		})
	}
}

// TestSignature verifies as docs/events.md tells receivers to.
func TestSignature(t *testing.T) {
	secret := []byte("s3cret")
	for _, format := range []notify.Format{notify.FormatStructured, notify.FormatBinary, notify.FormatSlack} {
		t.Run(string(format), func(t *testing.T) {
			db, recv := database(t), receive(t, nil)
			n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Format: format, Secret: secret, Transport: transport(t)}}, quick(&clock{t: start}))
			put(t, db, []string{"a"}, event("id-1", "sha256:1", notify.TypeRefused))
			run(t, n)
			g := recv.wait(t, 1)[0]
			verify := func(header http.Header, body []byte) bool {
				when, mac, ok := strings.Cut(strings.TrimPrefix(header.Get("Pratique-Signature"), "t="), ",v1=")
				if !ok || when != fmt.Sprint(start.Unix()) {
					t.Fatalf("signature %q", header.Get("Pratique-Signature"))
				}
				h := hmac.New(sha256.New, secret)
				h.Write([]byte(when + "."))
				if id := header.Get("Ce-Id"); id != "" {
					for _, name := range []string{"ce-id", "ce-source", "ce-specversion", "ce-subject", "ce-time", "ce-type"} {
						h.Write([]byte(name + ":" + header.Get(name) + "\n"))
					}
				}
				h.Write(body)
				return hex.EncodeToString(h.Sum(nil)) == mac
			}
			if !verify(g.header, g.body) {
				t.Error("the signature does not verify")
			}
			if verify(g.header, append(slices.Clone(g.body), ' ')) {
				t.Error("another body verifies")
			}
			if format == notify.FormatBinary {
				g.header.Set("ce-type", notify.TypeAdmitted)
				if verify(g.header, g.body) {
					t.Error("another type verifies")
				}
			}
		})
	}
}

// TestRetries: whatever a sink answers, it gets the event in the end, once it
// takes it, with the same id.
func TestRetries(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"500":      func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"400":      func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) },
		"429":      func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
		"redirect": func(w http.ResponseWriter) { w.Header().Set("Location", "/else"); w.WriteHeader(http.StatusFound) },
		"cut":      func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"endless": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
			for range 64 {
				if _, err := w.Write(make([]byte, 16<<10)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := database(t)
			recv := receive(t, func(n int, w http.ResponseWriter) {
				if n < 2 {
					answer(w)
				}
			})
			n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Transport: transport(t)}}, quick(nil))
			put(t, db, []string{"a"}, event("id-1", "1", notify.TypeRefused), event("id-2", "1", notify.TypeAdmitted))
			run(t, n)
			var ids []string
			for _, e := range parse(t, recv.wait(t, 4)) {
				ids = append(ids, e.ID)
			}
			if want := []string{"id-1", "id-1", "id-1", "id-2"}; !slices.Equal(ids, want) {
				t.Errorf("arrived %v, want %v", ids, want)
			}
			settled(t, db, "id-2", "a", store.DeliveryDone)
		})
	}
}

// settled waits for a delivery to be in a state.
func settled(t *testing.T, db *sqlite.DB, id, sink string, want store.DeliveryState) store.Delivery {
	t.Helper()
	var out store.Delivery
	eventually(t, id+" to "+sink+" "+string(want), func() bool {
		rs, err := db.Events(t.Context(), store.EventQuery{ID: id, Limit: 1})
		if err != nil || len(rs) != 1 {
			t.Fatalf("events: %v %v", rs, err)
		}
		for _, d := range rs[0].Deliveries {
			if d.Sink == sink {
				out = d
			}
		}
		return out.State == want
	})
	return out
}

func TestRetryAfter(t *testing.T) {
	for _, header := range []string{"120", start.Add(2 * time.Minute).Format(http.TimeFormat), "100000"} {
		t.Run(header, func(t *testing.T) {
			db, c := database(t), &clock{t: start}
			recv := receive(t, func(_ int, w http.ResponseWriter) {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(http.StatusTooManyRequests)
			})
			n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Transport: transport(t)}}, quick(c))
			put(t, db, []string{"a"}, event("id-1", "1", notify.TypeRefused))
			run(t, n)
			recv.wait(t, 1)
			eventually(t, "noted", func() bool { return settled(t, db, "id-1", "a", store.DeliveryOpen).Attempts == 1 })
			want := start.Add(2 * time.Minute)
			if header == "100000" {
				want = start.Add(time.Hour) // no sink may put itself off for days
			}
			if d := settled(t, db, "id-1", "a", store.DeliveryOpen); !d.NotBefore.Equal(want) || d.Error != "answered 429" {
				t.Errorf("next attempt %s (%s), want %s", d.NotBefore, d.Error, want)
			}
		})
	}
}

// TestDeadAndReplay: what is given up holds nothing up, and can be sent again.
func TestDeadAndReplay(t *testing.T) {
	db := database(t)
	recv := receive(t, func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) })
	n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Transport: transport(t)}}, quick(nil))
	put(t, db, []string{"a"}, event("id-1", "1", notify.TypeRefused), event("id-2", "1", notify.TypeAdmitted))
	run(t, n)
	if d := settled(t, db, "id-1", "a", store.DeliveryDead); d.Attempts != 3 || d.Error != "answered 400" {
		t.Errorf("given up as %+v", d)
	}
	settled(t, db, "id-2", "a", store.DeliveryDead)
	had := len(recv.all())
	recv.use(nil)
	if got, err := db.Replay(t.Context(), ""); err != nil || got != 2 {
		t.Fatalf("Replay = %d, %v", got, err)
	}
	n.Wake()
	again := parse(t, recv.wait(t, had+2))[had:]
	if again[0].ID != "id-1" || again[1].ID != "id-2" {
		t.Errorf("replayed %v", again)
	}
	settled(t, db, "id-2", "a", store.DeliveryDone)
}

// TestOneSinkHarmsNoOther: one hangs, one is not there, one works.
func TestOneSinkHarmsNoOther(t *testing.T) {
	db, good := database(t), receive(t, nil)
	release := make(chan struct{})
	slow := receive(t, func(int, http.ResponseWriter) { <-release })
	gone := receive(t, nil)
	gone.Close()
	sinks := map[string]notify.Sink{}
	for name, r := range map[string]*receiver{"good": good, "slow": slow, "gone": gone} {
		sinks[name] = notify.Sink{URL: r.URL + "/s3cret", Transport: transport(t)}
	}
	n := newNotifier(t, db, sinks, quick(nil))
	var es []store.Event
	for i := range 50 {
		es = append(es, event(fmt.Sprintf("id-%02d", i), fmt.Sprint(i%7), notify.TypeRefused))
	}
	put(t, db, []string{"good", "slow", "gone"}, es...)
	stop := run(t, n)
	good.wait(t, 50)
	d := settled(t, db, "id-00", "gone", store.DeliveryDead)
	if strings.Contains(d.Error, "s3cret") || d.Error == "" {
		t.Errorf("error %q", d.Error)
	}
	stop()
	close(release)
	if d := settled(t, db, "id-00", "slow", store.DeliveryOpen); d.Attempts != 0 {
		t.Errorf("a request that the end of the process cut counts: %+v", d)
	}
}

// unsettled is an outbox in a process that dies before it writes what arrived.
type unsettled struct {
	*sqlite.DB
	died chan struct{}
}

func (u *unsettled) Settle(context.Context, []store.Delivery) error {
	select {
	case u.died <- struct{}{}:
	default:
	}
	return errors.New("killed")
}

// TestAtLeastOnce: killed between sending and noting it, the next process sends the
// event again, with its id, and in order.
func TestAtLeastOnce(t *testing.T) {
	db, recv := database(t), receive(t, nil)
	sinks := map[string]notify.Sink{"a": {URL: recv.URL, Transport: transport(t)}}
	put(t, db, []string{"a"}, event("id-1", "1", notify.TypeRefused), event("id-2", "1", notify.TypeAdmitted))
	u := &unsettled{db, make(chan struct{}, 1)}
	cfg := quick(nil)
	cfg.Poll = time.Hour
	stop := run(t, newNotifier(t, u, sinks, cfg))
	<-u.died
	stop()
	run(t, newNotifier(t, db, sinks, quick(nil)))
	var ids []string
	for _, e := range parse(t, recv.wait(t, 3)) {
		ids = append(ids, e.ID)
	}
	if want := []string{"id-1", "id-1", "id-2"}; !slices.Equal(ids, want) {
		t.Errorf("arrived %v, want %v", ids, want)
	}
}

// TestOrder: those about one image arrive in order, whatever fails in between.
func TestOrder(t *testing.T) {
	db := database(t)
	recv := receive(t, func(n int, w http.ResponseWriter) {
		if n%3 == 0 {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	cfg := quick(nil)
	cfg.Attempts = 100
	n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Transport: transport(t)}}, cfg)
	var es []store.Event
	for i := range 60 {
		es = append(es, event(fmt.Sprintf("id-%02d", i), fmt.Sprint(i%4), notify.TypeRefused))
	}
	put(t, db, []string{"a"}, es...)
	run(t, n)
	for _, e := range es {
		settled(t, db, e.ID, "a", store.DeliveryDone)
	}
	last := map[string]string{}
	for _, e := range parse(t, recv.all()) {
		if e.ID < last[e.Subject] {
			t.Errorf("%s came after %s", e.ID, last[e.Subject])
		}
		last[e.Subject] = e.ID
	}
}

func changed(id, order string, outcome pratique.Outcome, clients ...string) store.Event {
	e := event(id, order, notify.TypeChanged)
	e.Cause = "database"
	data, err := json.Marshal(notify.Changed{
		Image: notify.Image{Text: "image " + id, Outcome: outcome}, Cause: e.Cause, Pulled: &notify.Pulled{Clients: clients},
	})
	if err != nil {
		panic(err)
	}
	e.Data = data
	return e
}

// TestSummary: many changes with one cause are one message to people, and every
// one of them to programs.
func TestSummary(t *testing.T) {
	db, chat, program := database(t), receive(t, nil), receive(t, nil)
	cfg := quick(nil)
	cfg.Threshold = 10
	n := newNotifier(t, db, map[string]notify.Sink{
		"chat": {URL: chat.URL, Format: notify.FormatSlack, Transport: transport(t)}, "program": {URL: program.URL, Transport: transport(t)},
	}, cfg)
	var es []store.Event
	for i := range 500 {
		es = append(es, changed(fmt.Sprintf("id-%03d", i), fmt.Sprint(i), pratique.OutcomeDeny))
	}
	es[7] = changed("id-007", "7", pratique.OutcomeAllow)
	es[400] = changed("id-400", "400", pratique.OutcomeDeny, "10.0.0.1", "10.0.0.2")
	put(t, db, []string{"chat", "program"}, es...)
	run(t, n)
	program.wait(t, 500)
	settled(t, db, "id-499", "chat", store.DeliveryDone)
	got := chat.all()
	if len(got) != 1 {
		t.Fatalf("%d messages, want one", len(got))
	}
	var m struct{ Text string }
	if err := json.Unmarshal(got[0].body, &m); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Vulnerability database updated: 499 images are refused now that were served, 1 are served again", "`pratique images`", "First of them:\n• image id-400\n• "} {
		if !strings.Contains(m.Text, want) {
			t.Errorf("%q is not in %q", want, m.Text)
		}
	}
	few := receive(t, nil)
	db = database(t)
	n = newNotifier(t, db, map[string]notify.Sink{"chat": {URL: few.URL, Format: notify.FormatSlack, Transport: transport(t)}}, cfg)
	put(t, db, []string{"chat"}, es[:10]...)
	run(t, n)
	few.wait(t, 10)
}

// TestGather: a sink for people waits until no more changes come.
func TestGather(t *testing.T) {
	db, chat, c := database(t), receive(t, nil), &clock{t: start.Add(10 * time.Second)}
	cfg := quick(c)
	cfg.Gather, cfg.Threshold = 15*time.Second, 2
	n := newNotifier(t, db, map[string]notify.Sink{"chat": {URL: chat.URL, Format: notify.FormatSlack, Transport: transport(t)}}, cfg)
	put(t, db, []string{"chat"}, changed("id-1", "1", pratique.OutcomeDeny), changed("id-2", "2", pratique.OutcomeDeny), event("id-3", "3", notify.TypeTagMoved))
	run(t, n)
	settled(t, db, "id-3", "chat", store.DeliveryDone) // others do not wait
	late := changed("id-4", "4", pratique.OutcomeDeny)
	late.At = start.Add(12 * time.Second)
	put(t, db, []string{"chat"}, late)
	c.add(10 * time.Second)
	n.Wake()
	if got := len(chat.all()); got != 1 {
		t.Fatalf("%d messages, want one", got)
	}
	c.add(10 * time.Second)
	settled(t, db, "id-4", "chat", store.DeliveryDone)
	if got := len(chat.all()); got != 2 {
		t.Errorf("%d messages, want two", got)
	}
}

func TestPeople(t *testing.T) {
	for _, tc := range []struct {
		name, kind, want string
		sink             notify.Sink
	}{
		{"slack", "application/json; charset=utf-8", `{"text":"id-1 \u0026lt;told\u0026gt; \u0026amp; done"}`, notify.Sink{Format: notify.FormatSlack}},
		{"text", "text/plain; charset=utf-8", "id-1 dev.pratique.image.refused 1", notify.Sink{Format: notify.FormatTemplate, Template: `{{.ID}} {{.Type}} {{.Data.n}}`}},
		{"json", "application/json; charset=utf-8", `{"s":"docker.io/library/nginx@1"}`, notify.Sink{Format: notify.FormatTemplate, Template: `{"s":{{json .Subject}}}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, recv := database(t), receive(t, nil)
			tc.sink.URL, tc.sink.Transport = recv.URL, transport(t)
			n := newNotifier(t, db, map[string]notify.Sink{"a": tc.sink}, quick(nil))
			put(t, db, []string{"a"}, event("id-1", "1", notify.TypeRefused))
			run(t, n)
			g := recv.wait(t, 1)[0]
			if string(g.body) != tc.want || g.header.Get("Content-Type") != tc.kind || g.header.Get("Pratique-Signature") != "" {
				t.Errorf("%s %s, want %s %s", g.header, g.body, tc.kind, tc.want)
			}
		})
	}
}

// TestBadTemplate: what cannot be written is given up, not sent.
func TestBadTemplate(t *testing.T) {
	db, recv := database(t), receive(t, nil)
	n := newNotifier(t, db, map[string]notify.Sink{"a": {URL: recv.URL, Format: notify.FormatTemplate, Template: `{{index .Data.n 3}}`, Transport: transport(t)}}, quick(nil))
	put(t, db, []string{"a"}, event("id-1", "1", notify.TypeRefused))
	run(t, n)
	if d := settled(t, db, "id-1", "a", store.DeliveryDead); !strings.Contains(d.Error, "cannot be written") {
		t.Errorf("error %q", d.Error)
	}
	if len(recv.all()) != 0 {
		t.Error("something was sent")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, s := range map[string]notify.Sink{
		"format":    {Format: "fax", Transport: transport(t)},
		"template":  {Format: notify.FormatTemplate, Template: "{{", Transport: transport(t)},
		"transport": {},
	} {
		if _, err := notify.New(database(t), map[string]notify.Sink{"a": s}, notify.Config{}); err == nil || !strings.Contains(err.Error(), "sink a") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
