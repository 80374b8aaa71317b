package sqlite_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

// schema1 is a state file that Pratique wrote when its schema was 1: an index
// docker.io/library/debian:12 with the child "base" (layers l1 and l2), an image
// "app" on top of it in team/app that has a report and was pulled twice, a tag
// that is gone, a tag list, and an open job.
func schema1(t *testing.T) string {
	t.Helper()
	in, err := os.Open("testdata/schema1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state.db")
	b, err := io.ReadAll(z)
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMigrateSchema1: what was kept by schema 1 is there, and what schema 2 tells
// is told of what schema 1 kept.
func TestMigrateSchema1(t *testing.T) {
	path := schema1(t)
	for range 2 { // the second time there is nothing to do
		db, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		migrated(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func migrated(t *testing.T, db *sqlite.DB) {
	t.Helper()
	ctx, d := t.Context(), digest.FromString
	hour := func(h int) time.Time { return now.Add(time.Duration(h) * time.Hour) }
	debian := pratique.Ref{Registry: "docker.io", Repo: "library/debian"}
	app := pratique.Ref{Registry: "docker.io", Repo: "team/app", Tag: "v1", Digest: d("app")}
	is := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	state := func(v any, err error) any { return []any{v, fmt.Sprint(err)} }

	var pulls []store.Pull
	for p, err := range db.Pulls(ctx, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		pulls = append(pulls, p)
	}
	is("pulls", pulls, []store.Pull{
		{Ref: app, Client: "10.0.0.2", At: hour(1), Outcome: pratique.OutcomeWarn, Verdict: "v-app"},
		{Ref: app, Client: "10.0.0.1", At: hour(2), Outcome: pratique.OutcomeAllow, Verdict: "v-app"},
		{Ref: debian.At(d("base")), Client: "10.0.0.1", At: hour(3), Outcome: pratique.OutcomeDeny, Verdict: "v-base"},
	})
	first, last, err := db.Served(ctx, app.Digest)
	is("served", state([]time.Time{first, last}, err), state([]time.Time{hour(1), hour(2)}, nil))

	span := store.TagSpan{Tag: "12", Digest: d("index"), FirstAt: hour(0), LastAt: hour(5), Now: d("index")}
	is("tags of an index", state(db.TagsOf(ctx, debian.At(d("index")))), state([]store.TagSpan{span}, nil))
	span.Digest, span.Now = d("base"), d("base")
	is("tags of its child", state(db.TagsOf(ctx, debian.At(d("base")))), state([]store.TagSpan{span}, nil))
	is("tags seen", state(db.TagsSeen(ctx, debian)), state(map[string]time.Time{"12": hour(3), "11": hour(3), "latest": hour(3)}, nil))
	img, err := db.Image(ctx, app.Digest)
	if err != nil {
		t.Fatal(err)
	}
	bases, err := db.BasesOf(ctx, img)
	if err != nil || len(bases) != 1 || bases[0].Image.Digest != d("base") || bases[0].Ref.Tag != "12" {
		t.Errorf("bases %+v, %v", bases, err)
	}

	r, err := db.Report(ctx, app.Digest)
	if err != nil || len(r.Findings) != 1 || !r.Findings[0].FirstSeen.Equal(hour(0)) {
		t.Errorf("report %+v, %v", r, err)
	}
	is("jobs", state(db.Len(ctx)), state(map[scheduler.Priority]int{scheduler.PriorityPull: 1}, nil))
}

// TestMigratedClock: a finding that schema 1 knew goes on from there.
func TestMigratedClock(t *testing.T) {
	db, ctx := open(t, schema1(t)), t.Context()
	r, err := db.Report(ctx, digest.FromString("app"))
	if err != nil {
		t.Fatal(err)
	}
	seen := r.Findings[0].FirstSeen
	r.ScannedAt, r.Findings[0].Severity = now.Add(100*time.Hour), pratique.SeverityCritical
	if r, err = db.PutReport(ctx, r); err != nil {
		t.Fatal(err)
	}
	want := []pratique.Milestone{{At: seen, Severity: pratique.SeverityHigh}, {At: now.Add(100 * time.Hour), Severity: pratique.SeverityCritical}}
	if d := cmp.Diff(want, r.Findings[0].Milestones); d != "" || !r.Findings[0].FirstSeen.Equal(seen) {
		t.Errorf("first seen %s, milestones (-want +got):\n%s", r.Findings[0].FirstSeen, d)
	}
}

// TestMigrationIsOne: a file whose migration fails is as it was, and says why.
func TestMigrationIsOne(t *testing.T) {
	path := schema1(t)
	spoil(t, path, `UPDATE tag_lists SET tags = x'28b52ffd00'`) // found by the last step of the migration
	for range 2 {
		if db, err := sqlite.Open(t.Context(), path); err == nil {
			db.Close()
			t.Fatal("a document that cannot be read was migrated")
		}
	}
	spoil(t, path, `UPDATE tag_lists SET tags = x'5b5d'`)
	open(t, path)
}
