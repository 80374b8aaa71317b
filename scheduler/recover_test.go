package scheduler_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

// TestImagesWithoutReportAreScanned: a process that was killed between the
// manifest's link and the job leaves an image that nobody would scan before
// somebody asked again.
func TestImagesWithoutReportAreScanned(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	link := func(name string, kind pratique.ImageKind) digest.Digest {
		img := pratique.Image{
			Digest: digest.FromString(name), Kind: kind, MediaType: pratique.MediaTypeImageManifest,
			Config: pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: digest.FromString("config of " + name)},
		}
		if kind == pratique.KindArtifact {
			img.ArtifactType, img.Config.MediaType = "application/x-signature", "application/vnd.oci.empty.v1+json"
		}
		if err := db.Link(t.Context(), pratique.Ref{Registry: "docker.io", Repo: "r"}, img, time.Now()); err != nil {
			t.Fatal(err)
		}
		return img.Digest
	}
	forgotten, artifact, reported := link("forgotten", pratique.KindImage), link("signature", pratique.KindArtifact), link("reported", pratique.KindImage)
	before := time.Now().Add(-time.Hour).UTC()
	if _, err := db.PutReport(t.Context(), pratique.Report{Image: reported, State: pratique.StateScanned, ScannedAt: before}); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	catalog := &flaky{DB: db, failures: 1}
	s := scheduler.New(db, stateScanner{db: db}, db, scheduler.Config{
		Catalog: catalog, Backoff: time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := db.Report(t.Context(), forgotten); err == nil {
			break
		} else if !errors.Is(err, pratique.ErrNotFound) || time.Now().After(deadline) {
			t.Fatalf("the forgotten image has no report: %v", err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := db.Report(t.Context(), artifact); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("an artifact was scanned: %v", err)
	}
	if r, err := db.Report(t.Context(), reported); err != nil || !r.ScannedAt.Equal(before) {
		t.Errorf("an image with a report was scanned again: %v %v", r.ScannedAt, err)
	}
}

// flaky is a catalog whose first lists end in an error.
type flaky struct {
	*sqlite.DB
	failures int // owned by the one goroutine that lists
}

func (f *flaky) Images(ctx context.Context) iter.Seq2[store.Known, error] {
	if f.failures > 0 {
		f.failures--
		return func(yield func(store.Known, error) bool) {
			yield(store.Known{}, errors.New("the state does not answer"))
		}
	}
	return f.DB.Images(ctx)
}
