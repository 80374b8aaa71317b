package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/config"
	"pratique/proxy/upstream"
	"pratique/scheduler"
	"pratique/tools/images"
	"pratique/web"
)

// TestEventsOut: the assembled product tells a sink of a refusal and of a first
// pull; what the sink did not take is listed and sent again.
func TestEventsOut(t *testing.T) {
	var mu sync.Mutex
	told := map[string]string{} // type → subject
	down := true
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e struct{ Type, Subject, Source string }
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil || e.Source != "/lab" || !strings.HasPrefix(r.Header.Get("Pratique-Signature"), "t=") {
			t.Errorf("%v: %s", err, body)
		}
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		told[e.Type] = e.Subject
	}))
	defer sink.Close()
	heard := func(kind string) string {
		mu.Lock()
		defer mu.Unlock()
		return told["dev.pratique."+kind]
	}

	upstream := startSample(t)
	file := configuration(t, upstream.host, demoDatabase)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "notify: {name: /lab, sinks: {tests: {url: \""+sink.URL+"\", private: true, secretFile: \""+secret+"\"}}}\n"...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, "", "config", "check", file); got.code != 0 {
		t.Fatalf("config check: %s", got.errout)
	}
	p := startServe(t, file)
	p.ready(t)
	server := "http://" + p.admin
	if _, err := p.pull(t, "lab/"+images.Vulnerable); !refused(err) {
		t.Fatal(err)
	}
	if _, err := p.pull(t, "lab/"+images.Clean); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		l := listEvents(t, server)
		return l.first("image.refused") != "" && l.first("image.admitted") != ""
	})
	mu.Lock()
	down = false
	mu.Unlock()
	id := listEvents(t, server).first("image.refused")
	eventually(t, func() bool { return heard("image.refused") != "" && heard("image.admitted") != "" })
	if got := heard("image.refused"); !strings.HasPrefix(got, "lab/") || !strings.Contains(got, "@sha256:") {
		t.Errorf("subject %q", got)
	}
	eventually(t, func() bool { return strings.Contains(runCommand(t, server, "events", "list").out, "tests done") })
	if got := runCommand(t, server, "events", "replay", id); got.code != 0 || !strings.Contains(got.out, "1 deliveries are open again") {
		t.Errorf("replay: %s%s", got.out, got.errout)
	}
	for args, want := range map[string]string{
		"events replay":           "needs ID or --dead",
		"events replay nobody":    "no event nobody",
		"events replay --dead":    "0 deliveries",
		"events list --dead":      "no events",
		"events replay --dead x":  "unexpected argument",
		"events list -o json":     id,
		"events list --dead -o x": "want table or json",
	} {
		if got := runCommand(t, server, strings.Fields(args)...); !strings.Contains(got.out+got.errout, want) {
			t.Errorf("%s: %s%s, want %q", args, got.out, got.errout, want)
		}
	}
}

type eventList struct{ web.EventList }

func listEvents(t *testing.T, server string) eventList {
	t.Helper()
	got := runCommand(t, server, "events", "list", "-o", "json")
	var l eventList
	if err := json.Unmarshal([]byte(got.out), &l); err != nil {
		t.Fatalf("%v: %s%s", err, got.out, got.errout)
	}
	return l
}

// first is the id of the newest event of a type.
func (l eventList) first(kind string) string {
	for _, e := range l.Events {
		if e.Type == "dev.pratique."+kind {
			return e.ID
		}
	}
	return ""
}

// TestSinksAreChecked: what would not start is said by config check.
func TestSinksAreChecked(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct{ sink, want string }{
		"no secret":    {"secretFile: " + filepath.Join(dir, "none"), "no such file"},
		"empty secret": {"secretFile: " + write("empty", " \n"), "holds no secret"},
		"template":     {"format: template, template: " + write("bad", "{{"), "sink a: template"},
	} {
		file := write("c.yaml", "notify: {sinks: {a: {url: \"https://example.com/s3cret\", "+tc.sink+"}}}\n")
		if got := runCommand(t, "", "config", "check", file); got.code != 1 || !strings.Contains(got.errout, tc.want) || strings.Contains(got.errout, "s3cret") {
			t.Errorf("%s: exit %d: %s", name, got.code, got.errout)
		}
	}
}

// TestSinksAreGuarded: a name that leads inside is not dialled unless private.
func TestSinksAreGuarded(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer inside.Close()
	for private, want := range map[bool]bool{true: true, false: false} {
		rt := upstream.Guarded(private)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, inside.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := rt.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
		}
		if (err == nil) != want {
			t.Errorf("private %v: %v", private, err)
		}
		rt.CloseIdleConnections()
	}
}

// silent is a scanner that finds nothing.
type silent struct{ scheduler.Scanner }

func (silent) Scan(context.Context, pratique.Ref) (pratique.Report, error) {
	return pratique.Report{}, pratique.ErrNoDatabase
}

func (silent) Rematch(context.Context, digest.Digest) (pratique.Report, error) {
	return pratique.Report{}, nil
}

// TestReportedBeforeAnybodyWatches: scans need no watcher, and their answer passes.
func TestReportedBeforeAnybodyWatches(t *testing.T) {
	r := &reported{Scanner: silent{}}
	if _, err := r.Scan(t.Context(), pratique.Ref{}); err != pratique.ErrNoDatabase { //nolint:errorlint // as it is
		t.Error(err)
	}
	if _, err := r.Rematch(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if _, err := newSinks(config.Default()); err != nil {
		t.Error(err)
	}
}
