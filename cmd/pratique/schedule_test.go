package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
	"pratique/web"
)

func TestNewestTags(t *testing.T) {
	tags := []string{"1.9.0", "1.10.0", "1.10.0-alpine", "1.9.0-alpine", "2.0.0-rc1", "latest", "1.8.0", "nightly"}
	for n, want := range map[int][]string{
		3:  {"latest", "1.10.0", "1.10.0-alpine"},
		50: {"latest", "1.10.0", "1.10.0-alpine", "1.9.0", "1.9.0-alpine", "1.8.0", "2.0.0-rc1", "nightly"},
	} {
		if d := cmp.Diff(want, newestTags(tags, n)); d != "" {
			t.Errorf("%d (-want +got):\n%s", n, d)
		}
	}
	if got := newestTags(nil, 5); len(got) != 0 {
		t.Errorf("of none: %v", got)
	}
}

// queueServer is an admin API over a real queue and real schedules.
func queueServer(t *testing.T) (url string, db *sqlite.DB, s *schedules) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	s = &schedules{
		Cron:   scheduler.NewCron(db, scheduler.CronConfig{Pauses: db, Log: slog.New(slog.DiscardHandler)}),
		evict:  func(context.Context) (store.Evicted, error) { return store.Evicted{Blobs: 2, Bytes: 5}, nil },
		full:   func(context.Context) (scheduler.Pass, error) { return scheduler.Pass{}, pratique.ErrNoDatabase },
		pauses: db, chores: &scheduler.Chores{Queue: db, Catalog: db, Tags: db},
	}
	cfg := config.Config{Schedules: map[string]config.Schedule{
		"evict": {Cron: "@daily", Do: config.DoEvict}, "full-pass": {Cron: "30 3 * * 0", Do: config.DoFullPass},
		"nightly": {Cron: "0 2 * * *", Do: config.DoRescan, Match: []string{"docker.io/**"}},
	}}
	if err := s.use(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	srv := httptest.NewServer(web.New(web.Config{Jobs: jobs{queue: db, wake: s.Wake}, Schedules: s}))
	t.Cleanup(func() {
		srv.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv.URL, db, s
}

func command1(t *testing.T, url string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e strings.Builder
	code = run(t.Context(), append(args, "--server", url), strings.NewReader(""), &o, &e, nil)
	return code, o.String(), e.String()
}

func TestJobCommands(t *testing.T) {
	url, db, _ := queueServer(t)
	d := digest.FromString("a")
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/a", Tag: "1", Digest: d}
	if err := db.Push(t.Context(), ref, scheduler.PriorityPull, time.Now()); err != nil {
		t.Fatal(err)
	}
	j, err := db.Take(t.Context(), time.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Finish(t.Context(), j, fmt.Errorf("upstream says %d", http.StatusBadGateway), time.Time{}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"jobs", "list"}, 0, "upstream says 502"},
		{[]string{"jobs", "list", "--state", "dead", "-o", "json"}, 0, `"state": "dead"`},
		{[]string{"jobs", "list", "--state", "asleep"}, 1, "want waiting, running, retry, paused or dead"},
		{[]string{"jobs", "show", d.String()}, 0, "given up"},
		{[]string{"jobs", "show", digest.FromString("b").String()}, 1, "no job of"},
		{[]string{"jobs", "pause", "schedule"}, 0, "paused: schedule since"},
		{[]string{"jobs", "pause", "pull"}, 1, "never paused"},
		{[]string{"jobs", "pause", "scedule"}, 1, "want pull, webhook, database or schedule"},
		{[]string{"jobs", "list"}, 0, "0 open (0 pulls, 0 webhook, 0 database, 0 schedule), 1 dead; paused: schedule since"},
		{[]string{"schedule", "list"}, 0, "paused"},
		{[]string{"jobs", "resume"}, 0, "nothing is paused"},
		{[]string{"jobs", "retry"}, 1, "DIGEST or --all"},
		{[]string{"jobs", "retry", "x"}, 1, "no digest"},
		{[]string{"jobs", "retry", d.String()}, 0, "1 scans will be tried again"},
		{[]string{"jobs", "retry", d.String()}, 1, "is dead or waits"},
		{[]string{"jobs", "retry", "--all"}, 0, "0 scans"},
		{[]string{"jobs", "list"}, 0, "waiting  webhook"},
	} {
		code, out, errs := command1(t, url, tc.args...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("%v: exit %d\n%s%s\nwant %d and %q", tc.args, code, out, errs, tc.code, tc.want)
		}
	}
}

func TestScheduleCommands(t *testing.T) {
	url, _, s := queueServer(t)
	ended := func(name, want string) {
		t.Helper()
		if code, out, errs := command1(t, url, "schedule", "run", name); code != 0 {
			t.Fatalf("exit %d %s%s", code, out, errs)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			_, out, _ := command1(t, url, "schedule", "list", "-o", "json")
			if strings.Contains(out, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not show %q:\n%s", name, want, out)
			}
		}
	}
	ended("evict", "2 blobs, 5 bytes removed")
	ended("full-pass", "nothing to do without a database")
	ended("nightly", "0 scans opened")
	if code, _, errs := command1(t, url, "schedule", "run", "none"); code != 1 || !strings.Contains(errs, "no schedule") {
		t.Errorf("exit %d %s", code, errs)
	}
	code, out, _ := command1(t, url, "schedule", "list")
	if code != 0 || !strings.Contains(out, "30 3 * * 0") || !strings.Contains(out, "rescan docker.io/**") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if err := s.use(t.Context(), config.Config{}); err != nil { // as by SIGHUP
		t.Fatal(err)
	}
	if _, _, errs := command1(t, url, "schedule", "list"); !strings.Contains(errs, "no schedules") {
		t.Error(errs)
	}
	if err := s.use(t.Context(), config.Config{Schedules: map[string]config.Schedule{"x": {Cron: "never", Do: config.DoEvict}}}); err == nil {
		t.Error("times that cannot be read are taken")
	}
}
