package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

// asleep scans nothing: its jobs stay to be counted.
type asleep struct{ scheduler.Scanner }

// TestUpgradeIsReadAgain: after an upgrade of the analyzers what is cached is read
// again, once, also over a restart; what was evicted is not fetched for it.
func TestUpgradeIsReadAgain(t *testing.T) {
	state, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })

	image := func(n int, analyzer string, cached bool) digest.Digest {
		layer := []byte(fmt.Sprint("layer ", n))
		l := pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: digest.FromBytes(layer), Size: int64(len(layer))}
		config := digest.FromString(fmt.Sprint("config ", n))
		raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`, config, l.MediaType, l.Digest, l.Size)
		img, err := pratique.ParseManifest("application/vnd.oci.image.manifest.v1+json", raw)
		if err != nil {
			t.Fatal(err)
		}
		if cached {
			if err := blobs.Put(t.Context(), l.Digest, layer); err != nil {
				t.Fatal(err)
			}
		}
		if err := state.Link(t.Context(), pratique.Ref{Registry: "lab", Repo: "app"}, img, time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := state.PutReport(t.Context(), pratique.Report{Image: img.Digest, State: pratique.StateScanned, ScannedAt: time.Now(), Engine: pratique.Engine{Analyzer: analyzer}}); err != nil {
			t.Fatal(err)
		}
		return img.Digest
	}
	former := image(1, "trivy-v1-aa", true)
	image(2, "trivy-v1-aa", false) // evicted
	image(3, "trivy-v2-bb", true)  // read by the new ones

	queued := func() []digest.Digest {
		var out []digest.Digest
		for {
			j, err := state.Take(t.Context(), time.Now(), time.Minute)
			if err != nil {
				slices.Sort(out)
				return out
			}
			out = append(out, j.Ref.Digest)
			if err := state.Finish(t.Context(), j, nil, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin := func(key string) []digest.Digest {
		quiet := slog.New(slog.DiscardHandler)
		r := reanalysis{
			scans: scheduler.New(state, asleep{}, state, scheduler.Config{Log: quiet}),
			state: state, blobs: blobs, key: func() string { return key }, log: quiet,
		}
		if err := r.upgraded(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
		return queued()
	}
	for _, step := range []struct {
		name, key string
		want      []digest.Digest
	}{
		{"the first start notes what reads", "trivy-v1-aa", nil},
		{"other options are no upgrade", "trivy-v1-cc", nil},
		{"an upgrade", "trivy-v2-bb", []digest.Digest{former}},
		{"and no second time", "trivy-v2-bb", nil},
	} {
		if d := cmp.Diff(step.want, begin(step.key)); d != "" {
			t.Errorf("%s: %s", step.name, d)
		}
	}
}
