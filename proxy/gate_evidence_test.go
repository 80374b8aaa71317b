package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/policy"
)

// memEvidence is Evidence whose every answer a test decides. It counts what it
// is asked.
type memEvidence struct {
	mu       sync.Mutex
	complete func(ctx context.Context, needs policy.Needs, f *policy.Facts, wait bool) error
	stamp    atomic.Uint64
	asked    atomic.Int64
	waited   atomic.Int64
}

func (e *memEvidence) Complete(ctx context.Context, needs policy.Needs, f *policy.Facts, wait bool) error {
	e.asked.Add(1)
	if wait {
		e.waited.Add(1)
	}
	e.mu.Lock()
	complete := e.complete
	e.mu.Unlock()
	return complete(ctx, needs, f, wait)
}

func (e *memEvidence) Stamp() uint64 { return e.stamp.Load() }

// say changes the answers; the stamp moves before say returns.
func (e *memEvidence) say(complete func(ctx context.Context, needs policy.Needs, f *policy.Facts, wait bool) error) {
	e.mu.Lock()
	e.complete = complete
	e.mu.Unlock()
	e.stamp.Add(1)
}

// facts is evidence that sets facts and never fails.
func facts(set func(f *policy.Facts)) *memEvidence {
	e := &memEvidence{}
	e.say(setting(set))
	return e
}

func setting(set func(f *policy.Facts)) func(context.Context, policy.Needs, *policy.Facts, bool) error {
	return func(_ context.Context, _ policy.Needs, f *policy.Facts, _ bool) error {
		set(f)
		return nil
	}
}

func failing(err error) *memEvidence {
	e := &memEvidence{}
	e.say(func(context.Context, policy.Needs, *policy.Facts, bool) error { return err })
	return e
}

// rules are policies with the given rules, and default: allow.
func rules(t *testing.T, lines ...string) *policy.Set {
	t.Helper()
	set, err := policy.Load(policy.File{Name: "p.yaml", Data: []byte("name: p\ndefault: allow\nrules:\n  - " + strings.Join(lines, "\n  - ") + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const (
	tagMovedRule  = `{name: moved, tagMoved: {}, action: deny}`
	signedRule    = `{name: signed, signature: {by: [key]}, action: deny}`
	criticalRule  = `{name: critical, vulnerability: {severity: CRITICAL}, action: deny}`
	graceRule     = `{name: critical, vulnerability: {severity: CRITICAL}, action: deny, grace: 14d}`
	unscannedRule = `{name: lab, match: {repository: [library/**]}, unscanned: {}, action: warn}`
)

// doors are all ways to an image called a, and to an index of it under the tag
// multi.
func doors(d, idx pratique.Descriptor) map[string]func(ctx context.Context, g *Gate) error {
	manifest := func(r Request) func(context.Context, *Gate) error {
		return func(ctx context.Context, g *Gate) error { _, err := g.Manifest(ctx, r); return err }
	}
	blob := func(r Request) func(context.Context, *Gate) error {
		return func(ctx context.Context, g *Gate) error { _, err := g.Blob(ctx, r); return err }
	}
	return map[string]func(ctx context.Context, g *Gate) error{
		"tag":                manifest(get(app, "1")),
		"digest":             manifest(get(app, string(d.Digest))),
		"index by tag":       manifest(get(app, "multi")),
		"index by digest":    manifest(get(app, string(idx.Digest))),
		"HEAD of the tag":    manifest(head(app, "1")),
		"HEAD of the digest": manifest(head(app, string(d.Digest))),
		"layer":              blob(get(app, string(layerOf("a")))),
		"config":             blob(get(app, string(configOf("a")))),
		"manifest as a blob": blob(get(app, string(d.Digest))),
		"referrers": func(ctx context.Context, g *Gate) error {
			_, err := g.Referrers(ctx, get(app, string(d.Digest)))
			return err
		},
	}
}

// evidenced is a world with a clean image under 1, in an index under multi.
func evidenced(t *testing.T) (w *world, d, idx pratique.Descriptor) {
	t.Helper()
	w = newWorld(t)
	d = w.image(t, app, "1", "a")
	w.clean(d)
	idx = w.index(t, app, "multi", at(d, amd64))
	for _, tag := range []string{"1", "multi"} { // known, as after a pull
		if _, err := w.Manifest(t.Context(), get(app, tag)); err != nil {
			t.Fatal(err)
		}
	}
	return w, d, idx
}

// TestEvidenceIsEveryDoors: what evidence says of an image holds for whatever
// way to it; what it cannot say serves nothing, as an outage and never as
// "not found".
func TestEvidenceIsEveryDoors(t *testing.T) {
	const outage = "503 INTERNAL"
	moved := func(f *policy.Facts) {
		f.Lineage.Moved = []pratique.TagMove{{Tag: "1", To: "sha256:x", At: time.Unix(1, 0)}, {Tag: "multi", To: "sha256:y", At: time.Unix(1, 0)}}
	}
	pending := fmt.Errorf("looking: %w", pratique.ErrPending)
	tests := []struct {
		name     string
		rules    string
		evidence Evidence
		want     string
	}{
		{"tags that did not move", tagMovedRule, facts(func(f *policy.Facts) { f.Lineage.Current = []string{"1", "multi"} }), ""},
		{"tags that moved", tagMovedRule, facts(moved), deniedCode},
		{"nobody who knows tags", tagMovedRule, nil, outage},
		{"a store that fails", tagMovedRule, failing(errors.New("database is locked")), outage},
		{"an upstream's 404", signedRule, failing(Errorf(CodeManifestUnknown, "no referrers")), outage},
		{"an upstream's 403", signedRule, failing(&Error{Code: CodeDenied, Message: "not you"}), outage},
		{"an upstream's 502", signedRule, failing(&Error{Code: codeInternal, HTTPStatus: 502}), outage},
		{"an upstream's 429", signedRule, failing(&Error{Code: CodeTooManyRequests}), pendingCode},
		{"an upstream's 404 behind a description", signedRule, failing(fmt.Errorf("its signatures: %w", Errorf(CodeManifestUnknown, "no"))), outage},
		{"being looked up", signedRule, failing(pending), pendingCode},
		{"being looked up beside a failure", signedRule, failing(errors.Join(pending, errors.New("x"))), pendingCode},
		{"a wait that was cut", signedRule, failing(context.DeadlineExceeded), outage},
		{"never checked", signedRule, facts(func(*policy.Facts) {}), deniedCode},
		{"checked, and nothing found", signedRule, facts(func(f *policy.Facts) {
			f.Attestations = pratique.Attestations{Image: f.Image.Digest, CheckedAt: time.Unix(1, 0)}
		}), deniedCode},
		{"nobody who knows signatures", signedRule, nil, deniedCode},
		{"nothing that the rules read", criticalRule, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, d, idx := evidenced(t)
			w.policies = rules(t, tt.rules)
			g := w.gate(GateConfig{Evidence: tt.evidence, Hold: 5 * time.Millisecond})
			for name, door := range doors(d, idx) {
				for range 2 { // the second time from memory, where it is
					err := door(t.Context(), g)
					if got := code(err); got != tt.want {
						t.Errorf("%s: %v, want %q", name, err, tt.want)
					}
					var e *Error
					if err != nil && (!errors.As(err, &e) || !e.Bare || tt.want != deniedCode && e.RetryAfter == 0) {
						t.Errorf("%s: %+v is no answer that keeps clients here", name, err)
					}
				}
			}
		})
	}
}

// TestEvidenceHolds: a GET waits for what is being looked up as it does for a
// scan, within the hold and the places there are; a HEAD does not.
func TestEvidenceHolds(t *testing.T) {
	w, _, _ := evidenced(t)
	w.policies = rules(t, signedRule)
	known := make(chan struct{})
	e := &memEvidence{}
	e.say(func(ctx context.Context, _ policy.Needs, f *policy.Facts, wait bool) error {
		if wait {
			select {
			case <-known:
			case <-ctx.Done():
			}
		}
		select {
		case <-known:
			f.Attestations = pratique.Attestations{Image: f.Image.Digest, CheckedAt: time.Unix(1, 0), Signatures: []pratique.Signature{{By: "key", Kind: "cosign"}}}
			return nil
		default:
			return fmt.Errorf("looking: %w", pratique.ErrPending)
		}
	})
	short := w.gate(GateConfig{Evidence: e, Hold: 5 * time.Millisecond})
	_, err := short.Manifest(t.Context(), get(app, "1"))
	if code(err) != pendingCode || !strings.Contains(err.Error(), "verdict pending") || e.waited.Load() != 1 {
		t.Errorf("GET: %v after %d waits", err, e.waited.Load())
	}
	if _, err := short.Manifest(t.Context(), head(app, "1")); code(err) != pendingCode || e.waited.Load() != 1 {
		t.Errorf("HEAD: %v after %d waits", err, e.waited.Load())
	}
	full := w.gate(GateConfig{Evidence: e, Hold: time.Minute, MaxHeld: 1})
	full.held.Store(1)
	if _, err := full.Manifest(t.Context(), get(app, "1")); code(err) != pendingCode || e.waited.Load() != 1 {
		t.Errorf("without a place: %v after %d waits", err, e.waited.Load())
	}
	g := w.gate(GateConfig{Evidence: e, Hold: time.Minute})
	answers := make(chan error, 4)
	for _, tag := range []string{"1", "1", "multi", "multi"} {
		go func() {
			_, err := g.Manifest(t.Context(), get(app, tag))
			answers <- err
		}()
	}
	for e.waited.Load() < 5 {
		time.Sleep(time.Millisecond)
	}
	close(known)
	e.stamp.Add(1)
	for range 4 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if n := g.held.Load(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

// TestEvidenceBesideAScan: what is being looked up does not keep a scan from
// being opened, and a rule that lets the unscanned through does so only when it
// is known to apply.
func TestEvidenceBesideAScan(t *testing.T) {
	w := newWorld(t)
	w.image(t, app, "fresh", "fresh")
	w.policies = rules(t, unscannedRule, signedRule)
	e := failing(fmt.Errorf("looking: %w", pratique.ErrPending))
	g := w.gate(GateConfig{Evidence: e, Hold: 5 * time.Millisecond})
	_, err := g.Manifest(t.Context(), get(app, "fresh"))
	if code(err) != pendingCode || !strings.Contains(err.Error(), "scan pending") {
		t.Error(err)
	}
	if diff := cmp.Diff(1, len(w.scans.askedFor())); diff != "" || e.waited.Load() != 0 {
		t.Errorf("scans opened (-want +got): %s; waited %d times for signatures", diff, e.waited.Load())
	}
	e.say(setting(func(f *policy.Facts) {
		f.Attestations = pratique.Attestations{Image: f.Image.Digest, CheckedAt: time.Unix(1, 0), Signatures: []pratique.Signature{{By: "key"}}}
	}))
	if m, err := g.Manifest(t.Context(), get(app, "fresh")); err != nil || len(m.Warnings) == 0 {
		t.Errorf("signed, not scanned, and a rule that lets that through: %v", err)
	}
	e.say(failing(errors.New("locked")).complete)
	if _, err := g.Manifest(t.Context(), get(app, "fresh")); code(err) != "503 INTERNAL" {
		t.Errorf("a failure: %v", err)
	}
}

// exceptionFor lifts critical from docker.io/library/app until it expires.
func exceptionFor(t *testing.T, from, until time.Time, revoked time.Time) *policy.Exceptions {
	t.Helper()
	x, err := policy.NewExceptions([]pratique.Exception{{
		ID: "ex-1", Finding: critical.ID, Repository: app, Reason: "because", Author: "ana", Created: from, Expires: until, Revoked: revoked,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestExceptionEnds: nobody is answered by an exception that expired after he
// asked by HEAD, or that was revoked before he asked, from memory or not.
func TestExceptionEnds(t *testing.T) {
	start := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		end  func(now *time.Time, e *memEvidence)
	}{
		{"it expires", func(now *time.Time, _ *memEvidence) { *now = start.Add(20 * time.Second) }},
		{"it is revoked", func(now *time.Time, e *memEvidence) {
			x := exceptionFor(t, start.Add(-time.Hour), start.Add(20*time.Second), *now)
			e.say(setting(func(f *policy.Facts) { f.Exceptions = x }))
		}},
		{"it is gone", func(_ *time.Time, e *memEvidence) { e.say(setting(func(*policy.Facts) {})) }},
		{"the clock goes back before it began", func(now *time.Time, _ *memEvidence) { *now = start.Add(-2 * time.Hour) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, d, idx := evidenced(t)
			w.critical(d)
			w.policies = rules(t, criticalRule)
			now := start
			x := exceptionFor(t, start.Add(-time.Hour), start.Add(20*time.Second), time.Time{})
			e := facts(func(f *policy.Facts) { f.Exceptions = x })
			g := w.gate(GateConfig{Evidence: e, Now: func() time.Time { return now }})
			for range 2 {
				for name, door := range doors(d, idx) {
					if err := door(t.Context(), g); err != nil {
						t.Fatalf("%s under the exception: %v", name, err)
					}
				}
			}
			now = now.Add(19 * time.Second)
			if _, err := g.Manifest(t.Context(), head(app, "1")); err != nil {
				t.Fatalf("its last second: %v", err)
			}
			tt.end(&now, e)
			for name, door := range doors(d, idx) {
				if err := door(t.Context(), g); code(err) != deniedCode {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// TestExceptionBegins: a refusal that is remembered does not outlive the
// exception that somebody makes because of it.
func TestExceptionBegins(t *testing.T) {
	start := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	w, d, idx := evidenced(t)
	w.critical(d)
	w.policies = rules(t, criticalRule)
	e := facts(func(*policy.Facts) {})
	g := w.gate(GateConfig{Evidence: e, Now: func() time.Time { return start }})
	for name, door := range doors(d, idx) {
		if err := door(t.Context(), g); code(err) != deniedCode {
			t.Errorf("%s: %v", name, err)
		}
	}
	x := exceptionFor(t, start, start.Add(time.Hour), time.Time{})
	e.say(setting(func(f *policy.Facts) { f.Exceptions = x }))
	for name, door := range doors(d, idx) {
		if err := door(t.Context(), g); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := g.Check(t.Context(), ref(app, "multi"), netip.Addr{}, 0)
	if err != nil || len(got.Verdict.Lifted) != 1 || got.Verdict.Lifted[0].By != "exception ex-1" || !got.Verdict.Until.Equal(start.Add(time.Hour)) {
		t.Errorf("the index's verdict does not show it: %+v, %v", got.Verdict, err)
	}
}

// TestGraceEnds: an image served before the finding is served with a warning
// that says until when, and refused from that moment on, although nothing but
// the clock moved; one that never was is refused at once, and served with a
// warning the moment that it turns out to have been.
func TestGraceEnds(t *testing.T) {
	seen := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	w, d, idx := evidenced(t)
	late := critical
	late.FirstSeen = seen
	w.scans.set(report(d.Digest, pratique.StateScanned, late))
	w.policies = rules(t, graceRule)
	now := seen.Add(14*24*time.Hour - 10*time.Second)
	var served atomic.Bool
	e := facts(func(f *policy.Facts) {
		if served.Load() {
			f.FirstServed = seen.Add(-time.Hour)
		}
	})
	g := w.gate(GateConfig{Evidence: e, Now: func() time.Time { return now }})
	if _, err := g.Manifest(t.Context(), get(app, "1")); code(err) != deniedCode {
		t.Errorf("never served: %v", err)
	}
	served.Store(true)
	w.stamps.Changed(d.Digest) // as a store.Pulls does that is a store.Stamper
	for range 2 {
		m, err := g.Manifest(t.Context(), get(app, "1"))
		if err != nil || len(m.Warnings) != 1 || !strings.Contains(m.Warnings[0], "refused from 2026-12-04 00:00 UTC on") {
			t.Fatalf("within the grace: %q, %v", m.Warnings, err)
		}
	}
	now = now.Add(9 * time.Second)
	for name, door := range doors(d, idx) {
		if err := door(t.Context(), g); err != nil {
			t.Errorf("%s in the last second: %v", name, err)
		}
	}
	now = now.Add(time.Second)
	for name, door := range doors(d, idx) {
		if err := door(t.Context(), g); code(err) != deniedCode {
			t.Errorf("%s after it: %v", name, err)
		}
	}
}

// TestUnservedIsRemembered until it is served: that moves its stamp.
func TestUnservedIsRemembered(t *testing.T) {
	w, d, _ := evidenced(t)
	w.policies = rules(t, graceRule)
	e := facts(func(*policy.Facts) {})
	g := w.gate(GateConfig{Evidence: e})
	for _, want := range []int64{1, 2} {
		for range 3 {
			if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil {
				t.Fatal(err)
			}
		}
		if n := e.asked.Load(); n != want {
			t.Errorf("evidence was asked %d times, want %d", n, want)
		}
		w.stamps.Changed(d.Digest)
	}
}

// TestEvidenceMovesWhileItIsRead: an answer from before a move is never
// remembered as one from after it, however the two meet.
func TestEvidenceMovesWhileItIsRead(t *testing.T) {
	start := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	w, d, _ := evidenced(t)
	w.critical(d)
	w.policies = rules(t, criticalRule)
	x := exceptionFor(t, start, start.Add(time.Hour), time.Time{})
	e := &memEvidence{}
	e.say(func(_ context.Context, _ policy.Needs, f *policy.Facts, _ bool) error {
		f.Exceptions = x // read before it is revoked
		e.say(setting(func(*policy.Facts) {}))
		return nil
	})
	g := w.gate(GateConfig{Evidence: e, Now: func() time.Time { return start }})
	if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil {
		t.Fatalf("a request that began before the revocation: %v", err)
	}
	if _, err := g.Manifest(t.Context(), get(app, "1")); code(err) != deniedCode {
		t.Errorf("one that began after it: %v", err)
	}
}

// TestRememberedEvidenceUnderChange: while others ask all the time, no request
// that begins after evidence changed is answered from before it.
func TestRememberedEvidenceUnderChange(t *testing.T) {
	start := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	w, d, idx := evidenced(t)
	w.critical(d)
	w.policies = rules(t, criticalRule)
	x := exceptionFor(t, start, start.Add(time.Hour), time.Time{})
	lifted, bare := setting(func(f *policy.Facts) { f.Exceptions = x }), setting(func(*policy.Facts) {})
	e := &memEvidence{}
	e.say(bare)
	g := w.gate(GateConfig{Evidence: e, Now: func() time.Time { return start }})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, door := range doors(d, idx) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = door(t.Context(), g)
				}
			}
		})
	}
	for round := range 100 {
		want := deniedCode
		if round%2 == 0 {
			want = ""
			e.say(lifted)
		} else {
			e.say(bare)
		}
		for name, door := range doors(d, idx) {
			if err := door(t.Context(), g); code(err) != want {
				t.Errorf("round %d, %s: %v, want %q", round, name, err, want)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// swapping are Policies that are replaced between the question what they need
// and the decision.
type swapping struct {
	old, next *policy.Set
	swapped   atomic.Bool
}

func (s *swapping) now() *policy.Set {
	if s.swapped.Load() {
		return s.next
	}
	return s.old
}

func (s *swapping) Needs() policy.Needs {
	n := s.now().Needs()
	s.swapped.Store(true)
	return n
}
func (s *swapping) Decide(f policy.Facts) pratique.Verdict { return s.now().Decide(f) }
func (s *swapping) Version() string                        { return s.now().Version() }

// TestPoliciesSwappedMidway: new policies never judge by the facts that the old
// ones asked for.
func TestPoliciesSwappedMidway(t *testing.T) {
	w, _, _ := evidenced(t)
	w.policies = &swapping{old: rules(t, criticalRule), next: rules(t, tagMovedRule)}
	var asked []policy.Needs
	e := &memEvidence{}
	e.say(func(_ context.Context, needs policy.Needs, f *policy.Facts, _ bool) error {
		asked = append(asked, needs)
		if needs.Has(policy.NeedTags) {
			f.Lineage.Moved = []pratique.TagMove{{Tag: "1", To: "sha256:x", At: time.Unix(1, 0)}}
		} else {
			f.Lineage.Current = []string{"1"} // whatever it is, it was not asked for
		}
		return nil
	})
	_, err := w.gate(GateConfig{Evidence: e}).Manifest(t.Context(), get(app, "1"))
	if code(err) != deniedCode {
		t.Errorf("%v after asking for %b", err, asked)
	}
}

// TestStandingAndCheck: a list neither waits nor guesses; a person's question
// waits.
func TestStandingAndCheck(t *testing.T) {
	w, d, _ := evidenced(t)
	w.policies = rules(t, signedRule)
	e := &memEvidence{}
	e.say(func(_ context.Context, _ policy.Needs, f *policy.Facts, wait bool) error {
		if !wait {
			return fmt.Errorf("looking: %w", pratique.ErrPending)
		}
		f.Attestations = pratique.Attestations{Image: f.Image.Digest, CheckedAt: time.Unix(1, 0), Signatures: []pratique.Signature{{By: "key"}}}
		return nil
	})
	g := w.gate(GateConfig{Evidence: e})
	img, err := w.catalog.Image(t.Context(), d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := g.Standing(t.Context(), ref(app, "1"), img); !errors.Is(err, pratique.ErrPending) || serves(got.Verdict) || e.waited.Load() != 0 {
		t.Errorf("standing: %+v, %v", got.Verdict, err)
	}
	if got, err := g.Check(t.Context(), ref(app, "1"), netip.Addr{}, 0); !errors.Is(err, pratique.ErrPending) || serves(got.Verdict) || e.waited.Load() != 0 {
		t.Errorf("a check that does not wait: %+v, %v", got.Verdict, err)
	}
	if got, err := g.Check(t.Context(), ref(app, "1"), netip.Addr{}, time.Minute); err != nil || !serves(got.Verdict) {
		t.Errorf("a check that waits: %+v, %v", got.Verdict, err)
	}
}

// TestAdvice is given with every refusal, of what is known here and may be had;
// that there is none is no reason for another answer.
func TestAdvice(t *testing.T) {
	newer := []pratique.Newer{{Tag: "3", Level: pratique.LevelMajor}, {Tag: "1.9", Level: pratique.LevelMinor, Compliant: true}, {Tag: "1.8", Compliant: true}}
	for _, tt := range []struct {
		name  string
		newer []pratique.Newer
		err   error
		want  string
	}{
		{"a compliant one", newer, nil, "Newest version that may be pulled: " + app + ":1.9 ."},
		{"none that is compliant", newer[:1], nil, ""},
		{"not known yet", nil, fmt.Errorf("looking: %w", pratique.ErrPending), ""},
		{"not to be had", nil, errors.New("locked"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, d, _ := evidenced(t)
			w.critical(d)
			w.policies = rules(t, criticalRule)
			e := &memEvidence{}
			e.say(func(_ context.Context, needs policy.Needs, f *policy.Facts, wait bool) error {
				if wait {
					t.Error("somebody waits for advice")
				}
				if needs == 0 {
					return nil // the rule reads nothing; advice is another question
				}
				f.Lineage.Newer = tt.newer
				return tt.err
			})
			g := w.gate(GateConfig{Evidence: e})
			for _, tag := range []string{"1", "multi", "1"} {
				_, err := g.Manifest(t.Context(), get(app, tag))
				var refusal *Error
				if !errors.As(err, &refusal) || refusal.Status() != http.StatusForbidden || strings.Contains(refusal.Message, "Newest") != (tt.want != "") || !strings.Contains(refusal.Message, tt.want) {
					t.Errorf("%s: %v", tag, err)
				}
			}
			got, err := g.Check(t.Context(), ref(app, "1"), netip.Addr{}, 0)
			if err != nil || (got.Advice != nil) != (tt.want != "") {
				t.Errorf("check: %+v, %v", got.Advice, err)
			}
		})
	}
}
