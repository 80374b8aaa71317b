package evidence_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence"
	"pratique/policy"
)

var errDown = errors.New("registry.example: connection refused")

// source is every source of facts but lists and exceptions. It answers after
// err, and remembers what it was asked.
type source struct {
	err    error
	stamp  atomic.Uint64
	waited atomic.Bool
	needs  policy.Needs
	served time.Time
}

func (s *source) Lineage(_ context.Context, _ pratique.Ref, _ pratique.Image, needs policy.Needs, wait bool) (pratique.Lineage, error) {
	s.needs = needs
	s.waited.Store(wait)
	return pratique.Lineage{Current: []string{"1"}}, s.err
}

func (s *source) Attestations(_ context.Context, _ pratique.Ref, img pratique.Image, wait bool) (pratique.Attestations, error) {
	s.waited.Store(wait)
	return pratique.Attestations{Image: img.Digest, CheckedAt: time.Unix(1, 0)}, s.err
}

func (s *source) Served(context.Context, digest.Digest) (first, last time.Time, err error) {
	if s.err == nil && s.served.IsZero() {
		return first, last, pratique.ErrNotFound
	}
	return s.served, s.served, s.err
}

func (s *source) Stamp() uint64 { return s.stamp.Load() }

// lists are exploits and exceptions that a test swaps.
type lists struct {
	exploits   atomic.Pointer[pratique.Exploits]
	exceptions atomic.Pointer[policy.Exceptions]
	stamp      atomic.Uint64
}

type exploits struct{ *lists }

func (l exploits) Current() *pratique.Exploits { return l.exploits.Load() }

type exceptions struct{ *lists }

func (l exceptions) Current() *policy.Exceptions { return l.exceptions.Load() }
func (l exceptions) Stamp() uint64               { return l.stamp.Load() }

const all = policy.NeedClient | policy.NeedServed | policy.NeedTags | policy.NeedNewer | policy.NeedBase | policy.NeedAttestations | policy.NeedExploits

// TestCompleteOnlyWhatIsNeeded: what no rule reads is neither asked for nor able
// to fail a decision.
func TestCompleteOnlyWhatIsNeeded(t *testing.T) {
	bad := &source{err: errDown}
	e := evidence.New(evidence.Config{Lineages: bad, Attestors: bad, History: bad})
	var f policy.Facts
	if err := e.Complete(t.Context(), policy.NeedClient, &f, false); err != nil {
		t.Errorf("nothing is needed: %v", err)
	}
	for _, needs := range []policy.Needs{policy.NeedServed, policy.NeedTags, policy.NeedNewer, policy.NeedBase, policy.NeedAttestations, all} {
		if err := e.Complete(t.Context(), needs, &f, false); !errors.Is(err, errDown) {
			t.Errorf("needs %b: %v, want the source's error", needs, err)
		}
	}
}

func TestComplete(t *testing.T) {
	good := &source{served: time.Unix(5, 0)}
	l := &lists{}
	l.exploits.Store(&pratique.Exploits{Version: "1"})
	l.exceptions.Store(new(policy.Exceptions))
	statements := policy.NewStatements(nil)
	e := evidence.New(evidence.Config{Lineages: good, Attestors: good, History: good, Exploits: exploits{l}, Exceptions: exceptions{l}, Statements: statements})
	f := policy.Facts{Image: pratique.Image{Digest: "sha256:1"}}
	if err := e.Complete(t.Context(), all, &f, true); err != nil {
		t.Fatal(err)
	}
	if f.Exploits != l.exploits.Load() || f.Exceptions != l.exceptions.Load() || f.Statements != statements || f.FirstServed.IsZero() ||
		!cmp.Equal(f.Lineage.Current, []string{"1"}) || f.Attestations.Image != "sha256:1" || !good.waited.Load() {
		t.Errorf("facts = %+v", f)
	}
	if good.needs != policy.NeedTags|policy.NeedNewer|policy.NeedBase {
		t.Errorf("the lineage was asked for %b", good.needs)
	}
	// Exceptions and statements are read whatever the rules read; the rest is not.
	f = policy.Facts{}
	if err := e.Complete(t.Context(), 0, &f, false); err != nil || f.Exceptions == nil || f.Statements == nil || f.Exploits != nil {
		t.Errorf("facts = %+v, %v", f, err)
	}
}

// TestCompleteWithoutSources: nothing that is missing helps an image.
func TestCompleteWithoutSources(t *testing.T) {
	e := evidence.New(evidence.Config{})
	var f policy.Facts
	if err := e.Complete(t.Context(), policy.NeedServed|policy.NeedAttestations|policy.NeedExploits, &f, true); err != nil {
		t.Error(err)
	}
	if !f.FirstServed.IsZero() || !f.Attestations.CheckedAt.IsZero() || f.Exploits != nil || f.Exceptions != nil || f.Statements != nil {
		t.Errorf("facts = %+v", f)
	}
	for _, needs := range []policy.Needs{policy.NeedTags, policy.NeedNewer, policy.NeedBase} {
		if err := e.Complete(t.Context(), needs, &f, true); err == nil {
			t.Errorf("needs %b without a lineage: no error", needs)
		}
	}
}

// TestCompletePending: what is being found out stays undecided, whatever else
// went well.
func TestCompletePending(t *testing.T) {
	pending := &source{err: fmt.Errorf("looking: %w", pratique.ErrPending)}
	e := evidence.New(evidence.Config{Lineages: pending, Attestors: &source{}, History: &source{}})
	if err := e.Complete(t.Context(), all, new(policy.Facts), false); !errors.Is(err, pratique.ErrPending) {
		t.Errorf("%v, want pending", err)
	}
}

// TestWelcomeFacts are waited for where a request can wait, and their lack is
// no reason to refuse a verdict.
func TestWelcomeFacts(t *testing.T) {
	pending := fmt.Errorf("looking: %w", pratique.ErrPending)
	for _, tt := range []struct {
		name  string
		err   error
		needs policy.Needs
		wait  bool
		want  error
		known bool
	}{
		{"here", nil, 0, false, nil, true},
		{"being looked for", pending, 0, false, pratique.ErrPending, false},
		{"not found in time", pending, 0, true, nil, false},
		{"not to be had", errDown, 0, false, nil, false},
		{"not to be had, and read by a rule", errDown, policy.NeedAttestations, true, errDown, true},
		{"not found in time, and read by a rule", pending, policy.NeedAttestations, true, pratique.ErrPending, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := evidence.New(evidence.Config{Attestors: &source{err: tt.err}, Welcome: policy.NeedAttestations})
			var f policy.Facts
			if err := e.Complete(t.Context(), tt.needs, &f, tt.wait); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if tt.want == nil && f.Attestations.CheckedAt.IsZero() == tt.known {
				t.Errorf("attestations = %+v", f.Attestations)
			}
		})
	}
}

// TestStamp moves with every source, and not without a reason.
func TestStamp(t *testing.T) {
	lineages, attestors, l := &source{}, &source{}, &lists{}
	e := evidence.New(evidence.Config{Lineages: lineages, Attestors: attestors, Exploits: exploits{l}, Exceptions: exceptions{l}})
	first, second := &pratique.Exploits{Version: "1"}, &pratique.Exploits{Version: "2"}
	last := e.Stamp()
	for _, tt := range []struct {
		name string
		move func()
	}{
		{"lineage", func() { lineages.stamp.Add(1) }},
		{"attestations", func() { attestors.stamp.Add(1) }},
		{"an exception", func() { l.stamp.Add(1) }},
		{"statements", func() { e.UseStatements(policy.NewStatements(nil)) }},
		{"a list", func() { l.exploits.Store(first) }},
		{"another list", func() { l.exploits.Store(second) }},
		{"the first list again, and nobody asked meanwhile but a decision", func() {
			l.exploits.Store(first)
			_ = e.Complete(context.Background(), policy.NeedExploits, new(policy.Facts), false)
			l.exploits.Store(second)
		}},
		{"no list", func() { l.exploits.Store(nil) }},
	} {
		tt.move()
		now := e.Stamp()
		if now == last {
			t.Errorf("%s: the stamp did not move", tt.name)
		}
		if again := e.Stamp(); again != now {
			t.Errorf("%s: the stamp moves on its own", tt.name)
		}
		last = now
	}
	if n := testing.AllocsPerRun(100, func() { e.Stamp() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
