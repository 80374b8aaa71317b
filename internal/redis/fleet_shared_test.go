package redis

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/store"
)

var beginning = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func hourly(n int) time.Time { return beginning.Add(time.Duration(n) * time.Hour) }

func engineOf(n int) pratique.Engine {
	return pratique.Engine{Version: "v1", Database: digest.FromString(fmt.Sprint("db", n)), DatabaseAt: hourly(n)}
}

func packages(n int) (cs []pratique.Component) {
	for i := range n {
		cs = append(cs, pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian"}, Name: fmt.Sprint("package", i), Version: "1"})
	}
	return cs
}

func says(cs []pratique.Component, id string) map[pratique.ComponentID][]pratique.Vulnerability {
	ms := make(map[pratique.ComponentID][]pratique.Vulnerability)
	for _, c := range cs {
		ms[c.ID()] = []pratique.Vulnerability{{ID: id, Severity: "HIGH", Status: "affected"}}
	}
	return ms
}

func putImage(t *testing.T, db *DB, image digest.Digest, cs ...pratique.Component) {
	t.Helper()
	var os []pratique.Occurrence
	for _, c := range cs {
		os = append(os, pratique.Occurrence{Component: c.ID(), Installed: "1", Layer: digest.FromString("layer")})
	}
	if err := db.PutImage(t.Context(), image, cs, os); err != nil {
		t.Fatal(err)
	}
}

func putReport(t *testing.T, db *DB, image digest.Digest, e, at int) pratique.Report {
	t.Helper()
	r, err := db.PutReport(t.Context(), pratique.Report{Image: image, State: pratique.StateScanned, Engine: engineOf(e), ScannedAt: hourly(at)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNothingOfAnOlderEngine: what an older engine says is never stored once a newer
// one was begun by any replica, also when whoever stores it was stopped after it had
// asked which is the latest; and reports do not go back.
func TestNothingOfAnOlderEngine(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		ctx, cs, image := t.Context(), packages(100), digest.FromString("image")
		putImage(t, a, image, cs...)
		ok(t, a.Begin(ctx, engineOf(0)))
		_, err := a.PutMatches(ctx, engineOf(0), hourly(0), says(cs, "CVE-0"))
		ok(t, err)
		putReport(t, a, image, 0, 0)
		slow := matchWriter{db: a, at: hourly(1), seq: 1, current: true, told: make(map[string]string)}
		for n := 1; n <= 12; n++ {
			e := engineOf(n)
			if n%4 == 0 {
				e = engineOf(n - 3) // rolled back
			}
			var wg sync.WaitGroup
			wg.Go(func() { // with the one before
				for range 4 {
					_, err := a.PutMatches(ctx, engineOf(n-1), hourly(n), says(cs, fmt.Sprint("CVE-", n-1)))
					if err != nil && !errors.Is(err, store.ErrSuperseded) {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				if err := b.Begin(ctx, e); err != nil {
					t.Error(err)
				}
				if _, err := b.PutMatches(ctx, e, hourly(n), says(cs, fmt.Sprint("CVE-", n))); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			if _, err := a.PutReport(ctx, pratique.Report{Image: image, State: pratique.StateScanned, Engine: engineOf(n - 1), ScannedAt: hourly(n)}); err != nil {
				t.Error(err)
			}
			if n%2 == 0 {
				ok(t, b.Advance(ctx, e, hourly(n)))
			}
			// One that was stopped between asking for the latest engine and storing.
			given, hashes := make(map[string][]pratique.Vulnerability), []string(nil)
			for id, vs := range says(cs, "CVE-old") {
				h, err := raw(id)
				ok(t, err)
				given[h], hashes = vs, append(hashes, h)
			}
			if err := slow.put(ctx, hashes, given); !errors.Is(err, store.ErrSuperseded) || len(slow.changed) > 0 {
				t.Fatalf("matches of an engine that was overtaken: %v, %d changed", err, len(slow.changed))
			}
			slow.seq++
			ok(t, slow.tell(ctx))
			for _, db := range []*DB{a, b} {
				r, err := db.Report(ctx, image)
				ok(t, err)
				for _, f := range r.Findings {
					if f.ID != fmt.Sprint("CVE-", n) {
						t.Fatalf("engine %d: %s of %s", n, f.ID, f.Package)
					}
				}
				if n%2 == 0 && r.Engine.Database != e.Database {
					t.Fatalf("the report is of %s, want %s", r.Engine.Database, e.Database)
				}
			}
		}
	})
}

// TestAClockThatWasTold: a history moves while a report is put that takes its component
// away. Who read the report between has seen the clock; it is that one still when the
// component comes back, also when the replica died before it had looked.
func TestAClockThatWasTold(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		for _, died := range []bool{false, true} {
			w := newWorld(t, url)
			a, b := w.replica(), w.replica()
			ctx, cs, image := t.Context(), packages(2), digest.FromString("image")
			ok(t, a.Begin(ctx, engineOf(0)))
			putImage(t, a, image, cs...)
			_, err := a.PutMatches(ctx, engineOf(0), hourly(0), says(cs, "CVE-0"))
			ok(t, err)
			putReport(t, a, image, 0, 1)
			putImage(t, a, image, cs[1])
			done := false
			tap := &tap{before: func(_ int, cmds []redis.Cmder) error {
				if !calling(cmds, scriptPutReport) || done {
					if died && done {
						return errCut
					}
					return nil
				}
				done = true
				_, err := b.PutMatches(ctx, engineOf(0), hourly(2), says(cs[:1], "CVE-1"))
				ok(t, err)
				r, err := b.Report(ctx, image)
				ok(t, err)
				if len(r.Findings) != 2 || r.Findings[1].ID != "CVE-1" || !r.Findings[1].FirstSeen.Equal(hourly(2)) {
					if r.Findings[0].ID != "CVE-1" && r.Findings[1].ID != "CVE-1" {
						t.Errorf("what a reader is told: %+v", r.Findings)
					}
				}
				return nil
			}}
			_, err = a.PutReport(tap.on(ctx, a), pratique.Report{Image: image, State: pratique.StateScanned, Engine: engineOf(0), ScannedAt: hourly(3)})
			if !done || died != (err != nil) {
				t.Fatalf("report: %v", err)
			}
			putReport(t, b, image, 0, 4)
			putImage(t, b, image, cs...)
			r := putReport(t, b, image, 0, 5)
			for _, f := range r.Findings {
				if f.ID == "CVE-1" && f.FirstSeen.After(hourly(2)) {
					t.Errorf("died %v: a clock of %s begins at %s", died, f.ID, f.FirstSeen)
				}
			}
			if len(r.Findings) != 2 {
				t.Errorf("findings: %+v", r.Findings)
			}
		}
	})
}

// TestEveryCut: wherever a connection is cut, calling again makes what would have been,
// and nobody is left untold.
func TestEveryCut(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		clean := newWorld(t, url).replica()
		images := fleetStory(t, clean)
		want := fleetTells(t, clean, images)
		for at := 1; at <= 12; at++ {
			db := newWorld(t, url).replica()
			f := &faulty{DB: db, tap: &tap{}, at: at}
			f.tap.on(t.Context(), db)
			fleetStory(t, f)
			if d := cmp.Diff(want, fleetTells(t, f, images), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("cut at %d (-want +got):\n%s", at, d)
			}
			if f.cuts == 0 && at < 6 {
				t.Errorf("nothing was cut at %d", at)
			}
			untold := 0
			for n := range partitions {
				untold += int(db.rdb.HLen(t.Context(), db.key(partNumber(n), "untold")).Val())
			}
			if word := db.rdb.HGet(t.Context(), db.key(fleetPart, "engines"), "untold").Val(); untold > 0 || word != "" {
				t.Errorf("cut at %d: %d components and %q are left untold", at, untold, word)
			}
		}
	})
}

// TestMend: what a replica that died had stored and not told, another tells, and a
// writer that will not end is no writer any more.
func TestMend(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		ctx, cs, image := t.Context(), packages(1), digest.FromString("image")
		putImage(t, a, image, cs...)
		_, err := a.PutMatches(ctx, engineOf(0), hourly(0), says(cs, "CVE-0"))
		ok(t, err)
		putReport(t, a, image, 0, 0)
		stored := false
		dies := &tap{before: func(_ int, cmds []redis.Cmder) error {
			if stored {
				return errCut
			}
			stored = calling(cmds, scriptSay)
			return nil
		}}
		if _, err := a.PutMatches(dies.on(ctx, a), engineOf(0), hourly(1), says(cs, "CVE-1")); err == nil {
			t.Fatal("a replica that dies tells of no error")
		}
		eventually(t, "confirmed", func() bool { return time.Since(b.Confirmed()) < time.Second })
		before := b.Stamp(image)
		ok(t, b.Mend(ctx))
		if b.Stamp(image) != before {
			t.Error("what may still be told by its writer is told by another")
		}
		h, err := raw(cs[0].ID())
		ok(t, err)
		long := fmt.Sprint(time.Now().Add(-time.Hour).UnixMilli())
		untold, engines := b.key(placeOfHash(h).part, "untold"), b.key(fleetPart, "engines")
		if n := b.rdb.HLen(ctx, untold).Val(); n != 1 {
			t.Fatalf("%d words", n)
		}
		b.rdb.HSet(ctx, untold, h, long+" x")
		for name := range b.rdb.HGetAll(ctx, engines).Val() {
			if strings.HasPrefix(name, writerField) {
				b.rdb.HSet(ctx, engines, name, long)
			}
		}
		ok(t, b.Mend(ctx))
		if b.Stamp(image) == before {
			t.Error("nobody told")
		}
		now, err := b.engines(ctx, nil)
		ok(t, err)
		if n := b.rdb.HLen(ctx, untold).Val(); n != 0 || now.memory == "" {
			t.Errorf("%d words are left, moment %q", n, now.memory)
		}
		r, err := a.Report(ctx, image)
		ok(t, err)
		if r.Findings[0].ID != "CVE-1" {
			t.Errorf("%s is remembered", r.Findings[0].ID)
		}
	})
}

// TestRedisKilledWhileStoring: errors say that Redis did not answer, and what was called
// is called again.
func TestRedisKilledWhileStoring(t *testing.T) {
	redistest.Need(t, "redis-server")
	t.Parallel()
	server := redistest.Start(t)
	db := newWorld(t, server.URL()).replica(func(c *Config) { c.Timeout = time.Second })
	ctx, cs, image := t.Context(), packages(3000), digest.FromString("image")
	putImage(t, db, image, cs...)
	_, err := db.PutMatches(ctx, engineOf(0), hourly(0), says(cs, "CVE-0"))
	ok(t, err)
	putReport(t, db, image, 0, 0)
	said := 0
	dies := &tap{before: func(_ int, cmds []redis.Cmder) error {
		if calling(cmds, scriptSay) {
			if said++; said == 2 {
				server.Kill()
			}
		}
		return nil
	}}
	settled(t, db)
	before := db.Stamp(image)
	changed, err := db.PutMatches(dies.on(ctx, db), engineOf(0), hourly(1), says(cs, "CVE-1"))
	if !errors.Is(err, store.ErrUnreachable) || len(changed) != putAtOnce {
		t.Errorf("%d changed, %v; want %d, and store.ErrUnreachable", len(changed), err, putAtOnce)
	}
	if db.Stamp(image) != before {
		t.Error("the stamp moved while nobody can say what stands")
	}
	if _, err := db.Report(ctx, image); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("report: %v", err)
	}
	server.Run()
	eventually(t, "connected", func() bool { return db.Ping(ctx) == nil })
	eventually(t, "the stamp moves, for something was stored", func() bool { return db.Stamp(image) != before })
	_, err = db.PutMatches(ctx, engineOf(0), hourly(1), says(cs, "CVE-1"))
	ok(t, err)
	r, err := db.Report(ctx, image)
	ok(t, err)
	if len(r.Findings) != len(cs) || r.Findings[0].ID != "CVE-1" || r.Findings[len(cs)-1].ID != "CVE-1" {
		t.Errorf("%d findings", len(r.Findings))
	}
}

// TestLostFacts: a report of which Redis lost something is not there, never one with
// less in it; scanning the image again makes it whole.
func TestLostFacts(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		db := newWorld(t, url).replica()
		ctx, cs, image := t.Context(), packages(3), digest.FromString("image")
		for _, kind := range []string{"matches", "chunks", "components"} {
			for range 2 {
				putImage(t, db, image, cs...)
				_, err := db.PutMatches(ctx, engineOf(0), hourly(0), says(cs, "CVE-0"))
				ok(t, err)
				if r := putReport(t, db, image, 0, 0); len(r.Findings) != 3 {
					t.Fatalf("after %s were lost: %d findings", kind, len(r.Findings))
				}
				for n := range partitions {
					ok(t, db.rdb.Del(ctx, db.key(partNumber(n), kind)).Err())
				}
				db.joins.forget()
				if kind == "components" {
					if _, _, err := db.Occurrences(ctx, image); !errors.Is(err, pratique.ErrNotFound) {
						t.Errorf("occurrences without %s: %v", kind, err)
					}
					continue
				}
				if r, err := db.Report(ctx, image); !errors.Is(err, pratique.ErrNotFound) {
					t.Errorf("without %s: %d findings, %v", kind, len(r.Findings), err)
				}
			}
		}
	})
}
