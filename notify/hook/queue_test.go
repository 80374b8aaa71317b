package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pratique"
	"pratique/store"
)

func fixed() time.Time         { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
func quiet() *slog.Logger      { return slog.New(slog.DiscardHandler) }
func d(s string) digest.Digest { return digest.FromString(s) }

// world is everything around a queue. What the upstream answers and what the gate
// says are functions of how often they were asked.
type world struct {
	mu     sync.Mutex
	open   map[string]store.Push
	tags   map[string]bool
	held   map[digest.Digest]bool
	spans  []store.TagSpan
	asked  []string
	checks []string

	names   func(ref pratique.Ref, n int) (digest.Digest, error)
	decides func(ref pratique.Ref, n int) error
	keep    error // of the store
	read    error
	busy    int // revalidations under way
	most    int
}

func newWorld() *world {
	return &world{
		open: map[string]store.Push{}, tags: map[string]bool{}, held: map[digest.Digest]bool{},
		names:   func(pratique.Ref, int) (digest.Digest, error) { return d("1"), nil },
		decides: func(pratique.Ref, int) error { return nil },
	}
}

func (w *world) PutPushes(_ context.Context, ps []store.Push) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keep != nil {
		return w.keep
	}
	for _, p := range ps {
		w.open[p.Key()] = p
	}
	return nil
}

func (w *world) OpenPushes(_ context.Context, limit int) ([]store.Push, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.read; err != nil {
		w.read = nil
		return nil, err
	}
	var out []store.Push
	for _, p := range w.open {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b store.Push) int { return strings.Compare(a.Key(), b.Key()) })
	return out[:min(limit, len(out))], nil
}

func (w *world) ClosePush(_ context.Context, p store.Push) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[p.Key()].At.Equal(p.At) {
		delete(w.open, p.Key())
	}
	return nil
}

func (w *world) Revalidate(_ context.Context, ref pratique.Ref) (digest.Digest, bool, error) {
	w.mu.Lock()
	w.asked = append(w.asked, ref.Repo+":"+ref.Tag)
	n := len(w.asked)
	w.busy++
	w.most = max(w.most, w.busy)
	f := w.names
	w.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	w.mu.Lock()
	w.busy--
	w.mu.Unlock()
	d, err := f(ref, n)
	return d, true, err
}

func (w *world) Check(_ context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if client.IsValid() || wait != 0 {
		panic("the gate is asked for nobody, and not waited in")
	}
	text := ref.Repo + ":" + ref.Tag
	if ref.Digest != "" {
		text = ref.Repo + "@" + ref.Digest.Encoded()[:4]
	}
	w.checks = append(w.checks, text)
	return pratique.Decision{}, w.decides(ref, len(w.checks))
}

func (w *world) Tag(_ context.Context, ref pratique.Ref) (store.TagState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tags[ref.Repo+":"+ref.Tag] {
		return store.TagState{}, nil
	}
	return store.TagState{}, fmt.Errorf("tag: %w", pratique.ErrNotFound)
}

func (w *world) Holders(_ context.Context, _ pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	if w.held[d] {
		return []digest.Digest{d}, nil
	}
	return nil, pratique.ErrNotFound
}

func (w *world) TagsOf(context.Context, pratique.Ref) ([]store.TagSpan, error) { return w.spans, nil }

// run runs a queue in a bubble of time until f returns.
func (w *world) run(t *testing.T, cfg QueueConfig, f func(q *Queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		q := NewQueue(w, w, w, w, cfg)
		done := make(chan error, 1)
		go func() { done <- q.Run(ctx) }()
		f(q)
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func pushed(tag, named string) store.Push {
	p := store.Push{Ref: pratique.Ref{Registry: "lab", Repo: "team/app", Tag: tag}, At: time.Now()}
	if named != "" {
		p.Ref.Digest = d(named)
	}
	return p
}

func (w *world) put(t *testing.T, q *Queue, ps ...store.Push) {
	t.Helper()
	if err := q.Put(t.Context(), ps); err != nil {
		t.Fatal(err)
	}
}

func outcome(q *Queue, name string) float64 {
	return testutil.ToFloat64(q.metrics.pushes.WithLabelValues(name))
}

func prefetch(t *testing.T, texts ...string) pratique.Patterns {
	t.Helper()
	ps, err := pratique.ParsePatterns(texts)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func TestFollowed(t *testing.T) {
	pending := func(n int) func(pratique.Ref, int) error {
		return func(_ pratique.Ref, k int) error {
			if k <= n {
				return fmt.Errorf("x: %w", pratique.ErrPending)
			}
			return nil
		}
	}
	for name, tt := range map[string]struct {
		prepare func(w *world)
		push    store.Push
		deleted bool
		after   time.Duration // a minute if zero
		want    string
		asked   int // of the upstream
		checked string
	}{
		"known here":      {push: pushed("1", ""), prepare: func(w *world) { w.tags["team/app:1"] = true }, want: pushDecided, asked: 1, checked: "team/app@6b86 team/app:1"},
		"prefetched":      {push: pushed("2.7", ""), want: pushDecided, asked: 1, checked: "team/app@6b86 team/app:2.7"},
		"neither":         {push: pushed("1", "1"), want: pushUnknown},
		"named and there": {push: pushed("2.7", "1"), want: pushDecided, asked: 1, checked: "team/app@6b86 team/app:2.7"},
		"the upstream is behind": {push: pushed("2.7", "2"), prepare: func(w *world) {
			w.names = func(_ pratique.Ref, n int) (digest.Digest, error) {
				return d(map[bool]string{true: "1", false: "2"}[n < 4]), nil
			}
		}, want: pushDecided, asked: 4, checked: "team/app@d473 team/app:2.7"},
		"not there yet": {push: pushed("2.7", ""), prepare: func(w *world) {
			w.names = func(_ pratique.Ref, n int) (digest.Digest, error) {
				return map[bool]digest.Digest{true: "", false: d("2")}[n < 3], nil
			}
		}, want: pushDecided, asked: 3, checked: "team/app@d473 team/app:2.7"},
		"it moved on": {push: pushed("2.7", "2"), want: pushDecided, asked: 8, checked: "team/app@6b86 team/app:2.7"},
		"never there": {push: pushed("2.7", ""), prepare: func(w *world) {
			w.names = func(pratique.Ref, int) (digest.Digest, error) { return "", nil }
		}, want: pushGone, asked: 8},
		"deleted": {push: pushed("2.7", "1"), deleted: true, prepare: func(w *world) {
			w.names = func(pratique.Ref, int) (digest.Digest, error) { return "", nil }
		}, want: pushGone, asked: 1},
		"deleted, says it, and is not": {push: pushed("2.7", "1"), deleted: true, want: pushDecided, asked: 1, checked: "team/app@6b86 team/app:2.7"},
		"the upstream is down for a while": {push: pushed("2.7", ""), after: 5 * time.Minute, prepare: func(w *world) {
			w.names = func(_ pratique.Ref, n int) (digest.Digest, error) {
				if n < 10 {
					return "", errors.New("502")
				}
				return d("1"), nil
			}
		}, want: pushDecided, asked: 10, checked: "team/app@6b86 team/app:2.7"},
		"the upstream stays down": {push: pushed("2.7", ""), after: time.Hour, prepare: func(w *world) {
			w.names = func(pratique.Ref, int) (digest.Digest, error) { return "", errors.New("502") }
		}, want: pushFailed, asked: 17},
		"the scan takes a while": {push: pushed("2.7", ""), prepare: func(w *world) { w.decides = pending(6) }, want: pushDecided, asked: 1,
			checked: "team/app@6b86 team/app@6b86 team/app@6b86 team/app@6b86 team/app@6b86 team/app@6b86 team/app@6b86 team/app:2.7"},
		"no verdict ever": {push: pushed("2.7", ""), after: time.Hour, prepare: func(w *world) { w.decides = pending(1 << 30) }, want: pushFailed, asked: 1, checked: "*"},
		"a part cannot be had": {push: pushed("2.7", ""), after: time.Hour, prepare: func(w *world) {
			w.decides = func(pratique.Ref, int) error { return errors.New("404") }
		}, want: pushFailed, asked: 1, checked: "*"},
		"untagged, unknown": {push: pushed("", "1"), want: pushUnknown},
		"untagged, known":   {push: pushed("", "1"), prepare: func(w *world) { w.held[d("1")] = true }, want: pushDecided, checked: "team/app@6b86"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			if tt.prepare != nil {
				tt.prepare(w)
			}
			if tt.after == 0 {
				tt.after = time.Minute
			}
			w.run(t, QueueConfig{Prefetch: prefetch(t, "lab/team/*:2.*")}, func(q *Queue) {
				p := tt.push
				p.At, p.Deleted = time.Now(), tt.deleted
				w.put(t, q, p)
				time.Sleep(tt.after)
				synctest.Wait()
				if outcome(q, tt.want) != 1 {
					t.Errorf("not %s; asked %v, checked %v", tt.want, w.asked, w.checks)
				}
				if len(w.asked) != tt.asked {
					t.Errorf("the upstream was asked %d times, want %d", len(w.asked), tt.asked)
				}
				if got := strings.Join(w.checks, " "); got != tt.checked && tt.checked != "*" {
					t.Errorf("checked %s, want %s", got, tt.checked)
				}
				if len(w.open) != 0 || len(q.open) != 0 || len(q.due) != 0 {
					t.Errorf("still open: %v %v %v", w.open, q.open, q.due)
				}
			})
		})
	}
}

// TestDeletedManifest: its tags are asked for.
func TestDeletedManifest(t *testing.T) {
	w := newWorld()
	w.tags["team/app:a"], w.tags["team/app:b"] = true, true
	w.spans = []store.TagSpan{{Tag: "a", Digest: d("1"), Now: d("1")}, {Tag: "b", Digest: d("1"), Now: d("2")}}
	w.names = func(pratique.Ref, int) (digest.Digest, error) { return "", nil }
	w.run(t, QueueConfig{}, func(q *Queue) {
		p := pushed("", "1")
		p.At, p.Deleted = time.Now(), true
		w.put(t, q, p)
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"team/app:a"}, w.asked); diff != "" {
			t.Error(diff)
		}
		if len(w.open) != 0 {
			t.Errorf("open: %v", w.open)
		}
	})
}

// TestTogether: what is told of one tag many times is followed up once more, one at a
// time; of many tags a few at once.
func TestTogether(t *testing.T) {
	w := newWorld()
	w.run(t, QueueConfig{Prefetch: prefetch(t, "lab/**"), Workers: 3}, func(q *Queue) {
		w.put(t, q, pushed("1", ""))
		time.Sleep(5 * time.Millisecond) // it is asked for just now
		for range 50 {
			w.put(t, q, pushed("1", ""))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"team/app:1", "team/app:1"}, w.asked); diff != "" {
			t.Error(diff)
		}
		w.asked, w.most = nil, 0
		var ps []store.Push
		for i := range 30 {
			ps = append(ps, pushed(fmt.Sprint(i), ""))
		}
		w.put(t, q, append(ps, ps...)...)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(w.asked) != 30 || w.most != 3 {
			t.Errorf("asked %d times, %d at once", len(w.asked), w.most)
		}
		if len(w.open) != 0 {
			t.Errorf("open: %v", w.open)
		}
	})
}

// TestReplaced: what is told while an earlier push is followed up is not lost, though
// that one ends well.
func TestReplaced(t *testing.T) {
	w := newWorld()
	w.names = func(_ pratique.Ref, n int) (digest.Digest, error) { return d(fmt.Sprint(n)), nil }
	w.run(t, QueueConfig{Prefetch: prefetch(t, "lab/**")}, func(q *Queue) {
		w.put(t, q, pushed("1", "1"))
		time.Sleep(5 * time.Millisecond)
		w.put(t, q, pushed("1", "2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"team/app@6b86", "team/app:1", "team/app@d473", "team/app:1"}, w.checks); diff != "" {
			t.Error(diff)
		}
		if len(w.open) != 0 {
			t.Errorf("open: %v", w.open)
		}
	})
}

func TestFull(t *testing.T) {
	w := newWorld()
	q := NewQueue(w, w, w, w, QueueConfig{Limit: 3})
	for i, want := range []error{nil, nil, nil, ErrFull, ErrFull} {
		if err := q.Put(t.Context(), []store.Push{pushed(fmt.Sprint(i), "")}); !errors.Is(err, want) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := q.Put(t.Context(), []store.Push{pushed("0", "1")}); err != nil {
		t.Errorf("one that waits already: %v", err)
	}
	if len(w.open) != 3 {
		t.Errorf("%d kept", len(w.open))
	}
}

// TestNextProcess: what an earlier one left is followed up, and what could not be kept
// is not accepted.
func TestNextProcess(t *testing.T) {
	w := newWorld()
	w.keep = errors.New("disk full")
	before := NewQueue(w, w, w, w, QueueConfig{})
	if err := before.Put(t.Context(), []store.Push{pushed("0", "")}); err == nil || len(before.open) != 0 {
		t.Errorf("%v, %d open", err, len(before.open))
	}
	w.keep = nil
	w.put(t, before, pushed("1", ""), pushed("2", "")) // and dies
	w.read = errors.New("locked")                      // once
	w.run(t, QueueConfig{Prefetch: prefetch(t, "lab/**")}, func(q *Queue) {
		time.Sleep(time.Minute)
		synctest.Wait()
		slices.Sort(w.asked)
		if diff := cmp.Diff([]string{"team/app:1", "team/app:2"}, w.asked); diff != "" {
			t.Error(diff)
		}
		if outcome(q, pushDecided) != 2 || len(w.open) != 0 {
			t.Errorf("open: %v", w.open)
		}
	})
}

// TestStopped: what is under way when the process stops stays open.
func TestStopped(t *testing.T) {
	w := newWorld()
	var log bytes.Buffer
	w.names = func(pratique.Ref, int) (digest.Digest, error) { return "", errors.New("502") }
	w.run(t, QueueConfig{Prefetch: prefetch(t, "lab/**"), Log: slog.New(slog.NewTextHandler(&log, nil))}, func(q *Queue) {
		w.put(t, q, pushed("1", ""))
		time.Sleep(5 * time.Millisecond)
	})
	if len(w.open) != 1 || log.Len() > 0 {
		t.Errorf("open: %v; log: %s", w.open, log.String())
	}
}
