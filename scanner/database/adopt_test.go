package database_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/database"
)

var (
	oldAt = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	newAt = time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
)

func TestAdoption(t *testing.T) {
	s := newSetup(t, database.Config{})
	if _, err := s.matcher.Engine(); !errors.Is(err, pratique.ErrNoDatabase) {
		t.Fatalf("before the first adoption: %v", err)
	}
	first := s.mustImport(t, archive(t, "old"))
	before, d := s.answer(t.Context(), t)
	if d != first.Digest || !first.UpdatedAt.Equal(oldAt) {
		t.Errorf("answers of %s, status %+v", d, first)
	}
	second := s.mustImport(t, archive(t, "new"))
	after, d := s.answer(t.Context(), t)
	if d != second.Digest || d == first.Digest || second.Previous != first.Digest {
		t.Errorf("answers of %s, status %+v", d, second)
	}
	if before == 0 || after <= before {
		t.Errorf("%d findings with the older database, %d with the newer", before, after)
	}
	if second.Counts.Vulnerabilities != 1894 || second.Counts.Advisories != 5050 {
		t.Errorf("counts %+v, want those that dbbuild printed", second.Counts)
	}
	want := []pratique.Engine{
		{Version: "v0.74.0", Database: first.Digest, DatabaseAt: oldAt},
		{Version: "v0.74.0", Database: second.Digest, DatabaseAt: newAt},
	}
	if diff := cmp.Diff(want, s.adopted); diff != "" {
		t.Errorf("OnAdopt (-want +got):\n%s", diff)
	}
	// The same content again, in another archive: nothing happens.
	fs := read(t, archive(t, "new"))
	again := s.mustImport(t, pack(t, fs[1], fs[0]))
	if again.Digest != second.Digest || len(s.adopted) != 2 {
		t.Errorf("the same content was adopted again: %+v", again)
	}
	// Two are kept.
	third := s.mustImport(t, edit(t, "new", newAt.Add(time.Hour), func(string) {}))
	if diff := cmp.Diff(kept(t, s.dir), sorted(third.Digest.Encoded(), second.Digest.Encoded(), "current")); diff != "" {
		t.Errorf("kept (-got +want):\n%s", diff)
	}
}

func kept(t testing.TB, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

func sorted(s ...string) []string { slices.Sort(s); return s }

// truncated cuts the database file to a share of its length.
func truncated(t *testing.T, num, den int64) func(string) {
	return func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()*num/den); err != nil {
			t.Fatal(err)
		}
	}
}

func drop(t *testing.T, names ...string) func(string) {
	return func(path string) {
		update(t, path, func(tx *bolt.Tx) error {
			for _, n := range names {
				if err := tx.DeleteBucket([]byte(n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// emptyDatabase is a database that trivy opens and that knows nothing.
func emptyDatabase(t *testing.T) func(string) {
	return func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		update(t, path, func(tx *bolt.Tx) error {
			for _, n := range []string{"vulnerability", "data-source"} {
				if _, err := tx.CreateBucket([]byte(n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// thinned deletes two of three packages and of three vulnerability records.
func thinned(t *testing.T) func(string) {
	return func(path string) {
		update(t, path, func(tx *bolt.Tx) error {
			return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
				if string(name) == "data-source" {
					return nil
				}
				var keys [][]byte
				if err := b.ForEach(func(k, _ []byte) error { keys = append(keys, bytes.Clone(k)); return nil }); err != nil {
					return err
				}
				for i, k := range keys {
					if i%3 == 0 {
						continue
					}
					del := b.DeleteBucket
					if string(name) == "vulnerability" {
						del = b.Delete
					}
					if err := del(k); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// refusals are databases that must not be adopted over the old generation.
// force says whether an operator may have it adopted all the same.
func refusals(t *testing.T) []struct {
	name, reason string
	archive      []byte
	force        bool
} {
	good := read(t, archive(t, "new"))
	db, meta := good[0], good[1]
	later := newAt.Add(time.Hour)
	type c = struct {
		name, reason string
		archive      []byte
		force        bool
	}
	return []c{
		{"no advisories, no vulnerabilities", database.ReasonEmpty, edit(t, "new", later, emptyDatabase(t)), false},
		{"an empty file", database.ReasonCorrupt, pack(t, file{name: "trivy.db"}, meta), false},
		{"no vulnerability bucket", database.ReasonEmpty, edit(t, "new", later, drop(t, "vulnerability")), false},
		{"no data-source bucket", database.ReasonEmpty, edit(t, "new", later, drop(t, "data-source")), false},
		{"truncated by a page", database.ReasonCorrupt, pack(t, file{name: "trivy.db", body: cut(db.body, used(t, db.body)-4096)}, meta), false},
		{"truncated in the middle", database.ReasonCorrupt, edit(t, "new", later, truncated(t, 1, 2)), false},
		{"truncated to a tenth", database.ReasonCorrupt, edit(t, "new", later, truncated(t, 1, 10)), false},
		{"truncated to its first page", database.ReasonCorrupt, pack(t, file{name: "trivy.db", body: db.body[:4096]}, meta), false},
		{"not a database", database.ReasonCorrupt, pack(t, file{name: "trivy.db", body: bytes.Repeat([]byte("x"), 1<<16)}, meta), false},
		{"a record that is no JSON", database.ReasonCorrupt, edit(t, "new", later, func(path string) {
			update(t, path, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte("vulnerability")).Put([]byte("CVE-2026-0001"), []byte(`{"Title":`))
			})
		}), false},
		{"older", database.ReasonOlder, edit(t, "new", oldAt.Add(-time.Second), func(string) {}), true},
		{"smaller", database.ReasonSmaller, edit(t, "new", later, thinned(t)), true},
		{"from the future", database.ReasonFuture, edit(t, "new", now.Add(1000*time.Hour), func(string) {}), true},
		{"schema 1", database.ReasonSchema, pack(t, db, metadata(t, 1, later)), false},
		{"schema 3", database.ReasonSchema, pack(t, db, metadata(t, 3, later)), false},
		{"never updated", database.ReasonSchema, pack(t, db, metadata(t, 2, time.Time{})), false},
		{"metadata is no JSON", database.ReasonSchema, pack(t, db, file{name: "metadata.json", body: []byte("{")}), false},
		{"metadata is huge", database.ReasonArchive, pack(t, db, file{name: "metadata.json", body: make([]byte, 1<<17)}), false},
		{"no metadata", database.ReasonArchive, pack(t, db), false},
		{"no database", database.ReasonArchive, pack(t, meta), false},
		{"an empty archive", database.ReasonArchive, pack(t), false},
		{"an extra file", database.ReasonArchive, pack(t, db, meta, file{name: "README", body: []byte("hello")}), false},
		{"an extra file first", database.ReasonArchive, pack(t, file{name: "evil"}, db, meta), false},
		{"twice", database.ReasonArchive, pack(t, db, meta, db), false},
		{"an absolute path", database.ReasonArchive, pack(t, db, meta, file{name: "/etc/pratique-was-here", body: []byte("x")}), false},
		{"an absolute database", database.ReasonArchive, pack(t, file{name: "/trivy.db", body: db.body}, meta), false},
		{"a path upwards", database.ReasonArchive, pack(t, file{name: "../trivy.db", body: db.body}, meta), false},
		{"a subdirectory", database.ReasonArchive, pack(t, file{name: "db/trivy.db", body: db.body}, meta), false},
		{"a symbolic link", database.ReasonArchive, pack(t, file{name: "trivy.db", body: []byte("/etc/passwd"), kind: tar.TypeSymlink}, meta), false},
		{"a hard link", database.ReasonArchive, pack(t, db, file{name: "metadata.json", body: []byte("trivy.db"), kind: tar.TypeLink}), false},
		{"not gzip", database.ReasonArchive, []byte("trivy.db, but not in an archive"), false},
		{"a tar cut short", database.ReasonDigest, archive(t, "new")[:100_000], false},
		{"gzip without its end", database.ReasonDigest, cut(archive(t, "new"), len(archive(t, "new"))-5), false},
		{"bytes behind the archive", database.ReasonArchive, append(archive(t, "new"), "something behind"...), false},
		{"larger than the limit", database.ReasonArchive, pack(t, file{name: "trivy.db", body: append(bytes.Clone(db.body), make([]byte, 8<<20)...)}, meta), false},
	}
}

func cut(b []byte, n int) []byte { return bytes.Clone(b[:n]) }

// used is the number of bytes up to the last page that the file needs.
func used(t *testing.T, body []byte) int {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := 0
	if err := b.View(func(tx *bolt.Tx) error { n = int(tx.Size()); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRefusals: whatever is wrong with a new database, the standing one goes on
// answering, the reason is told, and nothing is left behind.
func TestRefusals(t *testing.T) {
	for _, c := range refusals(t) {
		t.Run(c.name, func(t *testing.T) {
			reg := prometheus.NewPedanticRegistry()
			s := newSetup(t, database.Config{Metrics: reg, MaxBytes: 8 << 20})
			standing := s.mustImport(t, archive(t, "old"))
			before := kept(t, s.dir)
			n, _ := s.answer(t.Context(), t)

			st, err := s.Import(t.Context(), bytes.NewReader(c.archive), false)
			var r *database.Refusal
			if !errors.As(err, &r) || r.Reason != c.reason || !errors.Is(err, pratique.ErrInvalid) {
				t.Fatalf("got %v, want a refusal for %q", err, c.reason)
			}
			if st.Digest != standing.Digest || st.LastError != err.Error() {
				t.Errorf("status %+v", st)
			}
			if m, d := s.answer(t.Context(), t); m != n || d != standing.Digest {
				t.Errorf("%d findings from %s, before %d from %s", m, d, n, standing.Digest)
			}
			if diff := cmp.Diff(before, kept(t, s.dir)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
			if got := testutil.CollectAndCount(reg, "pratique_database_refusals_total"); got != 1 {
				t.Errorf("%d refusals counted", got)
			}

			_, err = s.Import(t.Context(), bytes.NewReader(c.archive), true)
			if forced := err == nil; forced != c.force {
				t.Errorf("with force: %v", err)
			}
		})
	}
}

// TestRefusalsWithoutStanding: nor is any of them good enough for a start.
func TestRefusalsWithoutStanding(t *testing.T) {
	for _, c := range refusals(t) {
		if c.reason == database.ReasonOlder || c.reason == database.ReasonSmaller {
			continue // relative to a standing database
		}
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, database.Config{MaxBytes: 8 << 20})
			_, err := s.Import(t.Context(), bytes.NewReader(c.archive), false)
			var r *database.Refusal
			if !errors.As(err, &r) || r.Reason != c.reason {
				t.Fatalf("got %v, want a refusal for %q", err, c.reason)
			}
			if _, _, err := s.matcher.Match(t.Context(), []pratique.Component{probe()}); !errors.Is(err, pratique.ErrNoDatabase) {
				t.Errorf("match: %v", err)
			}
		})
	}
}

// TestDamage writes nonsense over random places of the file. Whatever comes in,
// the process lives and the matcher answers or errs; what was adopted can be
// read to its end.
func TestDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	body := read(t, archive(t, "new"))[0].body
	size := used(t, body)
	s := newSetup(t, database.Config{})
	s.mustImport(t, archive(t, "old"))
	refused := 0
	const rounds = 60
	for range rounds {
		b := bytes.Clone(body)
		at := rng.IntN(size)
		switch rng.IntN(3) {
		case 0: // a header, where numbers point elsewhere
			at = at / 4096 * 4096
			for i := range 32 {
				b[at+i] = byte(rng.Uint32())
			}
		case 1:
			for i := at; i < min(at+rng.IntN(4096)+1, size); i++ {
				b[i] = byte(rng.Uint32())
			}
		case 2:
			copy(b[at:min(at+8192, size)], make([]byte, 8192))
		}
		raw := pack(t, file{name: "trivy.db", body: b}, metadata(t, 2, newAt))
		if _, err := s.Import(t.Context(), bytes.NewReader(raw), true); err != nil {
			var r *database.Refusal
			if !errors.As(err, &r) {
				t.Fatal(err)
			}
			refused++
			continue
		}
		if _, _, err := s.matcher.Match(t.Context(), []pratique.Component{probe()}); err != nil {
			t.Errorf("adopted and not readable: %v", err)
		}
	}
	if refused < rounds/2 {
		t.Errorf("%d of %d damaged databases were refused", refused, rounds)
	}
}

func TestStatusJSON(t *testing.T) {
	s := newSetup(t, database.Config{})
	raw, err := json.Marshal(s.Status())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"kind":"vulnerability"}`, string(raw)); diff != "" {
		t.Error(diff)
	}
	s.mustImport(t, archive(t, "new"))
	if got, want := s.Status().Age, now.Sub(newAt); got != want {
		t.Errorf("age %s, want %s", got, want)
	}
}
