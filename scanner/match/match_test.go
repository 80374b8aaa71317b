package match_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/match"
)

const testdata = "../../testdata"

// image is one of testdata/images as analysis and merge give it.
type image struct {
	Name      string
	Inventory pratique.Inventory
}

func images(t testing.TB) []image {
	t.Helper()
	sc := bufio.NewScanner(bytes.NewReader(unzstd(t, filepath.Join(testdata, "database", "inventories.jsonl.zst"))))
	sc.Buffer(nil, 64<<20)
	var out []image
	for sc.Scan() {
		var i image
		if err := json.Unmarshal(sc.Bytes(), &i); err != nil {
			t.Fatal(err)
		}
		out = append(out, i)
	}
	if len(out) < 20 {
		t.Fatalf("%d images in inventories.jsonl.zst", len(out))
	}
	return out
}

func unzstd(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// expected returns the lines of testdata/expected/findings.tar.zst by image and
// database: type, package, installed, id, severity, status, fixed, path.
func expected(t testing.TB) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	tr := tar.NewReader(bytes.NewReader(unzstd(t, filepath.Join(testdata, "expected", "findings.tar.zst"))))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(h.Name), ".txt")] = strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	}
}

// unpack extracts one of the two generations of the test database.
func unpack(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join(testdata, "database", name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// matcher returns a Matcher, with the database in dir adopted unless it is "".
func matcher(t testing.TB, dir string) *match.Matcher {
	t.Helper()
	m := match.New(match.Config{Now: func() time.Time { return time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC) }})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if dir != "" {
		if err := m.Adopt(t.Context(), dir, digest.FromString(dir)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// lines matches the image's components and writes the join as expected does.
func lines(ctx context.Context, m *match.Matcher, inv pratique.Inventory) ([]string, error) {
	cs, occurrences := inv.Components()
	found, _, err := m.Match(ctx, cs)
	if err != nil {
		return nil, err
	}
	at := make(map[pratique.ComponentID]int)
	for i, c := range cs {
		at[c.ID()] = i
	}
	var out []string
	for _, o := range occurrences {
		i := at[o.Component]
		for _, v := range found[i] {
			out = append(out, strings.Join([]string{
				cs[i].Context.Type, cs[i].Name, o.Installed, v.ID, string(v.Severity), v.Status, v.Fixed, o.Path,
			}, "\t"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// TestFindings is the oracle: component by component, the findings are those
// that the trivy program has for the whole image.
func TestFindings(t *testing.T) {
	want := expected(t)
	for _, generation := range []string{"old", "new"} {
		t.Run(generation, func(t *testing.T) {
			m := matcher(t, unpack(t, generation))
			total := 0
			for _, img := range images(t) {
				got, err := lines(t.Context(), m, img.Inventory)
				if err != nil {
					t.Fatalf("%s: %v", img.Name, err)
				}
				if diff := cmp.Diff(want[img.Name+"."+generation], got); diff != "" {
					t.Errorf("%s (-trivy +pratique):\n%s", img.Name, diff)
				}
				total += len(got)
			}
			if total < 300 {
				t.Errorf("%d findings in all: the database or the images are not what they were", total)
			}
		})
	}
}
