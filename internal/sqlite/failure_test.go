package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

// errInjected is what a failing commit returns.
var errInjected = errors.New("injected failure")

func layered(name string) pratique.Image {
	img := pratique.Image{
		Digest: digest.FromString(name), Kind: pratique.KindImage, MediaType: pratique.MediaTypeImageManifest,
		Config: pratique.Descriptor{Digest: digest.FromString("config of " + name)},
	}
	for i := range 5 {
		img.Layers = append(img.Layers, pratique.Descriptor{Digest: digest.FromString(fmt.Sprint(name, " layer ", i)), Size: 1})
	}
	return img
}

// write is one write of the contracts: prepare what it needs, do it, and see what
// it changes, errors included.
type write struct {
	prepare func(context.Context, *sqlite.DB) error
	do      func(context.Context, *sqlite.DB) error
	see     func(context.Context, *sqlite.DB) any
	// gone: done a second time it finds that it was done.
	gone bool
	// taken: done a second time it finds the name taken.
	taken bool
	// unseen: only who takes jobs sees the difference.
	unseen bool
}

// state is a value as seen, or the error that says there is none.
type state struct {
	Value any
	Found bool
}

func seen[T any](v T, err error) any {
	if errors.Is(err, pratique.ErrNotFound) {
		return state{}
	} else if err != nil {
		return err.Error()
	}
	return state{v, true}
}

func writes() map[string]write {
	img := layered("a")
	ref := pratique.Ref{Registry: "docker.io", Repo: "r", Tag: "v1", Digest: img.Digest}
	component := pratique.Component{Name: "libc6", Version: "2.36"}
	engine := pratique.Engine{Version: "v0.74.0", Database: digest.FromString("db"), DatabaseAt: now}
	exception := pratique.Exception{ID: "ex-1", Finding: "CVE-1", Repository: "docker.io/r", Reason: "r", Author: "a", Created: now, Expires: now.Add(time.Hour)}
	push := func(ctx context.Context, db *sqlite.DB) error { return db.Push(ctx, ref, scheduler.PriorityPull, now) }
	// The lease is the first of a fresh file's only job.
	job := scheduler.Job{Ref: ref, Lease: 1}
	take := func(ctx context.Context, db *sqlite.DB) error {
		if err := push(ctx, db); err != nil {
			return err
		}
		_, err := db.Take(ctx, now, time.Minute)
		return err
	}
	open := func(ctx context.Context, db *sqlite.DB) any { return seen(db.Len(ctx)) }
	return map[string]write{
		"Link": {do: func(ctx context.Context, db *sqlite.DB) error { return db.Link(ctx, ref, img, now) },
			see: func(ctx context.Context, db *sqlite.DB) any {
				out := []any{seen(db.Image(ctx, img.Digest))}
				for _, l := range append(img.Layers, img.Config) {
					out = append(out, seen(db.Holders(ctx, ref, l.Digest)))
				}
				return append(out, seen(db.Known(ctx, img.Digest)))
			}},
		"SetTag": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.SetTag(ctx, ref, store.TagState{Digest: img.Digest, CheckedAt: now, ChangedAt: now})
		}, see: func(ctx context.Context, db *sqlite.DB) any {
			return []any{seen(db.Tag(ctx, ref)), seen(db.TagsOf(ctx, ref)), seen(db.TagHistory(ctx, ref))}
		}},
		"SetTag, moved": {prepare: func(ctx context.Context, db *sqlite.DB) error {
			return db.SetTag(ctx, ref, store.TagState{Digest: img.Digest, CheckedAt: now, ChangedAt: now})
		}, do: func(ctx context.Context, db *sqlite.DB) error {
			return db.SetTag(ctx, ref, store.TagState{Digest: digest.FromString("b"), CheckedAt: now.Add(time.Hour), ChangedAt: now.Add(time.Hour)})
		}, see: func(ctx context.Context, db *sqlite.DB) any {
			return []any{seen(db.Tag(ctx, ref)), seen(db.TagsOf(ctx, ref)), seen(db.TagHistory(ctx, ref))}
		}},
		"SetTagList": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.SetTagList(ctx, ref, []string{"v1", "v2"}, now)
		},
			see: func(ctx context.Context, db *sqlite.DB) any {
				tags, _, err := db.TagList(ctx, ref)
				return []any{seen(tags, err), seen(db.TagsSeen(ctx, ref))}
			}},
		"Record": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.Record(ctx, []store.Pull{{Ref: ref, Client: "10.0.0.1", At: now, Outcome: pratique.OutcomeAllow, Verdict: "v"}})
		}, see: func(ctx context.Context, db *sqlite.DB) any {
			// Done twice it is there twice: a pull has no name.
			pulls := make(map[store.Pull]bool)
			for p, err := range db.Pulls(ctx, time.Time{}) {
				if err != nil {
					return err.Error()
				}
				pulls[p] = true
			}
			first, _, err := db.Served(ctx, img.Digest)
			return []any{pulls, seen(first, err)}
		}},
		"RecordVerdicts": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.RecordVerdicts(ctx, []store.Judged{{Ref: ref, At: now, Verdict: pratique.Verdict{ID: "v"}}})
		}, see: func(ctx context.Context, db *sqlite.DB) any { return seen(db.Verdict(ctx, "v")) }},
		"CreateException": {do: func(ctx context.Context, db *sqlite.DB) error { return db.CreateException(ctx, exception) },
			see: func(ctx context.Context, db *sqlite.DB) any { return seen(db.Exceptions(ctx)) }, taken: true},
		"RevokeException": {prepare: func(ctx context.Context, db *sqlite.DB) error { return db.CreateException(ctx, exception) },
			do: func(ctx context.Context, db *sqlite.DB) error {
				_, err := db.RevokeException(ctx, exception.ID, "bob", "fixed", now)
				return err
			}, see: func(ctx context.Context, db *sqlite.DB) any { return seen(db.Exceptions(ctx)) }},
		"PutAttestations": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.PutAttestations(ctx, pratique.Attestations{Image: img.Digest, CheckedAt: now})
		}, see: func(ctx context.Context, db *sqlite.DB) any { return seen(db.Attestations(ctx, img.Digest)) }},
		"PutInventory": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.PutInventory(ctx, img.Layers[0].Digest, "key", pratique.Inventory{OS: pratique.OS{Family: "debian"}})
		}, see: func(ctx context.Context, db *sqlite.DB) any {
			return seen(db.Inventory(ctx, img.Layers[0].Digest, "key"))
		}},
		"PutImage": {do: func(ctx context.Context, db *sqlite.DB) error {
			return db.PutImage(ctx, img.Digest, []pratique.Component{component}, []pratique.Occurrence{{Component: component.ID(), Layer: img.Digest}})
		}, see: func(ctx context.Context, db *sqlite.DB) any {
			os, cs, err := db.Occurrences(ctx, img.Digest)
			images, err2 := db.ImagesWith(ctx, []pratique.ComponentID{component.ID()})
			return []any{seen(os, err), seen(cs, err), seen(images, err2)}
		}},
		"PutMatches": {prepare: func(ctx context.Context, db *sqlite.DB) error {
			return db.PutImage(ctx, img.Digest, []pratique.Component{component}, nil)
		}, do: func(ctx context.Context, db *sqlite.DB) error {
			_, err := db.PutMatches(ctx, engine, now, map[pratique.ComponentID][]pratique.Vulnerability{component.ID(): {{ID: "CVE-1"}}})
			return err
		}, see: func(ctx context.Context, db *sqlite.DB) any {
			return seen(db.Matches(ctx, engine, []pratique.ComponentID{component.ID()}))
		}},
		"Begin": {do: func(ctx context.Context, db *sqlite.DB) error { return db.Begin(ctx, engine) },
			see: func(ctx context.Context, db *sqlite.DB) any { // only the latest can be advanced to
				var err error
				for _, err = range db.Strays(ctx, engine) {
					break
				}
				return fmt.Sprint(err)
			}},
		"Advance": {prepare: func(ctx context.Context, db *sqlite.DB) error { return db.Begin(ctx, engine) },
			do: func(ctx context.Context, db *sqlite.DB) error { return db.Advance(ctx, engine, now) },
			see: func(ctx context.Context, db *sqlite.DB) any {
				e, at, err := db.Current(ctx)
				return []any{seen(e, err), at}
			}},
		"PutReport": {do: func(ctx context.Context, db *sqlite.DB) error {
			_, err := db.PutReport(ctx, pratique.Report{Image: img.Digest, State: pratique.StateScanned, ScannedAt: now,
				Findings: []pratique.Finding{{Kind: pratique.KindVulnerability, ID: "CVE-1"}}})
			return err
		}, see: func(ctx context.Context, db *sqlite.DB) any { return seen(db.Report(ctx, img.Digest)) }},
		"Push": {do: push, see: open},
		"Finish": {prepare: take, do: func(ctx context.Context, db *sqlite.DB) error { return db.Finish(ctx, job, nil, time.Time{}) },
			see: open, gone: true},
		"Finish, to be tried again": {prepare: take,
			do: func(ctx context.Context, db *sqlite.DB) error {
				return db.Finish(ctx, job, errInjected, now.Add(time.Hour))
			}, see: open, unseen: true},
		"Renew": {prepare: take, do: func(ctx context.Context, db *sqlite.DB) error { return db.Renew(ctx, job, now.Add(time.Hour)) }, see: open, unseen: true},
	}
}

// TestWriteFailureMatrix: every commit fails, done or not done. The caller is
// told; what it wrote is there whole or not at all, before and after the file is
// opened again; and doing it again ends where it would have without a failure.
func TestWriteFailureMatrix(t *testing.T) {
	diff := func(a, b any) string {
		return cmp.Diff(a, b, cmpopts.EquateEmpty())
	}
	for name, w := range writes() {
		for _, persisted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, persisted %v", name, persisted), func(t *testing.T) {
				ctx := t.Context()
				prepared := func() (func() *sqlite.DB, *sqlite.DB) {
					reopen := fresh(t)
					db := reopen()
					if w.prepare != nil {
						if err := w.prepare(ctx, db); err != nil {
							t.Fatal(err)
						}
					}
					return reopen, db
				}
				_, control := prepared()
				before := w.see(ctx, control)
				if err := w.do(ctx, control); err != nil {
					t.Fatal(err)
				}
				after := w.see(ctx, control)
				if !w.unseen && diff(before, after) == "" {
					t.Fatal("the write changes nothing: nothing is shown")
				}

				reopen, db := prepared()
				sqlite.FailCommits(db, func(do func() error) error {
					if persisted {
						return errors.Join(do(), errInjected)
					}
					return errInjected
				})
				if err := w.do(ctx, db); !errors.Is(err, errInjected) {
					t.Fatalf("%v, want the failure", err)
				}
				want := before
				if persisted {
					want = after
				}
				sqlite.FailCommits(db, nil)
				if d := diff(want, w.see(ctx, db)); d != "" {
					t.Errorf("after the failure (-want +got):\n%s", d)
				}
				if w.prepare == nil { // opening releases leases
					db = reopen()
					if d := diff(want, w.see(ctx, db)); d != "" {
						t.Errorf("after the failure and a restart (-want +got):\n%s", d)
					}
				}
				err := w.do(ctx, db)
				done := persisted && (w.gone && errors.Is(err, pratique.ErrNotFound) || w.taken && errors.Is(err, store.ErrExists))
				if err != nil && !done {
					t.Errorf("done again: %v", err)
				}
				if d := diff(after, w.see(ctx, db)); d != "" {
					t.Errorf("done again (-want +got):\n%s", d)
				}
			})
		}
	}
}

// TestJournalCutAnywhere: power fails while the journal is written, at any byte.
// What was committed before stays; a manifest is linked with all it names, or
// not at all.
func TestJournalCutAnywhere(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	path := filepath.Join(dir, "state.db")
	db := open(t, path)
	ref := pratique.Ref{Registry: "docker.io", Repo: "r"}
	const manifests = 40
	for i := range manifests {
		if err := db.Link(ctx, ref, layered(fmt.Sprint(i)), now); err != nil {
			t.Fatal(err)
		}
	}
	main, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(path + "-wal") // not checkpointed: it is open
	if err != nil {
		t.Fatal(err)
	}
	cuts := []int{0, 1, 31, 32, len(journal) - 1, len(journal)}
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		cuts = append(cuts, random.IntN(len(journal)))
	}
	slices.Sort(cuts)
	last := 0
	for _, cut := range cuts {
		copied := filepath.Join(t.TempDir(), "state.db")
		if err := errors.Join(os.WriteFile(copied, main, 0o600), os.WriteFile(copied+"-wal", journal[:cut], 0o600)); err != nil {
			t.Fatal(err)
		}
		db, err := sqlite.Open(ctx, copied)
		if err != nil {
			t.Fatalf("journal cut at %d of %d: %v", cut, len(journal), err)
		}
		there := 0
		for i := range manifests {
			img := layered(fmt.Sprint(i))
			_, err := db.Image(ctx, img.Digest)
			for _, l := range append(img.Layers, img.Config) {
				if _, held := db.Holders(ctx, ref, l.Digest); (held == nil) != (err == nil) {
					t.Errorf("journal cut at %d: manifest %d %v, what it names %v", cut, i, err, held)
				}
			}
			if err == nil {
				if there++; there != i+1 {
					t.Errorf("journal cut at %d: manifest %d is there, one before it is not", cut, i)
				}
			}
		}
		if there < last {
			t.Errorf("journal cut at %d: %d manifests, %d with less of it", cut, there, last)
		}
		last = there
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if last != manifests {
		t.Errorf("%d manifests with the whole journal, want %d", last, manifests)
	}
}
