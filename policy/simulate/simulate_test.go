package simulate_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy/simulate"
	"pratique/store"
)

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// pulls is a log of pulls; an error ends it.
type pulls struct {
	list []store.Pull
	err  error
}

func (p pulls) Pulls(_ context.Context, since time.Time) iter.Seq2[store.Pull, error] {
	return func(yield func(store.Pull, error) bool) {
		for _, x := range p.list {
			if !x.At.Before(since) && !yield(x, nil) {
				return
			}
		}
		if p.err != nil {
			yield(store.Pull{}, p.err)
		}
	}
}

// gate answers by the name of the repository.
type gate map[string]any // pratique.Outcome or error

func (g gate) StandingFor(_ context.Context, ref pratique.Ref, img pratique.Image, client netip.Addr) (pratique.Decision, error) {
	d := pratique.Decision{Ref: ref, Image: img, Report: pratique.Report{Image: img.Digest, State: pratique.StateScanned}}
	answer, ok := g[ref.Repo+"@"+client.String()]
	if !ok {
		answer = g[ref.Repo]
	}
	switch v := answer.(type) {
	case error:
		return d, v
	case pratique.Outcome:
		d.Verdict = pratique.Verdict{Outcome: v, Reasons: []pratique.Reason{{Policy: "p", Rule: "r", Action: v, Message: "because"}}}
	}
	return d, nil
}

// manifests are images, one for each digest; those named are failures.
type manifests map[digest.Digest]error

func (m manifests) Image(_ context.Context, d digest.Digest) (pratique.Image, error) {
	return pratique.Image{Digest: d, Kind: pratique.KindImage}, m[d]
}

func pull(repo, client string) store.Pull {
	return store.Pull{Ref: pratique.Ref{Registry: "docker.io", Repo: repo, Digest: digest.FromString(repo)}, Client: client, At: now}
}

const (
	deny  = pratique.OutcomeDeny
	warn  = pratique.OutcomeWarn
	allow = pratique.OutcomeAllow
)

// TestRunSorts: each pair of answers belongs to one sort.
func TestRunSorts(t *testing.T) {
	pending := fmt.Errorf("x: %w", pratique.ErrPending)
	broken := errors.New("broken")
	for _, tc := range []struct {
		today, draft any
		want         string
	}{
		{allow, allow, "same"}, {deny, deny, "same"}, {warn, warn, "same"}, {warn, allow, "same"}, {allow, warn, "same warned"},
		{allow, deny, "refused"}, {warn, deny, "refused"}, {deny, allow, "served"}, {deny, warn, "served"},
		{pending, allow, "undecided"}, {allow, pending, "undecided"}, {deny, broken, "undecided"}, {broken, deny, "undecided"},
	} {
		out, err := simulate.Run(t.Context(), pulls{list: []store.Pull{pull("a", "10.0.0.1")}}, manifests{}, now, simulate.Config{Today: gate{"a": tc.today}, Draft: gate{"a": tc.draft}})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for name, n := range map[string]int{"same": out.Same.Pulls, "refused": out.Refused.Pulls, "served": out.Served.Pulls, "undecided": out.Undecided.Pulls} {
			if n == 1 {
				got += name
			}
		}
		if out.Warned.Pulls == 1 {
			got += " warned"
		}
		if got != tc.want {
			t.Errorf("%v → %v: %q, want %q", tc.today, tc.draft, got, tc.want)
		}
	}
}

func TestRunGathers(t *testing.T) {
	log := pulls{list: []store.Pull{
		pull("a", "10.0.0.2"), pull("a", "10.0.0.1"), pull("a", "10.0.0.1"), pull("b", "10.0.0.9"),
		{Ref: pratique.Ref{Registry: "docker.io", Repo: "a", Digest: digest.FromString("a")}, Client: "10.0.0.3", At: now.Add(-time.Second)},
	}}
	cfg := simulate.Config{Today: gate{"a": allow, "b": allow}, Draft: gate{"a": deny, "b": deny, "a@10.0.0.2": allow}, MaxClients: 1, MaxListed: 1}
	out, err := simulate.Run(t.Context(), log, manifests{}, now, cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := simulate.Change{
		Ref: "docker.io/a@" + digest.FromString("a").String(), Digest: digest.FromString("a"), Pulls: 3, LastPull: now,
		Clients: []simulate.Client{{Address: "10.0.0.1", Pulls: 2}}, AllClients: 2, Reasons: []string{"p/r: because"},
	}
	want := simulate.Result{Since: now, Pulls: 4, References: 2, Refused: simulate.Changes{
		Count: simulate.Count{References: 2, Pulls: 4, Clients: 3}, Images: []simulate.Change{a},
	}}
	want.Served.Images, want.Undecided.Images = []simulate.Change{}, []simulate.Change{}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
	cfg.ByClient = true
	if out, err = simulate.Run(t.Context(), log, manifests{}, now, cfg); err != nil {
		t.Fatal(err)
	}
	a.Pulls, a.AllClients = 2, 1
	want.References, want.Refused.Count, want.Same, want.Refused.Images[0] = 3, simulate.Count{References: 2, Pulls: 3, Clients: 2}, simulate.Count{References: 1, Pulls: 1, Clients: 1}, a
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
}

// TestRunFails: an answer is whole, or none.
func TestRunFails(t *testing.T) {
	broken := errors.New("disk on fire")
	log := []store.Pull{pull("a", "10.0.0.1"), pull("b", "10.0.0.1")}
	cfg := simulate.Config{Today: gate{"a": allow, "b": allow}, Draft: gate{"a": allow, "b": allow}}
	if _, err := simulate.Run(t.Context(), pulls{list: log, err: broken}, manifests{}, now, cfg); !errors.Is(err, broken) {
		t.Errorf("a log that fails: %v", err)
	}
	if _, err := simulate.Run(t.Context(), pulls{list: log}, manifests{digest.FromString("b"): broken}, now, cfg); !errors.Is(err, broken) {
		t.Errorf("a catalogue that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := simulate.Run(ctx, pulls{list: log}, manifests{}, now, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	cfg.MaxReferences = 1
	if _, err := simulate.Run(t.Context(), pulls{list: log}, manifests{}, now, cfg); !errors.Is(err, simulate.ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
}
