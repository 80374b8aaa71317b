package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scheduler"
)

func TestReanalyze(t *testing.T) {
	const key = "trivy-v2-11"
	reports := []pratique.Report{
		{Image: holder(0), State: pratique.StateScanned, Engine: pratique.Engine{Analyzer: key}},
		{Image: holder(1), State: pratique.StateFailed, Engine: pratique.Engine{Analyzer: "trivy-v1-22"}},
		{Image: holder(2), State: pratique.StateIncomplete, Engine: pratique.Engine{Analyzer: "trivy-v1-22"}},
	}
	for i := range 20 {
		reports = append(reports, pratique.Report{Image: holder(10 + i), State: pratique.StateScanned, Engine: pratique.Engine{Analyzer: "trivy-v2-22"}})
	}
	var mu sync.Mutex
	most := 0
	bubble("a few at a time", t, scheduler.Config{}, func(l *lab) {
		for _, r := range reports {
			l.put(r)
		}
		l.scanner.scan = func(ctx context.Context, _ pratique.Ref, _ int) error {
			n, err := l.queue.Len(ctx)
			mu.Lock()
			most = max(most, n[scheduler.PrioritySchedule])
			mu.Unlock()
			time.Sleep(time.Second)
			return err
		}
	}, func(t *testing.T, l *lab) {
		all := func(yield func(digest.Digest, error) bool) {
			for _, r := range reports {
				if !yield(r.Image, nil) {
					return
				}
			}
			yield(holder(99), nil) // has no report
		}
		if err := l.Reanalyze(t.Context(), key, all); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for _, r := range reports {
			want := 0
			if r.State != pratique.StateFailed && r.Engine.Analyzer != key {
				want = 1
			}
			if n := l.scanner.count(r.Image); n != want {
				t.Errorf("%s %s: %d scans, want %d", r.State, r.Engine.Analyzer, n, want)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if most == 0 || most > 8 {
			t.Errorf("%d jobs open at a time", most)
		}
		broken := errors.New("disk")
		if err := l.Reanalyze(t.Context(), key, func(yield func(digest.Digest, error) bool) { yield("", broken) }); !errors.Is(err, broken) {
			t.Errorf("images not listed: %v", err)
		}
	})
}

// TestOutdated: who pulls an image that another version of the analyzers read gets
// its report at once, and it is read again behind that. Another Java database is no
// reason.
func TestOutdated(t *testing.T) {
	for analyzer, scans := range map[string]int{"trivy-v1-22": 1, "trivy-v2-22": 0, "trivy-v2-11": 0, "": 0} {
		bubble(fmt.Sprint("by ", analyzer), t, scheduler.Config{Analyzer: func() string { return "trivy-v2-11" }}, func(l *lab) {
			l.put(pratique.Report{Image: ref("a").Digest, State: pratique.StateScanned, Engine: pratique.Engine{Analyzer: analyzer}})
		}, func(t *testing.T, l *lab) {
			if r, err := l.await(ref("a"), time.Second); err != nil || r.Engine.Analyzer != analyzer {
				t.Errorf("%+v, %v", r, err)
			}
			synctest.Wait()
			if n := l.scanner.count(ref("a").Digest); n != scans {
				t.Errorf("%d scans, want %d", n, scans)
			}
		})
	}
}

func TestHolding(t *testing.T) {
	f := newFleet(3)
	jar := pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: "jar"}, Name: "j", Version: "1"}
	f.components[jar.ID()] = jar
	f.images[holder(50)] = []pratique.ComponentID{jar.ID()}
	collect := func(images iter.Seq2[digest.Digest, error]) (out []digest.Digest) {
		for d, err := range images {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, d)
		}
		return slices.Clip(out)
	}
	r := f.rescanner()
	if diff := cmp.Diff(images(50), collect(r.Holding(t.Context(), "jar", "pom"))); diff != "" {
		t.Error(diff)
	}
	if got := collect(r.Holding(t.Context(), "gobinary")); len(got) != 0 {
		t.Error(got)
	}
}
