package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// TestArchives: whole or not at all, over a driver that shows what is not finished
// and one that replicas would share.
func TestArchives(t *testing.T) {
	for name, cfg := range map[string]store.BlobsConfig{
		"filesystem": {Parameters: map[string]any{"rootdirectory": t.TempDir()}},
		"inmemory":   {Driver: "inmemory", Spool: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := store.OpenBlobs(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			testArchives(t, b)
		})
	}
}

func testArchives(t *testing.T, b *store.Blobs) {
	ctx := t.Context()
	a, other := store.NewArchives(b, "vulnerability"), store.NewArchives(b, "java")
	raw := bytes.Repeat([]byte("database"), 1<<17)
	d := digest.FromBytes(raw)
	opened := 0
	of := func(raw []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { opened++; return io.NopCloser(bytes.NewReader(raw)), nil }
	}
	absent := func(what string) {
		t.Helper()
		if _, _, err := a.Open(ctx, d); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := a.Keep(ctx, time.Now()); err != nil {
		t.Error(err)
	}
	absent("before it was put")
	for what, bad := range map[string][]byte{"shorter": raw[1:], "longer": append(raw[:len(raw):len(raw)], 'x'), "other": append(raw[1:len(raw):len(raw)], 'x')} {
		if err := a.Put(ctx, d, int64(len(raw)), false, of(bad)); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("%s: %v", what, err)
		}
		absent(what)
	}
	if err := a.Put(ctx, "sha256:../../x", 1, false, of(raw)); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("a name that is no digest: %v", err)
	}
	opened = 0
	put := func(again bool) {
		t.Helper()
		if err := a.Put(ctx, d, int64(len(raw)), again, of(raw)); err != nil {
			t.Fatal(err)
		}
		r, size, err := a.Open(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) || size != int64(len(raw)) {
			t.Errorf("%d bytes of %d, %v", len(got), size, err)
		}
	}
	put(false)
	put(false)
	if opened != 1 {
		t.Errorf("written %d times", opened)
	}
	put(true)
	if opened != 2 {
		t.Error("not written again")
	}
	// They are no blobs: nothing that cares for blobs sees them.
	if err := b.Walk(ctx, func(d digest.Digest, _ int64, _ time.Time) error { return errors.New(d.String()) }); err != nil {
		t.Errorf("walked: %v", err)
	}
	keep := func(a *store.Archives, before time.Time, ds ...digest.Digest) {
		t.Helper()
		if err := a.Keep(ctx, before, ds...); err != nil {
			t.Error(err)
		}
	}
	later := time.Now().Add(time.Hour)
	keep(other, later)
	keep(a, later, digest.FromString("other"), d)
	keep(a, time.Now().Add(-time.Hour)) // too young to go
	put(false)
	keep(a, later)
	absent("after it was not kept")
	if opened != 2 {
		t.Errorf("what was to be kept was written again")
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if err := a.Put(stopped, d, int64(len(raw)), false, func() (io.ReadCloser, error) { return nil, stopped.Err() }); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	absent("stopped")
}
