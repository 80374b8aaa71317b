package database_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/database"
)

func unpacked(t testing.TB, raw []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := database.Unpack(bytes.NewReader(raw), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestCompare: the counts are those of the two generations, both ways round, and
// a kept pair compares as its files do.
func TestCompare(t *testing.T) {
	s := newSetup(t, database.Config{})
	older, newer := s.mustImport(t, archive(t, "old")), s.mustImport(t, archive(t, "new"))
	dirs := []string{unpacked(t, archive(t, "old")), unpacked(t, archive(t, "new"))}
	got, err := database.Compare(t.Context(), dirs[0], dirs[1])
	if err != nil {
		t.Fatal(err)
	}
	if net := got.Advisories.Appeared - got.Advisories.Gone; net != newer.Counts.Advisories-older.Counts.Advisories || got.Advisories.Gone == 0 || got.Advisories.Changed == 0 {
		t.Errorf("advisories %+v, counts are %+v and %+v", got.Advisories, older.Counts, newer.Counts)
	}
	if net := got.Vulnerabilities.Appeared - got.Vulnerabilities.Gone; net != newer.Counts.Vulnerabilities-older.Counts.Vulnerabilities {
		t.Errorf("vulnerabilities %+v", got.Vulnerabilities)
	}
	if want := (database.ComparedDatabase{Digest: older.Digest, UpdatedAt: oldAt}); got.Old != want {
		t.Errorf("old %+v, want %+v", got.Old, want)
	}
	sum := database.Moves{}
	for _, b := range got.Buckets {
		sum.Appeared, sum.Gone, sum.Changed = sum.Appeared+b.Appeared, sum.Gone+b.Gone, sum.Changed+b.Changed
		for _, e := range [][]string{b.Examples.Appeared, b.Examples.Gone, b.Examples.Changed} {
			if len(e) > 5 {
				t.Errorf("%s: %d examples", b.Bucket, len(e))
			}
		}
		if net := b.Appeared - b.Gone; net != newer.Counts.Roots[b.Bucket]-older.Counts.Roots[b.Bucket] {
			t.Errorf("%+v", b)
		}
	}
	if sum != got.Advisories {
		t.Errorf("buckets sum to %+v, %+v are told", sum, got.Advisories)
	}
	kept, err := s.Compare(t.Context(), "previous", "current")
	if diff := cmp.Diff(got, kept); err != nil || diff != "" {
		t.Errorf("%v, kept ones (-files +kept):\n%s", err, diff)
	}
	back, err := s.Compare(t.Context(), newer.Digest.String(), older.Digest.String())
	if err != nil || back.Advisories.Appeared != got.Advisories.Gone || back.Advisories.Changed != got.Advisories.Changed {
		t.Errorf("%v, the other way round: %+v", err, back.Advisories)
	}
	same, err := database.Compare(t.Context(), dirs[1], dirs[1])
	want := database.Comparison{Old: got.New, New: got.New}
	if diff := cmp.Diff(want, same); err != nil || diff != "" {
		t.Errorf("%v, with itself (-want +got):\n%s", err, diff)
	}
	if _, err := s.Compare(t.Context(), "current", "next"); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// TestCompareWhatCounts: one thing of each kind, and what is no difference.
func TestCompareWhatCounts(t *testing.T) {
	before := unpacked(t, edit(t, "new", newAt, func(path string) {
		update(t, path, func(tx *bolt.Tx) error {
			return errors.Join(
				put(tx, `["Red Hat CPE","cpe","0"]`, `"cpe:/a"`), put(tx, `["Red Hat CPE","cpe","1"]`, `"cpe:/b"`),
				put(tx, `["Red Hat","bash","CVE-1"]`, `{"Entries":[{"FixedVersion":"2","Affected":[0,1]}]}`),
				put(tx, `["lab 1","gone","CVE-1"]`, `{}`), put(tx, `["lab 1","stays","CVE-1"]`, `{"FixedVersion":"1"}`),
				put(tx, `["vulnerability","CVE-1"]`, `{"Title":"x","Description":"y","LastModifiedDate":"2026-01-01T00:00:00Z"}`))
		})
	}))
	after := unpacked(t, edit(t, "new", newAt, func(path string) {
		update(t, path, func(tx *bolt.Tx) error {
			return errors.Join(
				put(tx, `["Red Hat CPE","cpe","0"]`, `"cpe:/new"`), put(tx, `["Red Hat CPE","cpe","1"]`, `"cpe:/a"`), put(tx, `["Red Hat CPE","cpe","2"]`, `"cpe:/b"`),
				put(tx, `["Red Hat","bash","CVE-1"]`, `{"Entries":[{"FixedVersion":"2","Affected":[1,2]}]}`), // the same CPEs
				put(tx, `["lab 1","appeared","CVE-2"]`, `{}`), put(tx, `["lab 1","stays","CVE-1"]`, `{"FixedVersion":"2"}`),
				put(tx, `["vulnerability","CVE-1"]`, `{"Title":"x","Description":"z","LastModifiedDate":"2026-02-01T00:00:00Z"}`),
				put(tx, `["vulnerability","CVE-2"]`, `{"Title":"x"}`))
		})
	}))
	got, err := database.Compare(t.Context(), before, after)
	if err != nil {
		t.Fatal(err)
	}
	got.Old, got.New = database.ComparedDatabase{}, database.ComparedDatabase{}
	want := database.Comparison{
		Advisories: database.Moves{Appeared: 1, Gone: 1, Changed: 1},
		Buckets: []database.BucketMove{{Bucket: "lab 1", Moves: database.Moves{Appeared: 1, Gone: 1, Changed: 1}, Examples: database.Examples{
			Appeared: []string{"appeared CVE-2"}, Gone: []string{"gone CVE-1"}, Changed: []string{"stays CVE-1"},
		}}},
		Vulnerabilities: database.BucketMove{Moves: database.Moves{Appeared: 1}, Examples: database.Examples{Appeared: []string{"CVE-2"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// put writes a value at a path of buckets, given as a JSON list.
func put(tx *bolt.Tx, path, value string) error {
	var names []string
	if err := json.Unmarshal([]byte(path), &names); err != nil {
		return err
	}
	b, err := tx.CreateBucketIfNotExists([]byte(names[0]))
	for _, name := range names[1 : len(names)-1] {
		if err == nil {
			b, err = b.CreateBucketIfNotExists([]byte(name))
		}
	}
	if err != nil {
		return err
	}
	return b.Put([]byte(names[len(names)-1]), []byte(value))
}

// TestCompareDamaged: files from anywhere are verified before they are opened.
func TestCompareDamaged(t *testing.T) {
	good := unpacked(t, archive(t, "old"))
	for name, spoil := range map[string]func(path string){
		"truncated": truncated(t, 1, 2),
		"no bbolt file": func(path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<16), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"empty": emptyDatabase(t),
	} {
		bad := unpacked(t, archive(t, "new"))
		spoil(filepath.Join(bad, "trivy.db"))
		for _, pair := range [][]string{{good, bad}, {bad, good}} {
			if _, err := database.Compare(t.Context(), pair[0], pair[1]); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("%s, at %d: %v", name, slices.Index(pair, bad), err)
			}
		}
	}
	if _, err := database.Compare(t.Context(), good, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
