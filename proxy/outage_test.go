package proxy_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/store"
)

// A warm pull costs a real state nothing: by tag, by digest, blobs, a refusal.
func TestWarmPullAsksNoState(t *testing.T) {
	p := newPulled(t)
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	r := newReplicaOver(t, db, p)
	r.warm()
	r.warmAgain()
	if calls := r.remote.asked(); len(calls) > 0 {
		t.Errorf("the state was asked %v", calls)
	}
	r.lab.Expect()

	// When a minute is over: one HEAD, one write and one read of the tag, one decision.
	r.wait(time.Minute)
	r.want("manifests/good", 200)
	r.lab.Expect("HEAD /v2/app/manifests/good")
	if calls := strings.Join(r.remote.asked(), " "); calls != "SetTag Tag Report Served" {
		t.Errorf("after a minute the state was asked %v", calls)
	}
	r.want("manifests/good", 200)
	if calls := r.remote.asked(); len(calls) > 0 {
		t.Errorf("and then %v", calls)
	}
}

// warmAgain asks a few times for all that is warm.
func (r *replica) warmAgain() {
	r.t.Helper()
	for range 3 {
		for _, path := range []string{"manifests/good", "manifests/" + r.good.String(), r.layer("good")} {
			r.want(path, 200)
		}
		for _, path := range []string{"manifests/bad", "manifests/" + r.bad.String(), r.layer("bad")} {
			r.want(path, 403)
		}
	}
}

// A question that was asked before the state was confirmed says nothing any more when it
// is given up.
func TestLateSilence(t *testing.T) {
	for name, c := range map[string]struct {
		asked time.Time
		away  bool
	}{"before": {time.Now().Add(-3 * time.Second), false}, "since": {time.Now().Add(time.Hour), true}} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, func(cfg *proxy.GateConfig) { cfg.Failure, cfg.Hold = proxy.FailureServeLast, time.Second })
			r.warm()
			r.remote.fail(&store.Silence{Asked: c.asked, Err: errors.New("i/o timeout")})
			r.want("manifests/"+r.late.String(), http.StatusServiceUnavailable)
			r.remote.fail(nil)
			r.remote.asked()
			r.do(http.MethodGet, "manifests/"+r.fresh.String())
			if calls := r.remote.asked(); slices.Contains(calls, "Report") == c.away {
				t.Errorf("the state was asked afterwards: %v", calls)
			}
		})
	}
}

// What was decided is decided anew before the state goes away, though nobody asked
// again: for better and for worse.
func TestRenew(t *testing.T) {
	for name, renewed := range map[string]bool{"renewed": true, "nobody renewed": false} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t)
			r.want("manifests/good", http.StatusOK) // once, as most images are
			r.want(r.layer("good"), http.StatusOK)
			r.want("manifests/bad", http.StatusForbidden)
			r.report(r.good)
			r.report(r.bad)
			r.report(r.late)
			r.remote.stamps.Changed(store.TagKey(pratique.Ref{Registry: "lab", Repo: "app", Tag: "good"}))
			good, bad := http.StatusServiceUnavailable, http.StatusServiceUnavailable
			if renewed {
				good, bad = http.StatusOK, http.StatusOK
				if n := r.gate.Renew(t.Context()); n != 3 {
					t.Errorf("%d made anew, want 3", n)
				}
				if n := r.gate.Renew(t.Context()); n != 0 {
					t.Errorf("%d made anew again", n)
				}
			}
			r.remote.away()
			if n := r.gate.Renew(t.Context()); n != 0 {
				t.Errorf("%d made anew while the state is away", n)
			}
			r.want("manifests/good", good)
			r.want(r.layer("good"), good)
			r.want("manifests/bad", bad)
			r.want("manifests/late", http.StatusServiceUnavailable)
		})
	}
	t.Run("worse", func(t *testing.T) {
		r := newReplica(t)
		r.warm()
		r.report(r.good, leaked)
		r.gate.Renew(t.Context())
		r.remote.away()
		r.want("manifests/good", http.StatusForbidden)
		r.want("manifests/"+r.good.String(), http.StatusForbidden)
		if a := r.do(http.MethodGet, r.layer("good")); a.status == http.StatusOK {
			t.Error("its layer is served")
		}
	})
	t.Run("another policy", func(t *testing.T) {
		r := newReplica(t)
		r.warm()
		r.policies.use(t, laxRules)
		r.gate.Renew(t.Context())
		r.remote.away()
		r.want("manifests/bad", http.StatusOK)
	})
	t.Run("the state stops answering", func(t *testing.T) {
		r := newReplica(t)
		r.warm()
		r.remote.stamps.All()
		r.remote.silent()
		if n := r.gate.Renew(t.Context()); n != 0 {
			t.Errorf("%d made anew", n)
		}
		r.remote.back()
		if n := r.gate.Renew(t.Context()); n == 0 {
			t.Error("what was to be made anew is forgotten")
		}
	})
}

// A state that lost what was written last, or all of it: what this process remembers of
// manifests does not keep them from being known again.
func TestStateThatForgot(t *testing.T) {
	r := newReplica(t)
	r.warm()
	r.remote.backend = &memory{State: proxytest.NewState()}
	r.remote.stamps.All()
	r.report(r.good)
	r.report(r.bad, leaked)
	for range 2 {
		r.want("manifests/"+r.good.String(), http.StatusOK)
		r.want(r.layer("good"), http.StatusOK)
		r.want("manifests/"+r.bad.String(), http.StatusForbidden)
		r.want(r.layer("bad"), http.StatusForbidden)
	}
	if _, err := r.remote.backend.Image(t.Context(), r.good); err != nil {
		t.Errorf("the state knows no such manifest: %v", err)
	}
}

// Just before the state goes away somebody pulls another image with the same layers:
// which may name them is not known any more, that this one does is.
func TestSharedLayerWhileAway(t *testing.T) {
	r := newReplica(t, func(cfg *proxy.GateConfig) { cfg.Failure, cfg.Hold = proxy.FailureServeLast, time.Second })
	r.warm()
	for _, layer := range []string{r.layer("good"), r.layer("bad")} {
		r.remote.stamps.Changed(digest.Digest(strings.TrimPrefix(layer, "blobs/")))
	}
	r.remote.away()
	r.want(r.layer("good"), http.StatusOK)
	r.want(r.layer("bad"), http.StatusServiceUnavailable) // another image might let it through
	r.remote.stamps.Changed(r.good)
	r.want(r.layer("good"), http.StatusServiceUnavailable)
	r.remote.back()
	r.want(r.layer("good"), http.StatusOK)
	r.want(r.layer("bad"), http.StatusForbidden)
}

// TestStateAway: what was decided before goes on in one mode, nothing in the other;
// what is not known is neither served nor denied. Nobody waits, nothing is asked of
// the state, and nothing has to be done when it is back.
func TestStateAway(t *testing.T) {
	for _, mode := range []proxy.FailureMode{proxy.FailureServeLast, proxy.FailureRefuse, "nonsense"} {
		t.Run(string(mode), func(t *testing.T) {
			r := newReplica(t, func(cfg *proxy.GateConfig) { cfg.Failure, cfg.Hold = mode, time.Second })
			r.warm()
			r.wait(30 * time.Second)
			r.remote.away()
			status := func(n int) int {
				if mode != proxy.FailureServeLast {
					return http.StatusServiceUnavailable
				}
				return n
			}
			for range 2 {
				for _, known := range []struct {
					path   string
					status int
				}{
					{"manifests/good", 200},
					{"manifests/" + r.good.String(), 200},
					{r.layer("good"), 200},
					{"manifests/bad", 403},
					{"manifests/" + r.bad.String(), 403},
					{r.layer("bad"), 403},
				} {
					r.want(known.path, status(known.status))
				}
				for _, unknown := range []string{
					"manifests/fresh", "manifests/" + r.fresh.String(), r.layer("fresh"),
					"manifests/late", "manifests/" + r.late.String(), r.layer("late"),
					"manifests/" + digest.FromString("nowhere").String(), "blobs/" + digest.FromString("nowhere").String(),
					"referrers/" + r.late.String(),
				} {
					if a := r.want(unknown, http.StatusServiceUnavailable); !strings.Contains(a.body, "the state store of Pratique does not answer") ||
						!strings.Contains(a.body, string(proxy.CodeTooManyRequests)) {
						t.Errorf("%s: %s", unknown, a.body)
					}
				}
				if a := r.do(http.MethodHead, "manifests/fresh"); a.status != 200 {
					t.Errorf("HEAD of what is not known: %d; want a bare 200, as of all that is not decided", a.status)
				}
			}
			if mode == proxy.FailureServeLast { // what a tag names may be here under its digest
				r.lab.Expect(slices.Concat(slices.Repeat([]string{"HEAD /v2/app/manifests/fresh"}, 4), slices.Repeat([]string{"HEAD /v2/app/manifests/late"}, 2))...)
			} else {
				r.lab.Expect()
			}
			if calls := r.remote.asked(); len(calls) > 0 {
				t.Errorf("the state was asked %v", calls)
			}
			r.remote.back()
			r.warm()
			r.want("manifests/late", 200)
			r.want(r.layer("late"), 200)
			r.want("manifests/fresh", http.StatusTooManyRequests) // held, for a scan
		})
	}
}

// TestStateFallsSilent: the request that finds out is answered as those after it.
func TestStateFallsSilent(t *testing.T) {
	r := newReplica(t)
	r.warm()
	r.wait(10 * time.Minute) // decisions are to be made anew, and tags asked for
	r.remote.silent()
	r.want("manifests/"+r.good.String(), 200)
	r.want(r.layer("good"), 200)
	r.want("manifests/"+r.bad.String(), 403)
	r.want("manifests/"+r.late.String(), 503)
	if calls := r.remote.asked(); len(calls) == 0 {
		t.Error("the state was not asked, so that nobody can have found out")
	}
	r.want("manifests/"+r.good.String(), 200)
	r.want(r.layer("good"), 200)
	r.want("manifests/"+r.late.String(), 503)
	if calls := r.remote.asked(); len(calls) > 1 {
		t.Errorf("the state was asked %v, though it does not answer", calls)
	}
}

// TestTagsWhileAway: tags are asked for at the upstream as ever, and what it says is
// believed, but not what it names if that is not known.
func TestTagsWhileAway(t *testing.T) {
	tests := []struct {
		name   string
		up     func(r *replica)
		after  time.Duration
		status int
		seen   []string // nil: not looked at
	}{
		{"believed", func(*replica) {}, 30 * time.Second, 200, nil},
		{"confirmed", func(*replica) {}, 2 * time.Minute, 200, []string{"HEAD /v2/app/manifests/good"}},
		{"moved to what is not known", func(r *replica) { r.lab.Image("app", "good", noise(99, 1000)) }, 2 * time.Minute, 503, []string{"HEAD /v2/app/manifests/good", "HEAD /v2/app/manifests/good"}},
		{"moved to what was refused", func(r *replica) { r.lab.Image("app", "good", r.layers["bad"]) }, 2 * time.Minute, 503, []string{"HEAD /v2/app/manifests/good"}},
		{"gone", func(r *replica) { r.lab.Untag("app", "good") }, 2 * time.Minute, 404, nil},
		{"the upstream is down too", func(r *replica) { down(r.lab) }, 2 * time.Minute, 200, nil},
		{"the upstream is down for too long", func(r *replica) { down(r.lab) }, 10 * time.Hour, 200, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReplica(t)
			r.warm()
			r.remote.away()
			tt.up(r)
			r.wait(tt.after)
			r.want("manifests/good", tt.status)
			again := tt.status
			if again == http.StatusNotFound {
				again = http.StatusServiceUnavailable // what a tag that is not known names could not be recorded
			}
			r.want("manifests/good", again)
			if tt.seen != nil {
				r.lab.Expect(tt.seen...)
			}
			r.lab.Heal()
			for _, call := range r.remote.asked() {
				t.Errorf("the state was asked: %s", call)
			}
			r.remote.back()
			if tt.status == http.StatusOK {
				r.want("manifests/good", http.StatusOK)
			}
		})
	}
}

// TestOutageOpensNothing: ways to have served, because the state is away, what would
// not be served otherwise.
func TestOutageOpensNothing(t *testing.T) {
	tests := []struct {
		name   string
		before func(r *replica) // the state is there
		during func(r *replica)
		good   int // status of what was allowed
		bad    int // and of what was refused
	}{
		{"nothing but the outage", nil, nil, 200, 403},
		{"a stricter policy", nil, func(r *replica) { r.policies.use(r.t, strictRules) }, 503, 503},
		{"a laxer policy", nil, func(r *replica) { r.policies.use(r.t, laxRules) }, 503, 503},
		{"the policy from before again", nil, func(r *replica) { r.policies.use(r.t, strictRules); r.policies.use(r.t, normalRules) }, 200, 403},
		{"long, but not too long", nil, func(r *replica) { r.wait(12*time.Hour - time.Second) }, 200, 403},
		{"the report gets too old", nil, func(r *replica) { r.wait(12 * time.Hour) }, 503, 503},
		{"the report was too old, the decision is not", func(r *replica) { r.wait(12 * time.Hour); r.warm() }, nil, 503, 503},
		{"the clock goes back", nil, func(r *replica) { r.wait(-time.Hour) }, 503, 503},
		{"a report told of before, met by nobody", func(r *replica) { r.report(r.good, leaked) }, nil, 503, 403},
		{"a better report told of before", func(r *replica) { r.report(r.bad) }, nil, 200, 503},
		{"a better report elsewhere", nil, func(r *replica) { r.report(r.bad) }, 200, 403},
		{"an exception ends in time", func(r *replica) {
			r.except(time.Hour)
			r.want("manifests/"+r.bad.String(), 200)
		}, func(r *replica) {
			r.want("manifests/"+r.bad.String(), 200)
			r.wait(time.Hour)
		}, 503, 503}, // good was decided before the exception, and not since
		{"an exception nobody has used", func(r *replica) { r.except(time.Hour) }, nil, 503, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReplica(t)
			r.warm()
			if tt.before != nil {
				tt.before(r)
			}
			r.remote.away()
			if tt.during != nil {
				tt.during(r)
			}
			for _, a := range []struct {
				path   string
				status int
			}{
				{"manifests/" + r.good.String(), tt.good},
				{r.layer("good"), tt.good},
				{"manifests/" + r.bad.String(), tt.bad},
				{r.layer("bad"), tt.bad},
				{"manifests/" + r.fresh.String(), 503},
				{"manifests/" + r.late.String(), 503},
				{r.layer("late"), 503},
				{"blobs/" + r.bad.String(), tt.bad},
			} {
				r.want(a.path, a.status)
			}
		})
	}
}

// except lifts what bad is refused for.
func (r *replica) except(d time.Duration) {
	r.t.Helper()
	_, err := r.exceptions.Create(r.t.Context(), pratique.Exception{
		Finding: leaked.ID, Repository: "lab/app", Expires: r.clock().Add(d), Reason: "test", Author: "test",
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// An exception that is revoked elsewhere while the state is away is in force here
// until the state is back, or the report is too old.
func TestExceptionRevokedElsewhere(t *testing.T) {
	r := newReplica(t)
	r.except(100 * 24 * time.Hour)
	r.want("manifests/"+r.bad.String(), 200)
	r.remote.away()
	r.report(r.bad, leaked) // as another replica writes it
	r.want("manifests/"+r.bad.String(), 200)
	r.wait(13 * time.Hour)
	r.want("manifests/"+r.bad.String(), 503)
	r.remote.back()
	if _, err := r.exceptions.Revoke(t.Context(), r.exception(), "somebody", "over"); err != nil {
		t.Fatal(err)
	}
	r.want("manifests/"+r.bad.String(), 403)
}

func (r *replica) exception() string {
	r.t.Helper()
	all, err := r.remote.backend.Exceptions(r.t.Context())
	if err != nil || len(all) != 1 {
		r.t.Fatal(all, err)
	}
	return all[0].ID
}

// What the clock was when the state was last confirmed may be the future: that
// confirms nothing.
func TestConfirmedInTheFuture(t *testing.T) {
	r := newReplica(t)
	r.warm()
	r.remote.down.Store(true)
	r.remote.frozen.Store(time.Now().Add(time.Hour).UnixNano())
	r.want("manifests/good", 200)
	r.want("manifests/late", 503)
	if calls := r.remote.asked(); len(calls) > 0 {
		t.Errorf("the state was asked %v", calls)
	}
}
