package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/store"
)

// eventually waits for a condition, as long as a loaded machine may take.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: ", what)
}

// settled waits until a process was told of all that was written before.
func settled(t *testing.T, db *DB) {
	t.Helper()
	now := time.Now()
	eventually(t, "confirmed since", func() bool { return db.Confirmed().After(now) })
}

func TestStampsMoveInEveryProcess(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		image, other := digest.FromString("image"), digest.FromString("other")
		before, still := b.Stamp(image), b.Stamp(other)
		own := a.Stamp(image)
		if err := a.changed(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		if a.Stamp(image) == own {
			t.Error("the writer's own stamp stands")
		}
		eventually(t, "the other process is told", func() bool { return b.Stamp(image) != before })
		// Nothing else moves once messages arrive in order.
		eventually(t, "confirmed", func() bool { return time.Since(b.Confirmed()) < time.Second })
		if b.Stamp(other) != still {
			t.Error("the stamp of something else moved")
		}
		before = b.Stamp(other)
		if err := a.everythingChanged(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all stamps move", func() bool { return b.Stamp(other) != before })
	})
}

func TestALostMessageIsFoundOut(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		image := digest.FromString("image")
		before := b.Stamp(image)
		// A write whose message nobody got: the version alone moves.
		if err := a.rdb.Incr(t.Context(), a.key(partOfDigest(image), "version")).Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the version tells", func() bool { return b.Stamp(image) != before })
	})
}

func TestRedisThatLostWrites(t *testing.T) {
	w := newWorld(t, redistest.Start(t).URL())
	db := w.replica()
	image := digest.FromString("image")
	if err := db.changed(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	eventually(t, "told", func() bool { return db.changes.told()[0]+1 > 0 && db.changes.told() != [partitions]int64{} })
	before := db.Stamp(image)
	if err := db.rdb.Set(t.Context(), db.key(partOfDigest(image), "version"), 0, 0).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is kept in memory is given up", func() bool { return db.Stamp(image) != before })
}

func TestConfirmedStopsWithRedis(t *testing.T) {
	redistest.Need(t, "redis-server")
	server := redistest.Start(t)
	db := newWorld(t, server.URL()).replica(func(c *Config) { c.Timeout = 200 * time.Millisecond })
	server.Kill()
	eventually(t, "not confirmed", func() bool { return time.Since(db.Confirmed()) > 2*time.Second })
	if err := db.Ping(t.Context()); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("ping: %v; want store.ErrUnreachable", err)
	}
	server.Run()
	eventually(t, "confirmed again", func() bool { return time.Since(db.Confirmed()) < time.Second })
}

// A write that Redis does not answer makes nobody forget what is all there is, until
// Redis answers again.
func TestUnansweredWrites(t *testing.T) {
	redistest.Need(t, "redis-server")
	server := redistest.Start(t)
	w := newWorld(t, server.URL())
	db := w.replica(func(c *Config) { c.Timeout = 200 * time.Millisecond })
	image := digest.FromString("image")
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/app", Tag: "1"}
	pulled := ref
	pulled.Digest = image
	writes := map[string]struct {
		of    digest.Digest
		write func() error
	}{
		"a report": {image, func() error {
			_, err := db.PutReport(t.Context(), pratique.Report{Image: image, State: pratique.StateFailed})
			return err
		}},
		"pulls": {image, func() error {
			return db.Record(t.Context(), []store.Pull{{Ref: pulled, At: time.Now(), Outcome: pratique.OutcomeAllow}})
		}},
		"a tag":        {store.TagKey(ref), func() error { return db.SetTag(t.Context(), ref, store.TagState{Digest: image}) }},
		"attestations": {image, func() error { return db.PutAttestations(t.Context(), pratique.Attestations{Image: image}) }},
		"anything":     {image, func() error { return db.everythingChanged(t.Context()) }},
		"one whose caller left": {image, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			err := db.PutAttestations(ctx, pratique.Attestations{Image: image})
			if err == nil || errors.Is(err, store.ErrUnreachable) {
				return err
			}
			return fmt.Errorf("%w: %w", store.ErrUnreachable, err)
		}},
	}
	for name, c := range writes {
		t.Run(name, func(t *testing.T) {
			before := db.Stamp(c.of)
			server.Pause()
			resume := sync.OnceFunc(server.Resume)
			defer resume()
			if err := c.write(); !errors.Is(err, store.ErrUnreachable) {
				t.Fatalf("%v, want store.ErrUnreachable", err)
			}
			if db.Stamp(c.of) != before {
				t.Error("its stamp moved while nobody can say what stands")
			}
			resume()
			eventually(t, "its stamp moves", func() bool { return db.Stamp(c.of) != before })
			settled(t, db)
		})
	}
}

func TestLease(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		freed, end := b.Freed("x")
		defer end()
		l, err := a.Lease(t.Context(), "x", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for _, db := range []*DB{a, b} {
			if _, err := db.Lease(t.Context(), "x", time.Minute); !errors.Is(err, store.ErrHeld) {
				t.Errorf("held lease: %v", err)
			}
		}
		l.Release()
		l.Release()
		if l.Context().Err() == nil {
			t.Error("its context goes on after the release")
		}
		select {
		case <-freed:
		case <-time.After(30 * time.Second):
			t.Fatal("nobody was told")
		}
		if l, err = b.Lease(t.Context(), "x", time.Minute); err != nil {
			t.Fatal(err)
		}
		l.Release()
	})
}

func TestLeaseIsRenewedAndRunsOut(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		l, err := a.Lease(t.Context(), "x", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if _, err := b.Lease(t.Context(), "x", time.Second); !errors.Is(err, store.ErrHeld) {
			t.Errorf("a lease that is renewed: %v", err)
		}
		_ = a.Close() // as a process that died
		if !errors.Is(context.Cause(l.Context()), store.ErrLost) {
			t.Errorf("context of a lost lease: %v", context.Cause(l.Context()))
		}
		eventually(t, "another has it", func() bool {
			l, err := b.Lease(t.Context(), "x", time.Minute)
			if err == nil {
				l.Release()
			}
			return err == nil
		})
	})
}

// TestLeaseThatAnotherTook ends the holder's context.
func TestLeaseThatAnotherTook(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a := w.replica()
		l, err := a.Lease(t.Context(), "x", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.rdb.Set(t.Context(), a.key("lease", "x"), "another", 0).Err(); err != nil {
			t.Fatal(err)
		}
		<-l.Context().Done()
		if !errors.Is(context.Cause(l.Context()), store.ErrLost) {
			t.Errorf("cause: %v", context.Cause(l.Context()))
		}
		l.Release()
		if got := a.rdb.Get(t.Context(), a.key("lease", "x")).Val(); got != "another" {
			t.Errorf("the other's lease is %q now", got)
		}
	})
}

func TestLead(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		turns, stop := make(chan string), make(chan struct{})
		lead := func(name string) chan error {
			db, done := w.replica(), make(chan error, 1)
			go func() {
				done <- store.Lead(ctx, db, "x", time.Minute, func(ctx context.Context) error {
					turns <- name
					select {
					case <-stop:
					case <-ctx.Done():
					}
					return nil
				})
			}()
			return done
		}
		a, b := lead("a"), lead("b")
		first := <-turns
		select {
		case second := <-turns:
			t.Errorf("%s and %s lead at once", first, second)
		case <-time.After(2 * time.Second):
		}
		stop <- struct{}{}
		if second := <-turns; second == first {
			t.Errorf("%s leads again after it has finished", second)
		}
		cancel()
		for _, done := range []chan error{a, b} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestURLs(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"redis://h", ""},
		{"rediss://h:1/2", ""},
		{"redis+sentinel://a,b:2/m/1", ""},
		{"redis+cluster://a,b", ""},
		{"http://h", `scheme "http"`},
		{"redis://u:p@h", "has a user"},
		{"redis://a,b", "several hosts"},
		{"redis+sentinel://a", "no name of a master"},
		{"redis+cluster://a/1", "one database only"},
		{"redis+x://a", "sentinel or cluster"},
		{"redis://a/x", "no number"},
	} {
		_, err := options(Config{URL: c.url})
		if got := errorText(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v; want %q", c.url, err, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
