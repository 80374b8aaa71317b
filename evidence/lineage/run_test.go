package lineage_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence"
	"pratique/evidence/lineage"
	"pratique/store"
)

// paper is store and upstream in memory, for tests in which time is the subject:
// a repository "app" that has the tags in upstream.
type paper struct {
	evidence.Registry
	lineage.Store

	mu       sync.Mutex
	upstream []string
	list     []string
	listed   time.Time
	seen     map[string]time.Time
	tags     map[string]store.TagState
	lists    []time.Time // when the upstream was asked
	scanned  map[string]bool
	asked    []string
}

func (p *paper) Tags(context.Context, pratique.Ref) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list, p.listed = append([]string{}, p.upstream...), time.Now()
	p.lists = append(p.lists, p.listed)
	for _, tag := range p.list {
		if _, ok := p.seen[tag]; !ok {
			p.seen[tag] = p.listed
		}
	}
	return p.list, nil
}

func (p *paper) Resolve(_ context.Context, ref pratique.Ref) (digest.Digest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := digest.FromString(ref.Tag)
	p.tags[ref.Tag] = store.TagState{Digest: d, CheckedAt: time.Now(), ChangedAt: time.Now()}
	return d, nil
}

func (p *paper) Tag(_ context.Context, ref pratique.Ref) (store.TagState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.tags[ref.Tag]
	if !ok {
		return s, pratique.ErrNotFound
	}
	return s, nil
}

func (p *paper) TagList(context.Context, pratique.Ref) ([]string, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listed.IsZero() {
		return nil, time.Time{}, pratique.ErrNotFound
	}
	return p.list, p.listed, nil
}

func (p *paper) TagsSeen(context.Context, pratique.Ref) (map[string]time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]time.Time{}
	for k, v := range p.seen {
		out[k] = v
	}
	return out, nil
}

func (p *paper) TagsOf(_ context.Context, ref pratique.Ref) ([]store.TagSpan, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []store.TagSpan{{Tag: "1.0.0", Digest: ref.Digest, Now: ref.Digest}}, nil
}

func (p *paper) compliant(_ context.Context, ref pratique.Ref) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.scanned[ref.Tag] {
		return false, fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	return true, nil
}

// request scans within a minute.
func (p *paper) request(_ context.Context, ref pratique.Ref) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, ref.Tag)
	time.AfterFunc(time.Minute, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.scanned[ref.Tag] = true
	})
	return nil
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paper{upstream: []string{"1.0.0", "1.0.1"}, seen: map[string]time.Time{}, tags: map[string]store.TagState{}, scanned: map[string]bool{}}
		l := lineage.New(p, p, lineage.Config{Compliant: p.compliant, Request: p.request, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(24 * time.Hour)
		if len(p.lists) > 0 {
			t.Fatal("asked for a list of a repository that nobody uses")
		}
		ref := pratique.Ref{Registry: "docker.io", Repo: "library/app", Tag: "1.0.0"}
		img := pratique.Image{Digest: digest.FromString("1.0.0"), Kind: pratique.KindImage}
		newerNow := func() []string {
			got, err := l.Lineage(ctx, ref, img, needNewer, true)
			if err != nil {
				t.Fatal(err)
			}
			return newer(got)
		}
		begun := time.Now()
		expect(t, "at first", newerNow(), []string{})
		if time.Since(begun) != 0 {
			t.Error("a pull waited")
		}
		time.Sleep(5 * time.Second)
		expect(t, "soon", newerNow(), []string{"patch 1.0.1"})
		stamp := l.Stamp()
		time.Sleep(80 * time.Second) // the scan ends
		if l.Stamp() == stamp {
			t.Error("the stamp is the same when the scan ended")
		}
		expect(t, "when the scan ended", newerNow(), []string{"patch 1.0.1 +"})

		p.mu.Lock()
		p.upstream = append(p.upstream, "1.0.2")
		p.lists = nil
		p.mu.Unlock()
		time.Sleep(24 * time.Hour)
		expect(t, "a day later", newerNow(), []string{"patch 1.0.2 +", "patch 1.0.1 +"})
		if n := len(p.lists); n < 22 || n > 28 {
			t.Errorf("%d lists in a day, want one in an hour", n)
		}
		expect(t, "fetched", p.asked, []string{"1.0.1", "1.0.2"})
		p.mu.Lock()
		p.scanned["1.0.2"] = false
		p.mu.Unlock()
		stamp = l.Stamp()
		l.Reconsider()
		expect(t, "under another policy", newerNow(), []string{"patch 1.0.2", "patch 1.0.1 +"})
		if l.Stamp() == stamp {
			t.Error("the stamp is the same under another policy")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
