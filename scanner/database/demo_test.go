package database_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"pratique"
	"pratique/scanner/database"
)

// TestDemo holds the database that ships with the product against what `make
// run` promises: it is adopted on a machine that has none, some samples have
// critical vulnerabilities with a fix, others have none.
func TestDemo(t *testing.T) {
	s := newSetup(t, database.Config{Path: "../../configs/demo/trivy-db.tar.gz"})
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if age := s.Status().UpdatedAt; !age.Equal(time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)) {
		t.Errorf("updated at %s", age)
	}
	f, err := os.Open(filepath.Join(testdata, "database", "inventories.jsonl.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 64<<20)
	critical := make(map[string]int)
	for sc.Scan() {
		var img struct {
			Name      string
			Inventory pratique.Inventory
		}
		if err := json.NewDecoder(bytes.NewReader(sc.Bytes())).Decode(&img); err != nil {
			t.Fatal(err)
		}
		cs, _ := img.Inventory.Components()
		found, _, err := s.matcher.Match(t.Context(), cs)
		if err != nil {
			t.Fatal(err)
		}
		critical[img.Name] = 0
		for _, vs := range found {
			for _, v := range vs {
				if v.Severity == pratique.SeverityCritical && v.Fixed != "" {
					critical[img.Name]++
				}
			}
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"bitnami-sbom": 3, "distroless-amd64-skeleton": 0, "distroless-arm64-skeleton": 0, "debian-trixie-skeleton": 0, "healthy": 0}
	for name, n := range want {
		if got, ok := critical[name]; !ok || got != n {
			t.Errorf("%s: %d critical vulnerabilities with a fix, want %d", name, got, n)
		}
	}
}
