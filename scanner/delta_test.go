package scanner_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/database"
	"pratique/scanner/match"
)

// TestDelta holds what a comparison of two databases says is concerned against the
// whole: for random fleets and random pairs of databases, every component of which
// the second says something else has one of the keys, or one of the
// vulnerabilities, that the comparison tells. PAIRS is how many pairs; if unset, 50.
// A failure names the seed, which SEED repeats.
func TestDelta(t *testing.T) {
	pairs, first := deltaPairs(t)
	u := newUniverse(t)
	m := match.New(match.Config{Now: func() time.Time { return deltaNow }, Log: slog.New(slog.DiscardHandler)})
	defer m.Close()
	var sum struct{ components, changed, concerned, failed int }
	kinds := make(map[pratique.ChangeKind]int)
	moved := make(map[string]int)
	for seed := first; seed < first+uint64(pairs); seed++ {
		u.Rand = rand.New(rand.NewPCG(seed, 2026))
		from := u.database()
		to := from.clone()
		mutations := u.mutate(to)
		fleet := u.fleet()
		a, b := writeDatabase(t, from), writeDatabase(t, to)
		diff, err := database.DiffFiles(t.Context(), a, b)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		before, after := matchFleet(t, m, a, fleet), matchFleet(t, m, b, fleet)
		keys, ids := set(diff.Keys), set(diff.Vulnerabilities)
		for i, c := range fleet {
			concerned := diff.All || slices.ContainsFunc(c.Keys(), func(k string) bool { return keys[k] }) ||
				slices.ContainsFunc(before[i].found, func(v pratique.Vulnerability) bool { return ids[v.ID] })
			changed := !reflect.DeepEqual(before[i].found, after[i].found) || before[i].failed != after[i].failed
			sum.components++
			if concerned {
				sum.concerned++
			}
			if after[i].failed {
				sum.failed++
			}
			if !changed {
				continue
			}
			sum.changed++
			for _, x := range pratique.VulnerabilityChanges(before[i].found, after[i].found) {
				kinds[x.Kind]++
			}
			moved[c.Context.Type]++
			if !concerned {
				t.Errorf("seed %d: %s %s (%s %s): %v became %v, and is not concerned after %q", seed, c.Name, c.Version, c.Context.Type, c.Context.Name, before[i], after[i], mutations)
			}
		}
		for _, dir := range []string{a, b} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d pairs: %d components, %d changed, %d concerned, %d failed; %v; %v", pairs, sum.components, sum.changed, sum.concerned, sum.failed, kinds, moved)
	if pairs < 50 {
		return
	}
	// What never happens proves nothing.
	for _, k := range []pratique.ChangeKind{pratique.ChangeAppeared, pratique.ChangeGone, pratique.ChangeStatus, pratique.ChangeFixed, pratique.ChangeSeverity} {
		if kinds[k] == 0 {
			t.Errorf("no finding changed by %s", k)
		}
	}
	for _, r := range u.rules {
		if moved[r.kind] == 0 && pairs >= 1000 {
			t.Errorf("no component of %s changed", r.kind)
		}
	}
	if sum.concerned == sum.components {
		t.Error("everything is always concerned")
	}
}

// deltaPairs reads PAIRS and SEED.
func deltaPairs(t *testing.T) (pairs int, first uint64) {
	t.Helper()
	pairs, first = 50, 1
	for name, use := range map[string]func(n uint64){"PAIRS": func(n uint64) { pairs = int(n) }, "SEED": func(n uint64) { first, pairs = n, 1 }} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 31)
			if err != nil {
				t.Fatal(err)
			}
			use(n)
		}
	}
	return pairs, first
}

func set(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

var deltaNow = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

// answer is what a database says of a component.
type answer struct {
	found  []pratique.Vulnerability
	failed bool
}

// matchFleet adopts a database and asks it about every component, those that cannot
// be matched together one by one.
func matchFleet(t *testing.T, m *match.Matcher, dir string, cs []pratique.Component) []answer {
	t.Helper()
	if err := m.Adopt(t.Context(), dir, digest.FromString(dir)); err != nil {
		t.Fatal(err)
	}
	out := make([]answer, len(cs))
	var ask func(from, to int)
	ask = func(from, to int) {
		found, _, err := m.Match(t.Context(), cs[from:to])
		switch {
		case err == nil:
			for i, vs := range found {
				out[from+i].found = vs
			}
		case to-from == 1:
			out[from].failed = true
		default:
			ask(from, (from+to)/2)
			ask((from+to)/2, to)
		}
	}
	ask(0, len(cs))
	return out
}

// boltContent is a small database: root bucket, package or other bucket (none: the
// root's own values), key.
type boltContent map[string]map[string]map[string]string

func (c boltContent) put(root, inner, key, value string) {
	if c[root] == nil {
		c[root] = make(map[string]map[string]string)
	}
	if c[root][inner] == nil {
		c[root][inner] = make(map[string]string)
	}
	c[root][inner][key] = value
}

func (c boltContent) clone() boltContent {
	out := make(boltContent)
	for root, inner := range c {
		for name, values := range inner {
			for k, v := range values {
				out.put(root, name, k, v)
			}
		}
	}
	return out
}

// roots are those of advisories, in order.
func (c boltContent) roots() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c)), func(name string) bool { return !match.IsAdvisoryRoot(name) })
}

func readDatabase(t testing.TB, path string) boltContent {
	t.Helper()
	b, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := make(boltContent)
	err = b.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(root []byte, r *bolt.Bucket) error {
			return r.ForEach(func(k, v []byte) error {
				if v != nil {
					c.put(string(root), "", string(k), string(v))
					return nil
				}
				return r.Bucket(k).ForEach(func(id, v []byte) error {
					c.put(string(root), string(k), string(id), string(v))
					return nil
				})
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writeDatabase makes one in a new directory.
func writeDatabase(t testing.TB, c boltContent) string {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := bolt.Open(filepath.Join(dir, "trivy.db"), 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, InitialMmapSize: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bolt.Tx) error {
		for root, inner := range c {
			r, err := tx.CreateBucketIfNotExists([]byte(root))
			if err != nil {
				return err
			}
			for name, values := range inner {
				in := r
				if name != "" {
					if in, err = r.CreateBucketIfNotExists([]byte(name)); err != nil {
						return err
					}
				}
				for k, v := range values {
					if err := in.Put([]byte(k), []byte(v)); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err == nil {
		err = b.Close()
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "metadata.json"), []byte(`{"Version":2,"UpdatedAt":"2026-11-22T06:00:00Z","NextUpdate":"2026-11-23T06:00:00Z"}`), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sampleComponents are those of all sample images, as stored.
func sampleComponents(t *testing.T) []pratique.Component {
	t.Helper()
	sc := bufio.NewScanner(bytes.NewReader(unzstd(t, testdata, "database", "inventories.jsonl.zst")))
	sc.Buffer(nil, 64<<20)
	seen := make(map[pratique.ComponentID]bool)
	var out []pratique.Component
	for sc.Scan() {
		var img struct{ Inventory pratique.Inventory }
		if err := json.Unmarshal(sc.Bytes(), &img); err != nil {
			t.Fatal(err)
		}
		cs, _ := img.Inventory.Components()
		for _, c := range cs {
			if id := c.ID(); !seen[id] {
				seen[id] = true
				out = append(out, c)
			}
		}
	}
	if err := sc.Err(); err != nil || len(out) < 500 {
		t.Fatalf("%d components, %v", len(out), err)
	}
	return out
}

// TestDeltaSamples does the same with all components of the sample images and the
// two generations of the test database.
func TestDeltaSamples(t *testing.T) {
	m := match.New(match.Config{Now: func() time.Time { return deltaNow }})
	defer m.Close()
	cs := sampleComponents(t)
	dirs := []string{unpackDatabase(t, "old"), unpackDatabase(t, "new")}
	for _, way := range [][2]int{{0, 1}, {1, 0}} {
		from, to := dirs[way[0]], dirs[way[1]]
		diff, err := database.DiffFiles(t.Context(), from, to)
		if err != nil {
			t.Fatal(err)
		}
		before, after := matchFleet(t, m, from, cs), matchFleet(t, m, to, cs)
		keys, ids := set(diff.Keys), set(diff.Vulnerabilities)
		changed, concerned := 0, 0
		for i, c := range cs {
			is := slices.ContainsFunc(c.Keys(), func(k string) bool { return keys[k] }) ||
				slices.ContainsFunc(before[i].found, func(v pratique.Vulnerability) bool { return ids[v.ID] })
			if is {
				concerned++
			}
			if !reflect.DeepEqual(before[i], after[i]) {
				changed++
				if !is {
					t.Errorf("%s %s (%s): %v became %v, and is not concerned", c.Name, c.Version, c.Context.Type, before[i], after[i])
				}
			}
		}
		t.Logf("%d components, %d changed, %d concerned", len(cs), changed, concerned)
		if changed == 0 || concerned == len(cs) {
			t.Errorf("%d changed, %d of %d concerned", changed, concerned, len(cs))
		}
	}
}

func unpackDatabase(t *testing.T, generation string) string {
	t.Helper()
	dir := t.TempDir()
	r, err := database.OpenPath(filepath.Join(testdata, "database", generation+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	gz, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	eachFile(t, gz, func(name string, body []byte) {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), body, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return dir
}
