package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pratique"
	"pratique/store"
)

// PullLog checks an implementation of store.PullLog that is a store.Pulls too.
func PullLog[T interface {
	store.Pulls
	store.PullLog
}](t *testing.T, fresh Fresh[T]) {
	tests := map[string]func(t *testing.T, open func() T){
		"Pulls":      logPulls[T],
		"Many":       logMany[T],
		"Verdicts":   logVerdicts[T],
		"Forget":     logForget[T],
		"Concurrent": logConcurrent[T],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func pulled(img string, at time.Time) store.Pull {
	return store.Pull{
		Ref: pratique.Ref{Registry: "docker.io", Repo: "r", Tag: "v1", Digest: sum(img)}, Client: "10.0.0.1", At: at,
		Outcome: pratique.OutcomeAllow, Verdict: "v-" + img,
	}
}

func since[T store.PullLog](t *testing.T, s T, when time.Time) []store.Pull {
	t.Helper()
	var out []store.Pull
	for p, err := range s.Pulls(t.Context(), when) {
		mustBe(t, err)
		out = append(out, p)
	}
	return out
}

func logPulls[T interface {
	store.Pulls
	store.PullLog
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	same(t, "Pulls before any", since(t, s, time.Time{}), nil)
	denied, warned, head := pulled("a", clock.Add(time.Minute)), pulled("a", clock.Add(2*time.Minute)), pulled("a", clock.Add(3*time.Minute))
	denied.Outcome, warned.Outcome = pratique.OutcomeDeny, pratique.OutcomeWarn
	head.Head, head.Client, head.Ref.Tag = true, "fd00::1", ""
	first, twin := pulled("b", clock), pulled("b", clock)
	twin.Ref.Repo = "elsewhere"
	// Batches may come out of order; two at one time stay in the order recorded.
	mustBe(t, s.Record(ctx, []store.Pull{warned, first}))
	mustBe(t, s.Record(ctx, []store.Pull{head, twin, denied}))
	s = open()
	same(t, "all, oldest first", since(t, s, time.Time{}), []store.Pull{first, twin, denied, warned, head})
	same(t, "since a time, that included", since(t, s, clock.Add(2*time.Minute)), []store.Pull{warned, head})
	same(t, "since later", since(t, s, clock.Add(time.Hour)), nil)
	for p, err := range s.Pulls(ctx, time.Time{}) {
		mustBe(t, err)
		same(t, "a loop that ends early", p, first)
		break
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	var last error
	for _, err := range s.Pulls(ended, time.Time{}) {
		last = err
	}
	if last == nil {
		t.Error("Pulls with an ended context yielded no error")
	}
}

func logMany[T interface {
	store.Pulls
	store.PullLog
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	const n = 10_000 // several pages of whoever reads in pages
	var batch, want []store.Pull
	for i := range n {
		p := pulled(fmt.Sprint("img", i%97), clock.Add(time.Duration(i/3)*time.Millisecond)) // ties
		p.Client = fmt.Sprint("10.0.0.", i%31)
		batch, want = append(batch, p), append(want, p)
		if len(batch) == 1000 {
			mustBe(t, s.Record(ctx, batch))
			batch = nil
		}
	}
	var got []store.Pull
	for p, err := range s.Pulls(ctx, clock) {
		mustBe(t, err)
		if got = append(got, p); len(got)%5000 == 1 { // the loop's body may write
			mustBe(t, s.Record(ctx, []store.Pull{pulled("before", clock.Add(-time.Hour))}))
		}
	}
	same(t, "Pulls", got, want)
}

func judged(id string, at time.Time) store.Judged {
	j := store.Judged{Ref: pulled("a", at).Ref, Client: "10.0.0.1", At: at, Verdict: pratique.Verdict{ID: id, Outcome: pratique.OutcomeWarn, Policy: "p"}}
	for i := range 50 { // worth compressing
		j.Verdict.Reasons = append(j.Verdict.Reasons, pratique.Reason{
			Policy: "default", Rule: fmt.Sprint("rule", i), Action: pratique.OutcomeWarn, Message: "a message", GraceEnds: at.Add(time.Hour),
			Findings: []pratique.Finding{finding("CVE-1", "x", "p")},
		})
	}
	return j
}

func logVerdicts[T interface {
	store.Pulls
	store.PullLog
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	_, err := s.Verdict(ctx, "v1")
	wantNotFound(t, "Verdict before RecordVerdicts", err)
	mustBe(t, s.RecordVerdicts(ctx, nil))
	deny := store.Judged{Ref: pulled("b", clock).Ref, At: clock, Verdict: pratique.Verdict{ID: "v2"}}
	again := judged("v1", clock.Add(time.Hour))
	mustBe(t, s.RecordVerdicts(ctx, []store.Judged{judged("v1", clock), deny, again}))
	s = open()
	mustBe(t, s.RecordVerdicts(ctx, []store.Judged{again}))
	got, err := s.Verdict(ctx, "v1")
	mustBe(t, err)
	same(t, "Verdict: the first stays", got, judged("v1", clock))
	got, err = s.Verdict(ctx, "v2")
	mustBe(t, err)
	same(t, "a refusal", got, deny)
	_, err = s.Verdict(ctx, "v")
	wantNotFound(t, "a part of an id", err)
}

func logForget[T interface {
	store.Pulls
	store.PullLog
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	mustBe(t, s.ForgetPulls(ctx, clock))
	old, kept := pulled("old", clock.Add(-time.Nanosecond)), pulled("kept", clock)
	again := pulled("old", clock.Add(-time.Hour))
	again.Client = "10.0.0.9"
	long := pulled("long", clock.Add(-time.Hour)) // its verdict is met again
	longer := pulled("long", clock.Add(time.Hour))
	mustBe(t, s.Record(ctx, []store.Pull{old, kept, again, long, longer}))
	mustBe(t, s.RecordVerdicts(ctx, []store.Judged{judged("v-old", clock.Add(-time.Hour)), judged("v-kept", clock), judged("v-long", clock.Add(-time.Hour))}))
	mustBe(t, s.ForgetPulls(ctx, clock))
	s = open()
	same(t, "Pulls", since(t, s, time.Time{}), []store.Pull{kept, longer})
	_, err := s.Verdict(ctx, "v-old")
	wantNotFound(t, "a verdict from before", err)
	for _, id := range []string{"v-kept", "v-long"} {
		_, err = s.Verdict(ctx, id)
		mustBe(t, err)
	}
	first, last, err := s.Served(ctx, sum("old"))
	mustBe(t, err)
	same(t, "Served stays", []time.Time{first, last}, []time.Time{again.At, old.At})
	mustBe(t, s.Record(ctx, []store.Pull{again}))
	same(t, "recorded after", since(t, s, time.Time{}), []store.Pull{again, kept, longer})
}

func logConcurrent[T interface {
	store.Pulls
	store.PullLog
}](t *testing.T, open func() T) {
	// Readers see whole pulls, in order, while others record and forget.
	s := open()
	concurrently(t, 9, func(ctx context.Context, i int) error {
		for j := range 20 {
			when := clock.Add(time.Duration(j) * time.Minute)
			switch i % 3 {
			case 0:
				p := pulled(fmt.Sprint("img", i, j), when)
				p.Client = fmt.Sprint("10.0.", i, ".", j)
				if err := s.Record(ctx, []store.Pull{p, p}); err != nil {
					return err
				}
			case 1:
				if err := s.ForgetPulls(ctx, when); err != nil {
					return err
				}
			default:
				last := time.Time{}
				for p, err := range s.Pulls(ctx, time.Time{}) {
					if err != nil {
						return err
					}
					if p.At.Before(last) || p.Client == "" || p.Ref.Digest == "" {
						return fmt.Errorf("pull %+v after one at %s", p, last)
					}
					last = p.At
				}
			}
		}
		return nil
	})
}
