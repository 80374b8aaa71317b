package database_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/database"
)

// offered runs an Artifact of s until the test ends.
func offered(t testing.TB, s *setup) *database.Artifact {
	t.Helper()
	a := database.NewArtifact(s.Database)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return a
}

// settle waits until the tag names a copy of the database.
func settle(t testing.TB, a *database.Artifact, of digest.Digest) database.ArtifactStatus {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		st := a.Status()
		if st.Database == of && st.Digest != "" {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %+v, want a copy of %s", st, of)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// layerOf reads the manifest with this reference and its layer.
func layerOf(t testing.TB, a *database.Artifact, reference string) (v1.Manifest, []byte) {
	t.Helper()
	mediaType, raw, err := a.Manifest(t.Context(), reference)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || mediaType != pratique.MediaTypeImageManifest {
		t.Fatalf("%s, %v: %s", mediaType, err, raw)
	}
	for _, d := range []v1.Descriptor{m.Config, m.Layers[0]} {
		if body := blobOf(t, a, digest.Digest(d.Digest.String())); int64(len(body)) != d.Size {
			t.Errorf("%d bytes, the manifest says %+v", len(body), d)
		}
	}
	return m, blobOf(t, a, digest.Digest(m.Layers[0].Digest.String()))
}

func blobOf(t testing.TB, a *database.Artifact, d digest.Digest) []byte {
	t.Helper()
	size, open, err := a.Blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil || int64(len(body)) != size || digest.FromBytes(body) != d {
		t.Fatalf("blob %s: %d of %d bytes, %v", d, len(body), size, err)
	}
	return body
}

// TestArtifact: the database in use under the tag, the one before by its digest
// until the next adoption, the same bytes after a restart and from another
// Pratique, and what was downloaded is a database again.
func TestArtifact(t *testing.T) {
	s := newSetup(t, database.Config{})
	a := offered(t, s)
	if _, _, err := a.Manifest(t.Context(), "2"); !errors.Is(err, pratique.ErrPending) {
		t.Errorf("without a database: %v", err)
	}
	older := s.mustImport(t, archive(t, "old")).Digest
	first := settle(t, a, older)
	m, layer := layerOf(t, a, "2")
	if m.Config.MediaType != "application/vnd.aquasec.trivy.config.v1+json" || m.Layers[0].MediaType != layerType || len(m.Layers) != 1 {
		t.Errorf("manifest %+v", m)
	}
	if err := database.VerifyExport(bytes.NewReader(layer), older); err != nil {
		t.Error(err)
	}
	fs := read(t, layer)
	if len(fs) != 2 || fs[0].name != "trivy.db" || !bytes.Equal(fs[0].body, read(t, archive(t, "old"))[0].body) || fs[1].name != "metadata.json" {
		t.Errorf("the layer holds other files")
	}

	newer := s.mustImport(t, archive(t, "new")).Digest
	second := settle(t, a, newer)
	if _, again := layerOf(t, a, first.Digest.String()); !bytes.Equal(again, layer) {
		t.Error("a client in the middle of the former one is cut")
	}
	for _, reference := range []string{"1", "latest", "", digest.FromString("x").String(), newer.String()} {
		if _, _, err := a.Manifest(t.Context(), reference); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("manifest %q: %v", reference, err)
		}
	}
	for _, d := range []digest.Digest{digest.FromString("x"), newer, second.Digest} {
		if _, _, err := a.Blob(t.Context(), d); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("blob %s: %v", d, err)
		}
	}
	// Back and forth: the copies are there.
	if _, err := s.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := settle(t, a, older); st.Digest != first.Digest {
		t.Errorf("rolled back: %+v, want %+v", st, first)
	}
	if _, err := s.UndoRollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	settle(t, a, newer)

	// Imported again, it replaces the one that is kept, copy and all.
	for _, g := range []string{"old", "new"} {
		if _, err := s.Import(t.Context(), bytes.NewReader(archive(t, g)), true); err != nil {
			t.Fatal(err)
		}
		want := map[string]database.ArtifactStatus{"old": first, "new": second}[g]
		settle(t, a, want.Database)
		deadline := time.Now().Add(30 * time.Second)
		for { // until what was replaced is noticed and made again
			_, err := os.Stat(filepath.Join(s.dir, want.Database.Encoded(), "copy.json"))
			if _, _, merr := a.Manifest(t.Context(), want.Digest.String()); err == nil && merr == nil || time.Now().After(deadline) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		if _, body := layerOf(t, a, want.Digest.String()); g == "old" && !bytes.Equal(body, layer) {
			t.Error("imported again it is another copy")
		}
	}

	// A restart finds them; a damaged one is made again.
	if err := s.matcher.Close(); err != nil {
		t.Fatal(err)
	}
	truncated(t, 1, 2)(filepath.Join(s.dir, newer.Encoded(), "db.tar.gz"))
	again := newSetup(t, database.Config{Dir: s.dir})
	b := offered(t, again)
	if err := again.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := settle(t, b, newer); st.Digest != second.Digest {
		t.Errorf("after a restart: %+v, want %+v", st, second)
	}
	layerOf(t, b, "2")
	layerOf(t, b, first.Digest.String())

	// What is adopted next ends the oldest; its files go with it.
	third := again.mustImport(t, edit(t, "new", newAt.Add(time.Hour), func(string) {})).Digest
	settle(t, b, third)
	if _, _, err := b.Manifest(t.Context(), first.Digest.String()); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("the oldest: %v", err)
	}
	if es := kept(t, s.dir); len(es) != 3 {
		t.Errorf("left behind: %v", es)
	}
	if err := again.matcher.Close(); err != nil {
		t.Fatal(err)
	}

	// Another Pratique that has it from here serves the same bytes.
	other := newSetup(t, database.Config{})
	c := offered(t, other)
	if got := other.mustImport(t, layer).Digest; got != older {
		t.Errorf("imported as %s, want %s", got, older)
	}
	if st := settle(t, c, older); st.Digest != first.Digest {
		t.Errorf("another one serves %+v, want %+v", st, first)
	}
}

// TestArtifactFails: a copy that cannot be made is told as not there, and neither
// the database nor the one before it under its digest is concerned.
func TestArtifactFails(t *testing.T) {
	s := newSetup(t, database.Config{})
	older := s.mustImport(t, archive(t, "old")).Digest
	a := offered(t, s)
	first := settle(t, a, older)
	newer := s.mustImport(t, archive(t, "new")).Digest
	settle(t, a, newer)
	if err := s.matcher.Close(); err != nil {
		t.Fatal(err)
	}
	// Its copy is gone and a directory lies where the next would be written.
	dir := filepath.Join(s.dir, newer.Encoded())
	for _, err := range []error{
		os.Remove(filepath.Join(dir, "copy.json")), os.Mkdir(filepath.Join(dir, ".staging-db.tar.gz"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	again := newSetup(t, database.Config{Dir: s.dir})
	b := offered(t, again)
	if err := again.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for b.Status().LastError == "" && time.Now().Before(deadline) {
		time.Sleep(2 * time.Millisecond)
	}
	var later interface{ Delay() time.Duration }
	if _, _, err := b.Manifest(t.Context(), "2"); !errors.As(err, &later) || !strings.Contains(err.Error(), "could not be made") {
		t.Errorf("%v", err)
	}
	layerOf(t, b, first.Digest.String())
	again.answer(t.Context(), t)
}

// TestExport: what is exported is the database asked for, and importable; one that
// was damaged on disk is never whole.
func TestExport(t *testing.T) {
	s := newSetup(t, database.Config{})
	older := s.mustImport(t, archive(t, "old")).Digest
	newer := s.mustImport(t, archive(t, "new")).Digest
	for which, want := range map[string]digest.Digest{"": newer, "current": newer, "previous": older, older.String(): older, newer.String(): newer} {
		var buf bytes.Buffer
		var told digest.Digest
		if err := s.Export(t.Context(), which, func(d digest.Digest) { told = d }, &buf); err != nil || told != want {
			t.Fatalf("%s: %s, %v", which, told, err)
		}
		raw := buf.Bytes()
		if err := database.VerifyExport(bytes.NewReader(raw), want); err != nil {
			t.Errorf("%s: %v", which, err)
		}
		var meta struct{ DownloadedAt time.Time }
		if err := json.Unmarshal(read(t, raw)[1].body, &meta); err != nil || !meta.DownloadedAt.Equal(now) { // else the trivy CLI holds it to be corrupt
			t.Errorf("metadata %s", read(t, raw)[1].body)
		}
		bad := bytes.Clone(raw)
		bad[len(bad)/2] ^= 1
		for name, broken := range map[string][]byte{"cut": raw[:len(raw)-20], "half": raw[:len(raw)/2], "turned": bad, "empty": nil, "another": archive(t, map[digest.Digest]string{older: "new", newer: "old"}[want])} {
			if err := database.VerifyExport(bytes.NewReader(broken), want); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("%s, %s: %v", which, name, err)
			}
		}
	}
	for _, which := range []string{"next", digest.FromString("x").String(), "../" + older.Encoded()} {
		if err := s.Export(t.Context(), which, func(digest.Digest) { t.Error("something follows") }, io.Discard); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("%s: %v", which, err)
		}
	}
	path := filepath.Join(s.dir, older.Encoded(), "trivy.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := s.Export(t.Context(), "previous", nil, &buf); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("a damaged one: %v", err)
	}
	if err := database.VerifyExport(&buf, older); err == nil {
		t.Error("a damaged one is whole")
	}
}
