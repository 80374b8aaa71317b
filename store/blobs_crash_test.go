package store_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// errInjected is what a failing operation returns.
var errInjected = errors.New("injected failure")

// steps are the operations between a verified blob and a durable one, in order.
var steps = []string{"sync", "makedir", "rename", "syncdir"}

// failures are the two ways in which an operation fails.
var failures = map[string]func(do func() error) error{
	"fails, not persisted": func(func() error) error { return errInjected },
	"fails, but persisted": func(do func() error) error { return errors.Join(do(), errInjected) },
}

// audit walks the files below root and fails the test on every one under blobs/
// that is not what its name says. It returns the digests that are there.
func audit(t *testing.T, root string) map[digest.Digest]bool {
	t.Helper()
	there := map[digest.Digest]bool{}
	err := filepath.WalkDir(filepath.Join(root, "blobs"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(path))
		if d.Validate() != nil {
			t.Errorf("%s is no blob", path)
		} else if got := digest.FromBytes(raw); got != d {
			t.Errorf("%s holds %d bytes that are %s", path, len(raw), got)
		}
		there[d] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// spooled lists the files in the spool, locks aside.
func spooled(t *testing.T, root string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(root, "spool", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		if filepath.Base(f) != "lock" {
			out = append(out, f)
		}
	}
	return out
}

// TestBlobFailureMatrix: each operation of a commit fails, done or not done. The
// caller is told, what is visible is whole, readers of verified bytes get them
// all, and the same blob can be stored again.
func TestBlobFailureMatrix(t *testing.T) {
	content := noise(1, 100_000)
	d := digest.FromBytes(content)
	for _, step := range steps {
		for name, fail := range failures {
			t.Run(step+" "+name, func(t *testing.T) {
				dir, ctx := t.TempDir(), t.Context()
				b := openFilesystem(t, dir)
				failing := true
				store.FailStep(b, step, func(do func() error) error {
					if !failing {
						return do()
					}
					return fail(do)
				})
				s, err := b.Create(ctx, d, int64(len(content)))
				if err != nil {
					t.Fatal(err)
				}
				r, err := s.NewReader(ctx, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if _, err := s.Write(content); err != nil {
					t.Fatal(err)
				}
				if err := s.Commit(ctx); !errors.Is(err, errInjected) {
					t.Fatalf("Commit = %v, want the failure", err)
				}
				got, err := io.ReadAll(r)
				if err != nil || digest.FromBytes(got) != d {
					t.Errorf("the reader of a verified blob got %d bytes, %v", len(got), err)
				}
				// Visible only where the rename was done.
				moved := step == "syncdir" || step == "rename" && strings.Contains(name, "but")
				if there := audit(t, dir); there[d] != moved {
					t.Errorf("blobs %v, want %s there: %v", there, d, moved)
				}
				if left := spooled(t, dir); len(left) > 0 {
					t.Errorf("left in the spool: %v", left)
				}
				failing = false
				if err := b.Put(ctx, d, content); err != nil {
					t.Fatalf("second try: %v", err)
				}
				if !audit(t, dir)[d] {
					t.Error("not there after a second try that went well")
				}
			})
		}
	}
}

// TestBlobCrashMatrix: the process ends at each operation of a commit, just
// before or just after it. The next one finds no half blob and no spool file,
// loses nothing that was committed before, and stores the blob.
func TestBlobCrashMatrix(t *testing.T) {
	before, content := noise(1, 50_000), noise(2, 100_000)
	old, d := digest.FromBytes(before), digest.FromBytes(content)
	for _, step := range steps {
		for name, fail := range failures {
			t.Run(step+" "+name, func(t *testing.T) {
				dir, ctx := t.TempDir(), t.Context()
				b, err := store.OpenBlobs(ctx, store.BlobsConfig{Parameters: map[string]any{"rootdirectory": dir}})
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Put(ctx, old, before); err != nil {
					t.Fatal(err)
				}
				dead := make(chan struct{})
				store.FailStep(b, step, func(do func() error) error {
					_ = fail(do)
					defer close(dead)
					runtime.Goexit() // nothing after it is done: the process is gone
					return nil
				})
				go func() { _ = b.Put(ctx, d, content) }()
				<-dead
				store.Crash(b)

				b = openFilesystem(t, dir)
				if left := spooled(t, dir); len(left) > 0 {
					t.Errorf("left in the spool: %v", left)
				}
				moved := step == "syncdir" || step == "rename" && strings.Contains(name, "but")
				if there := audit(t, dir); !there[old] || there[d] != moved {
					t.Errorf("blobs %v, want %s, and %s: %v", there, old, d, moved)
				}
				if err := b.Put(ctx, d, content); err != nil {
					t.Fatal(err)
				}
				if there := audit(t, dir); !there[old] || !there[d] {
					t.Errorf("blobs %v, want both", there)
				}
			})
		}
	}
}

// TestBlobsAreSyncedBeforeTheyAreNamed: a crash of the machine loses what was
// not synced, so no name may lead to bytes that were not.
func TestBlobsAreSyncedBeforeTheyAreNamed(t *testing.T) {
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	var order []string
	for _, step := range steps {
		store.FailStep(b, step, func(do func() error) error {
			order = append(order, step)
			return do()
		})
	}
	content := noise(3, 10)
	if err := b.Put(t.Context(), digest.FromBytes(content), content); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, " "), strings.Join(steps, " "); got != want {
		t.Errorf("a commit did %s, want %s", got, want)
	}
}

// TestProbesOfTheDeadAreRemoved: the file by which a start tries whether the
// spool can be renamed from stays when the process is killed just then.
func TestProbesOfTheDeadAreRemoved(t *testing.T) {
	dir := t.TempDir()
	openFilesystem(t, dir)
	folders, err := filepath.Glob(filepath.Join(dir, "spool", "*-*"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("%v %v", folders, err)
	}
	dead, alive := filepath.Join(dir, "blobs", "77-1.probe"), filepath.Join(dir, "blobs", filepath.Base(folders[0])+".probe")
	for _, path := range []string{dead, alive} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openFilesystem(t, dir)
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the probe of a dead process: %v, want it gone", err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("the probe of a living process: %v", err)
	}
}

// links is a store.Links over a set.
type links struct {
	linked map[digest.Digest]bool
	err    error
	// before is called between the look of Discard and the removal.
	before func(digest.Digest)
}

func (l *links) Unlinked(_ context.Context, ds []digest.Digest) (out []digest.Digest, err error) {
	for _, d := range ds {
		if !l.linked[d] {
			out = append(out, d)
		}
	}
	return out, l.err
}

func (l *links) Discard(_ context.Context, d digest.Digest, remove func() error) error {
	if l.err != nil || l.linked[d] {
		return l.err
	}
	if l.before != nil {
		l.before(d)
	}
	return remove()
}

func TestOrphans(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b, ctx := open(t), t.Context()
		l := &links{linked: map[digest.Digest]bool{}}
		const blobs = 270 // more than a batch
		var orphans int
		for i := range blobs {
			content := noise(uint64(i), 10)
			d := digest.FromBytes(content)
			if err := b.Put(ctx, d, content); err != nil {
				t.Fatal(err)
			}
			if l.linked[d] = i%3 != 0; !l.linked[d] {
				orphans++
			}
		}
		now := time.Now()
		o := store.NewOrphans(b, l, store.OrphansConfig{Grace: time.Hour, Now: func() time.Time { return now }})
		collect := func(want int) {
			t.Helper()
			n, bytes, err := o.Collect(ctx)
			if err != nil || n != want || bytes != int64(10*want) {
				t.Errorf("Collect = %d blobs, %d bytes, %v, want %d", n, bytes, err, want)
			}
		}
		collect(0) // all of them have just arrived
		now = now.Add(2 * time.Hour)
		l.err = errInjected
		if n, _, err := o.Collect(ctx); n != 0 || !errors.Is(err, errInjected) {
			t.Errorf("Collect over links that do not answer = %d, %v", n, err)
		}
		l.err = nil
		collect(orphans)
		collect(0)
		left := map[digest.Digest]bool{}
		if err := b.Walk(ctx, func(d digest.Digest, _ int64, _ time.Time) error { left[d] = true; return nil }); err != nil {
			t.Fatal(err)
		}
		for d, linked := range l.linked {
			if left[d] != linked {
				t.Errorf("%s: linked %v, there %v", d, linked, left[d])
			}
		}
	})
}

// TestOrphansSpareWhatArrives: an old orphan that arrives again between the look
// at its age and its removal stays.
func TestOrphansSpareWhatArrives(t *testing.T) {
	content := noise(1, 100)
	d := digest.FromBytes(content)
	arrivals := map[string]func(*store.Blobs) error{
		"put again": func(b *store.Blobs) error { return b.Put(t.Context(), d, content) },
		"transferred again": func(b *store.Blobs) error {
			s, err := b.Create(t.Context(), d, int64(len(content)))
			if err != nil {
				return err
			}
			if _, err := s.Write(content); err != nil {
				return err
			}
			return s.Commit(t.Context())
		},
	}
	for name, arrive := range arrivals {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := openFilesystem(t, dir)
			if err := b.Put(t.Context(), d, content); err != nil {
				t.Fatal(err)
			}
			age(t, dir, d)
			o := store.NewOrphans(b, &links{before: func(digest.Digest) {
				if err := arrive(b); err != nil {
					t.Error(err)
				}
			}}, store.OrphansConfig{})
			if n, _, err := o.Collect(t.Context()); n != 0 || err != nil {
				t.Errorf("Collect = %d, %v", n, err)
			}
			if _, err := b.Stat(t.Context(), d); err != nil {
				t.Errorf("what has just arrived is gone: %v", err)
			}
		})
	}
}

// TestOrphansLeaveReadersAlone: who has a blob open reads it to its end.
func TestOrphansLeaveReadersAlone(t *testing.T) {
	content := noise(1, 100_000)
	d := digest.FromBytes(content)
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	if err := b.Put(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	r, _, err := b.Open(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	age(t, dir, d)
	if n, _, err := store.NewOrphans(b, &links{}, store.OrphansConfig{}).Collect(t.Context()); n != 1 || err != nil {
		t.Fatalf("Collect = %d, %v", n, err)
	}
	if got, err := io.ReadAll(r); err != nil || digest.FromBytes(got) != d {
		t.Errorf("the reader got %d bytes, %v", len(got), err)
	}
	if _, err := b.Stat(t.Context(), d); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("Stat = %v, want it gone", err)
	}
}

// age makes a stored blob two hours old.
func age(t *testing.T, dir string, d digest.Digest) {
	t.Helper()
	then := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded()), then, then); err != nil {
		t.Fatal(err)
	}
}
