package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/store"
	"pratique/web"
)

// metVerdicts are verdicts that clients met.
type metVerdicts map[string]store.Judged

func (m metVerdicts) Verdict(_ context.Context, id string) (store.Judged, error) {
	if j, ok := m[id]; ok {
		return j, nil
	}
	return store.Judged{}, fmt.Errorf("verdict %q: %w", id, pratique.ErrNotFound)
}

// lived is a decision with everything that may stand in one.
func lived(outcome pratique.Outcome) pratique.Decision {
	return pratique.Decision{
		Image:  pratique.Image{Digest: digest.FromString("new")},
		Report: pratique.Report{State: pratique.StateScanned, ScannedAt: scannedAt},
		Verdict: pratique.Verdict{
			ID: "0653343f9e83", Outcome: outcome,
			Reasons: []pratique.Reason{{Policy: "p", Rule: "old", Action: outcome, Message: "m", GraceEnds: scannedAt.Add(24 * time.Hour)}},
			Lifted: []pratique.Lift{
				{Policy: "p", Rule: "critical", Finding: "CVE-1", Package: "zlib", By: "exception ex-1", Why: "not reachable", Until: scannedAt},
				{Policy: "p", Rule: "eol", By: "rule p/pause", Why: "the node's own"},
			},
		},
		Advice: &pratique.Newer{Tag: "1.4.9", Level: pratique.LevelPatch, Compliant: true},
	}
}

func TestCheckShowsWhatWasLifted(t *testing.T) {
	f := &fakeServer{decisions: map[string]pratique.Decision{"lab/app:1": lived(pratique.OutcomeDeny)}}
	got := runCommand(t, f.start(t), "check", "lab/app:1")
	for _, want := range []string{
		"  deny     p/old: m (refused from 2026-11-24T12:00:00Z on)",
		"  lifted   CVE-1 zlib from p/critical, by exception ex-1 until 2026-11-23T12:00:00Z: not",
		"  lifted   rule p/eol, by rule p/pause: the node's own",
		"use        1.4.9, the newest patch version known that may be pulled",
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	if got.code != exitRefused {
		t.Errorf("exit %d", got.code)
	}
}

func TestCheckVerdict(t *testing.T) {
	judged := store.Judged{
		Ref: pratique.Ref{Registry: "lab", Repo: "app", Tag: "1", Digest: digest.FromString("old")}, Client: "192.0.2.7", At: scannedAt,
		Verdict: pratique.Verdict{ID: "17dba9952df8", Reasons: []pratique.Reason{{Policy: "p", Rule: "critical", Message: "1 vulnerability", Findings: []pratique.Finding{
			{ID: "CVE-1", Kind: pratique.KindVulnerability, Package: "zlib", Installed: "1", Fixed: "2", Severity: pratique.SeverityHigh},
		}}}},
	}
	same := judged
	same.Verdict.ID = "0653343f9e83"
	same.Ref.Digest = digest.FromString("new")
	f := &fakeServer{decisions: map[string]pratique.Decision{"lab/app:1": lived(pratique.OutcomeWarn)}}
	srv := httptest.NewServer(web.New(web.Config{Gate: f, Upstreams: f, Verdicts: metVerdicts{"17dba9952df8": judged, "0653343f9e83": same}}))
	t.Cleanup(srv.Close)

	got := runCommand(t, srv.URL, "check", "--verdict", "17dba9952df8")
	for _, want := range []string{
		"image      lab/app:1",
		"met        at 2026-11-23T12:00:00Z, first by 192.0.2.7",
		"verdict    REFUSED (verdict 17dba9952df8)",
		"  deny     p/critical: 1 vulnerability",
		"now        ALLOWED with a warning (verdict 0653343f9e83)",
		"the tag names another image now:",
		digest.FromString("new").String(),
		"CVE-1",
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	if got.code != exitOK || got.errout != "" {
		t.Errorf("exit %d, %s", got.code, got.errout)
	}
	if got := runCommand(t, srv.URL, "check", "--verdict", "0653343f9e83"); !strings.Contains(got.out, "now        the same") || strings.Contains(got.out, "another image") {
		t.Errorf("the same verdict:\n%s", got.out)
	}
	got = runCommand(t, srv.URL, "check", "--verdict", "17dba9952df8", "-o", "json")
	var doc web.Met
	if err := json.Unmarshal([]byte(got.out), &doc); err != nil || doc.Verdict.ID != "17dba9952df8" || doc.Now.Verdict.ID != "0653343f9e83" {
		t.Errorf("%v in %s", err, got.out)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"check", "--verdict", "nobody"}, exitError, "no client met a verdict nobody"},
		{[]string{"check", "--verdict", "17dba9952df8", "lab/app:1"}, exitError, "leave out"},
	} {
		if got := runCommand(t, srv.URL, tt.args...); got.code != tt.code || !strings.Contains(got.errout, tt.want) {
			t.Errorf("%v: exit %d, %s", tt.args, got.code, got.errout)
		}
	}
	f.fail = fmt.Errorf("x: %w", pratique.ErrPending)
	if got := runCommand(t, srv.URL, "check", "--verdict", "17dba9952df8"); got.code != exitPending || !strings.Contains(got.out, "now        not known: not decided yet") {
		t.Errorf("exit %d\n%s", got.code, got.out+got.errout)
	}
}

// explainingServer explains what it decides.
type explainingServer struct {
	*fakeServer
	rules map[digest.Digest][]policy.Evaluation
}

func (s explainingServer) Explain(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, map[digest.Digest][]policy.Evaluation, error) {
	d, err := s.Check(ctx, ref, client, wait)
	return d, s.rules, err
}

func TestCheckExplain(t *testing.T) {
	f := explainingServer{
		&fakeServer{decisions: map[string]pratique.Decision{"lab/app:1": lived(pratique.OutcomeWarn)}},
		map[digest.Digest][]policy.Evaluation{digest.FromString("new"): {
			{Policy: "p", Rule: "critical", Condition: "vulnerability", Action: "deny", Selected: "yes", Met: "yes", Effect: "denies", Message: "1 vulnerability", Facts: "3 vulnerabilities"},
			{Policy: "p", Rule: "secrets", Condition: "secret", Action: "warn", Selected: "yes", Met: "no"},
			{Policy: "p", Rule: "pause", Condition: "always", Action: "exempt", Selected: "no", Met: "yes", Message: "not about this: repository"},
			{Policy: "p", Rule: "signed", Condition: "signature", Action: "allow", Selected: "unknown", Met: "unknown", Message: "not known: tag"},
			{Policy: "p", Rule: "old", Condition: "imageAge", Action: "deny", Selected: "yes", Met: "unknown"},
			{Policy: "p", Rule: "default", Action: "deny", Selected: "yes", Met: "yes", Effect: "denies", Message: "no rule matched"},
		}},
	}
	srv := httptest.NewServer(web.New(web.Config{Gate: f, Upstreams: f}))
	t.Cleanup(srv.Close)
	got := runCommand(t, srv.URL, "check", "lab/app:1", "--explain")
	const want = `
rules
  denies   p/critical (vulnerability, deny): met; 1 vulnerability
           read: 3 vulnerabilities
  -        p/secrets (secret, warn): not met
  -        p/pause (always, exempt): not about this: repository
  -        p/signed (signature, allow): not known whether it is about this; not known: tag
  -        p/old (imageAge, deny): not known whether it is met
  denies   p/default (deny): met; no rule matched
`
	if !strings.Contains(got.out, want) {
		t.Errorf("no %q in\n%s%s", want, got.out, got.errout)
	}
	if got := runCommand(t, srv.URL, "check", "lab/app:1"); strings.Contains(got.out, "rules") {
		t.Errorf("unasked:\n%s", got.out)
	}
}
