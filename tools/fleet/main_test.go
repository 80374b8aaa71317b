package main

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scanner/worker/workertest"
)

const (
	inventories = "../../testdata/database/inventories.jsonl.zst"
	archivePath = "../../testdata/database/new.tar.gz"
)

// small makes a small fleet.
func small(t *testing.T, images int) (string, facts) {
	t.Helper()
	dir := t.TempDir()
	f, err := fleetIn(t.Context(), dir, plan{Images: images, Layers: 60, Components: 600, Seed: 3, Marked: 5}, workertest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	return dir, f
}

func fleetIn(ctx context.Context, dir string, p plan, analyzer string) (facts, error) {
	samples, err := readSamples(inventories)
	if err != nil {
		return facts{}, err
	}
	db, err := openArchive(archivePath)
	if err != nil {
		return facts{}, err
	}
	defer func() { _ = os.RemoveAll(db) }()
	known, err := readNames(filepath.Join(db, "trivy.db"))
	if err != nil {
		return facts{}, err
	}
	m, err := newModel(p, samples, known)
	if err != nil {
		return facts{}, err
	}
	return fill(ctx, m, archivePath, analyzer, dir, os.Stderr)
}

// TestFill: a fleet is what was asked for, the same again for the same plan, and
// read by the state that a server opens.
func TestFill(t *testing.T) {
	const images = 80
	dir, f := small(t, images)
	again, g := small(t, images)
	f.Seconds, g.Seconds, f.Bytes, g.Bytes = 0, 0, 0, 0
	if diff := cmp.Diff(f, g, cmp.AllowUnexported(facts{})); diff != "" {
		t.Errorf("two fleets of one plan differ:\n%s", diff)
	}
	if f.Fleet.Images != images || f.Fleet.Layers < 60 || f.Fleet.Components < 600 || f.Fleet.Findings == 0 {
		t.Errorf("made %+v", f.Fleet)
	}
	one, other := reports(t, dir), reports(t, again)
	if diff := cmp.Diff(one, other); diff != "" {
		t.Errorf("reports of two fleets of one plan differ:\n%s", diff)
	}
}

// reports are the findings of each image by digest.
func reports(t *testing.T, dir string) map[string]string {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	out := map[string]string{}
	for d, err := range db.ReportedImages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := db.Report(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, x := range r.Findings {
			lines = append(lines, x.ID+" "+x.Package+" "+x.Installed)
		}
		out[d.String()] = r.State.String() + "\n" + strings.Join(lines, "\n")
	}
	return out
}

// TestMutate: as many keys differ as were asked for, in every way, and no others.
func TestMutate(t *testing.T) {
	before, err := openArchive(archivePath)
	if err != nil {
		t.Fatal(err)
	}
	after, err := openArchive(archivePath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.RemoveAll(before)
		_ = os.RemoveAll(after)
	})
	old := packages(t, before)
	var f facts
	for k := range old {
		if _, pkg, _ := strings.Cut(k, "\t"); len(f.Keys) < len(old)/2 {
			f.Keys = append(f.Keys, pratique.PackageKey(pkg))
		}
	}
	done, err := mutate(after, f, .2, false, 1)
	if err != nil {
		t.Fatal(err)
	}
	kinds := slices.Sorted(maps.Keys(done.Kinds))
	if diff := cmp.Diff([]string{"appeared", "fixed", "gone", "severity", "status"}, kinds); diff != "" {
		t.Errorf("kinds of changes (-want +got):\n%s", diff)
	}
	changed := 0
	for k, doc := range packages(t, after) {
		if old[k] != doc {
			changed++
		}
	}
	// A severity is changed in the record, not in the package's advisories.
	if want := done.Changed - done.Kinds["severity"]; changed != want || done.Keys != len(old) || done.Held == 0 || done.Held == done.Changed {
		t.Errorf("%d packages differ, want %d; %+v of %d", changed, want, done, len(old))
	}
}

// packages are the advisories of each key, as one text.
func packages(t *testing.T, dir string) map[string]string {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "trivy.db"), 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	out := map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		return eachPackage(tx, func(bucket, pkg string, b *bolt.Bucket) error {
			text := map[string]string{}
			err := b.ForEach(func(id, advisory []byte) error { text[string(id)] = string(advisory); return nil })
			raw, _ := json.Marshal(text) // strings always marshal
			out[bucket+"\t"+pkg] = string(raw)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPlot: every point is drawn, and names are escaped.
func TestPlot(t *testing.T) {
	s, err := readSeries(strings.NewReader("a<b\t0.01\t3\na<b\t100\t14.5\nc\t1\t0\n"))
	if err != nil {
		t.Fatal(err)
	}
	svg := chart{title: "T & U", x: "x", y: "y", series: s}.svg()
	for want, n := range map[string]int{"<circle": 3, "<polyline": 2, "a&lt;b": 1, "T &amp; U": 2} {
		if got := strings.Count(svg, want); got != n {
			t.Errorf("%d times %q, want %d:\n%s", got, want, n, svg)
		}
	}
	for _, bad := range []string{"", "a\t1", "a\tx\t1", "a\t0\t1"} {
		if _, err := readSeries(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
