package database_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/database"
	"pratique/scanner/match"
)

const testdata = "../../testdata"

// now is after both generations of the test database.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func archive(t testing.TB, generation string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(testdata, "database", generation+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// files are the entries of an archive, in order.
type file struct {
	name string
	body []byte
	kind byte // tar type; zero: a file
}

func read(t testing.TB, archive []byte) []file {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	var out []file
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, file{name: h.Name, body: body})
	}
}

func pack(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	gz, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(gz)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		if f.kind != 0 {
			h.Typeflag = f.kind
		}
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
			h.Linkname, h.Size = string(f.body), 0
			f.body = nil
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func metadata(t testing.TB, version int, updated time.Time) file {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"Version": version, "UpdatedAt": updated, "NextUpdate": updated.Add(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return file{name: "metadata.json", body: raw}
}

// edit returns the generation's archive with its trivy.db changed.
func edit(t testing.TB, generation string, updated time.Time, change func(path string)) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trivy.db")
	if err := os.WriteFile(path, read(t, archive(t, generation))[0].body, 0o600); err != nil {
		t.Fatal(err)
	}
	change(path)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return pack(t, file{name: "trivy.db", body: raw}, metadata(t, 2, updated))
}

func update(t testing.TB, path string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	b, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Update(fn); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// setup is a Database in front of a real Matcher.
type setup struct {
	*database.Database
	matcher *match.Matcher
	dir     string
	adopted []pratique.Engine
}

func newSetup(t testing.TB, cfg database.Config) *setup {
	t.Helper()
	s := &setup{dir: cfg.Dir}
	if s.dir == "" {
		s.dir = filepath.Join(t.TempDir(), "databases")
	}
	quiet := slog.New(slog.DiscardHandler)
	s.matcher = match.New(match.Config{Now: func() time.Time { return now }, Log: quiet})
	t.Cleanup(func() {
		if err := s.matcher.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Dir, cfg.Log = s.dir, quiet
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return now }
	}
	cfg.OnAdopt = func(_, next pratique.Engine) { s.adopted = append(s.adopted, next) }
	s.Database = database.New(cfg, s.matcher)
	return s
}

// mustImport imports what is known to be good.
func (s *setup) mustImport(t testing.TB, raw []byte) database.Status {
	t.Helper()
	st, err := s.Import(t.Context(), bytes.NewReader(raw), false)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// openssl is a package that the two generations know different things of.
func probe() pratique.Component {
	return pratique.Component{
		Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12.15"},
		Name:    "libssl3", Version: "3.0.11-1~deb12u2", SrcName: "openssl", SrcVersion: "3.0.11-1~deb12u2",
	}
}

// answer is what the matcher says of the probe now, with the database's digest.
func (s *setup) answer(ctx context.Context, t testing.TB) (int, digest.Digest) {
	t.Helper()
	found, e, err := s.matcher.Match(ctx, []pratique.Component{probe()})
	if err != nil {
		t.Fatal(err)
	}
	return len(found[0]), e.Database
}

func jsonOf(v any) ([]byte, error) { return json.Marshal(v) }
