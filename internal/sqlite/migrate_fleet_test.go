package sqlite_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
)

func gunzip(t *testing.T, name string) []byte {
	t.Helper()
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// schema3 is a state file that Pratique wrote when its schema was 3, and the reports
// that it held: four images that were scanned one after another while eight databases
// came into use, and one that failed. One of them, Lagging, was not matched again with
// the last of the databases, whose matches were stored already.
func schema3(t *testing.T) (path string, lagging digest.Digest, reports map[digest.Digest]pratique.Report) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, gunzip(t, "testdata/schema3.db.gz"), 0o600); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Lagging digest.Digest
		Reports map[digest.Digest]pratique.Report
	}
	if err := json.Unmarshal(gunzip(t, "testdata/schema3.json.gz"), &doc); err != nil {
		t.Fatal(err)
	}
	return path, doc.Lagging, doc.Reports
}

// TestMigrateSchema3: every report is as it was, with all clocks, though its findings
// are joined now; and the clocks go on.
func TestMigrateSchema3(t *testing.T) {
	path, lagging, want := schema3(t)
	db, ctx := open(t, path), t.Context()
	if len(want) != 5 {
		t.Fatalf("%d reports", len(want))
	}
	carried := 0
	for image, w := range want {
		got, err := db.Report(ctx, image)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range w.Findings {
			if len(f.Milestones) > 0 || !f.FirstSeen.Equal(w.FirstScanned) {
				carried++
			}
		}
		if image != lagging {
			if d := cmp.Diff(w, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("report on %s (-want +got):\n%s", image, d)
			}
			continue
		}
		for i := range got.Findings { // what a later database said is there, and no clock is later
			f := &got.Findings[i]
			for j := range w.Findings {
				o := &w.Findings[j]
				same := f.Kind == o.Kind && f.ID == o.ID && f.Package == o.Package && f.Installed == o.Installed
				if rank := min(f.Severity.Rank(), o.Severity.Rank()); same && f.Since(rank, false).After(o.Since(rank, false)) {
					t.Errorf("%s of %s: since %s, was %s", f.ID, f.Package, f.Since(rank, false), o.Since(rank, false))
				}
			}
		}
	}
	if carried < 10 {
		t.Errorf("%d findings with a clock of their own: nothing is shown", carried)
	}
	if _, _, err := db.Current(ctx); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("current: %v", err)
	}

	// The next database: what is worse got worse now, all else goes on.
	var ids []pratique.ComponentID
	for c, err := range db.AllComponents(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID())
	}
	e := pratique.Engine{Version: "v0.74.0", Database: digest.FromString("next"), DatabaseAt: now.Add(10_000 * time.Hour)}
	ms := make(map[pratique.ComponentID][]pratique.Vulnerability)
	for _, id := range ids {
		for _, cve := range []string{"CVE-0", "CVE-1", "CVE-2", "CVE-3"} {
			ms[id] = append(ms[id], pratique.Vulnerability{ID: cve, Severity: pratique.SeverityCritical, Status: "affected"})
		}
	}
	at := e.DatabaseAt
	if _, err := db.PutMatches(ctx, e, at, ms); err != nil {
		t.Fatal(err)
	}
	if err := db.Advance(ctx, e, at); err != nil {
		t.Fatal(err)
	}
	for image, w := range want {
		if w.State != pratique.StateScanned || image == lagging {
			continue
		}
		got, err := db.Report(ctx, image)
		if err != nil {
			t.Fatal(err)
		}
		for i := range w.Findings {
			o := &w.Findings[i]
			for j := range got.Findings {
				f := &got.Findings[j]
				if f.Kind != o.Kind || f.ID != o.ID || f.Package != o.Package || f.Installed != o.Installed {
					continue
				}
				if !f.FirstSeen.Equal(o.FirstSeen) {
					t.Errorf("%s of %s: first seen %s, was %s", f.ID, f.Package, f.FirstSeen, o.FirstSeen)
				}
			}
		}
	}
}
