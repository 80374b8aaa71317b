package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/store"
	"pratique/web"
)

// fakeVerdicts are the verdicts that clients met, by id.
type fakeVerdicts map[string]store.Judged

func (f fakeVerdicts) Verdict(_ context.Context, id string) (store.Judged, error) {
	if j, ok := f[id]; ok {
		return j, nil
	}
	return store.Judged{}, fmt.Errorf("verdict %q: %w", id, pratique.ErrNotFound)
}

func met() store.Judged {
	f := pratique.Finding{ID: "CVE-1", Kind: pratique.KindVulnerability, Package: "zlib", Installed: "1", Fixed: "2", Severity: pratique.SeverityHigh}
	return store.Judged{
		Ref: pratique.Ref{Registry: "lab", Repo: "app", Tag: "1", Digest: digestOf("old")}, Client: "192.0.2.7", At: now.Add(-time.Hour),
		Verdict: pratique.Verdict{ID: "old", Reasons: []pratique.Reason{
			{Policy: "p", Rule: "r", Message: "m", Findings: []pratique.Finding{f}},
			{Policy: "p", Rule: "s", Action: pratique.OutcomeWarn, Message: "m", Findings: []pratique.Finding{f}, GraceEnds: now},
		}},
	}
}

func TestVerdict(t *testing.T) {
	gate := &fakeGate{decision: pratique.Decision{
		Image: pratique.Image{Digest: digestOf("new")}, Report: pratique.Report{State: pratique.StateScanned},
		Verdict: pratique.Verdict{ID: "new", Outcome: pratique.OutcomeWarn, Lifted: []pratique.Lift{{Finding: "CVE-1", By: "exception ex-1", Why: "because", Until: now}}},
	}}
	srv := serve(t, web.Config{Gate: gate, Verdicts: fakeVerdicts{"old": met()}})
	status, body := ask(t, http.MethodGet, srv.URL+"/api/v1/verdicts/old", "")
	var got web.Met
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	want := web.Met{
		Ref: "lab/app:1", Digest: digestOf("old"), Client: "192.0.2.7", At: now.Add(-time.Hour),
		Verdict: &web.CheckVerdict{ID: "old", Lifted: []web.CheckLift{}, Reasons: []web.CheckReason{
			{Policy: "p", Rule: "r", Message: "m", Findings: []string{"CVE-1"}},
			{Policy: "p", Rule: "s", Action: pratique.OutcomeWarn, Message: "m", Findings: []string{"CVE-1"}, GraceEnds: &now},
		}},
		Findings: []web.CheckFinding{{ID: "CVE-1", Kind: pratique.KindVulnerability, Package: "zlib", Installed: "1", Fixed: "2", Severity: pratique.SeverityHigh}},
		Now: web.MetNow{Digest: digestOf("new"), Verdict: &web.CheckVerdict{
			ID: "new", Outcome: pratique.OutcomeWarn, Reasons: []web.CheckReason{},
			Lifted: []web.CheckLift{{Finding: "CVE-1", By: "exception ex-1", Why: "because", Until: &now}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The same pull: by the tag that was asked for, as the client that asked, and
	// nobody waits.
	if diff := cmp.Diff([]string{"lab/app:1"}, gate.asked); diff != "" || gate.clients[0] != netip.MustParseAddr("192.0.2.7") || gate.waits[0] != 0 {
		t.Errorf("asked %v as %v for %v", gate.asked, gate.clients, gate.waits)
	}
}

// TestVerdictNow: what was met is shown whatever becomes of the question what it
// would be now.
func TestVerdictNow(t *testing.T) {
	byDigest := met()
	byDigest.Ref.Tag = ""
	byDigest.Client = ""
	verdicts := fakeVerdicts{"old": met(), "digest": byDigest}
	for _, tt := range []struct {
		name, id  string
		fail      error
		asked     string
		wantError string
	}{
		{"pending", "old", fmt.Errorf("x: %w", pratique.ErrPending), "lab/app:1", "not decided yet"},
		{"gone upstream", "old", fmt.Errorf("x: %w", pratique.ErrNotFound), "lab/app:1", "x: "},
		{"never scanned", "old", nil, "lab/app:1", "not decided yet"},
		{"by digest", "digest", fmt.Errorf("x: %w", pratique.ErrPending), "lab/app@" + digestOf("old").String(), "not decided yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gate := &fakeGate{fail: tt.fail}
			srv := serve(t, web.Config{Gate: gate, Verdicts: verdicts})
			status, body := ask(t, http.MethodGet, srv.URL+"/api/v1/verdicts/"+tt.id, "")
			var got web.Met
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
				t.Fatalf("%d %s", status, body)
			}
			if got.Now.Verdict != nil || !strings.Contains(got.Now.Error, tt.wantError) || got.Verdict.ID != "old" || gate.asked[0] != tt.asked {
				t.Errorf("%+v, asked %v", got.Now, gate.asked)
			}
		})
	}
}

func TestVerdictUnknown(t *testing.T) {
	srv := serve(t, web.Config{Gate: &fakeGate{}, Verdicts: fakeVerdicts{}})
	for path, want := range map[string]int{"nobody": 404, strings.Repeat("x", 65): 400, "a/b": 404} {
		if status, body := ask(t, http.MethodGet, srv.URL+"/api/v1/verdicts/"+path, ""); status != want || !strings.Contains(body, `"hint":"`) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	srv = serve(t, web.Config{Gate: &fakeGate{}})
	if status, body := ask(t, http.MethodGet, srv.URL+"/api/v1/verdicts/x", ""); status != http.StatusServiceUnavailable {
		t.Errorf("without a history: %d %s", status, body)
	}
}

// explainingGate explains what it decides.
type explainingGate struct {
	*fakeGate
	rules map[digest.Digest][]policy.Evaluation
}

func (g explainingGate) Explain(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, map[digest.Digest][]policy.Evaluation, error) {
	d, err := g.Check(ctx, ref, client, wait)
	return d, g.rules, err
}

func TestCheckExplains(t *testing.T) {
	gate := explainingGate{
		&fakeGate{decision: pratique.Decision{
			Image:    pratique.Image{Digest: digestOf("index")},
			Verdict:  pratique.Verdict{Outcome: pratique.OutcomeAllow},
			Children: []pratique.Decision{{Image: pratique.Image{Digest: digestOf("a")}, Verdict: pratique.Verdict{Outcome: pratique.OutcomeAllow}}},
		}},
		map[digest.Digest][]policy.Evaluation{digestOf("a"): {{Policy: "p", Rule: "r", Action: "deny", Selected: "yes", Met: "no"}}},
	}
	srv := serve(t, web.Config{Gate: gate})
	for query, want := range map[string]int{"": 0, "&explain=false": 0, "&explain=true": 1} {
		status, body := ask(t, http.MethodGet, srv.URL+"/api/v1/check?ref=lab/a"+query, "")
		var got web.Check
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK || len(got.Rules) != 0 || len(got.Children[0].Rules) != want {
			t.Errorf("%q: %d %s", query, status, body)
		}
	}
	if status, _ := ask(t, http.MethodGet, srv.URL+"/api/v1/check?ref=lab/a&explain=please", ""); status != http.StatusBadRequest {
		t.Errorf("explain=please: %d", status)
	}
	srv = serve(t, web.Config{Gate: gate.fakeGate})
	if status, _ := ask(t, http.MethodGet, srv.URL+"/api/v1/check?ref=lab/a&explain=true", ""); status != http.StatusServiceUnavailable {
		t.Errorf("a gate that does not explain: %d", status)
	}
}
