package exception_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// decide is what a client meets that pulls docker.io/library/nginx, in which openssl
// has CVE-2024-1234; set changes the facts.
func (f *fixture) decide(set func(*policy.Facts)) pratique.Verdict {
	f.t.Helper()
	policies, err := policy.Load(policy.File{Name: "p.yaml", Data: []byte(
		"name: p\ndefault: allow\nrules: [{name: any, vulnerability: {}, action: deny}, {name: eol, endOfLife: {}, action: deny}]\n")})
	if err != nil {
		f.t.Fatal(err)
	}
	d := digest.FromString("nginx")
	facts := policy.Facts{
		Ref:   pratique.Ref{Registry: "docker.io", Repo: "library/nginx", Tag: "1.27", Digest: d},
		Image: pratique.Image{Digest: d, Kind: pratique.KindImage},
		Report: pratique.Report{Image: d, State: pratique.StateScanned, Config: pratique.ConfigFacts{Platform: pratique.Platform{OS: "linux", Architecture: "amd64"}},
			Findings: []pratique.Finding{{ID: "CVE-2024-1234", Kind: pratique.KindVulnerability, Package: "openssl", Installed: "1", PURL: "pkg:deb/debian/openssl@1", Severity: pratique.SeverityHigh}}},
		Now: f.clock.Now(), Exceptions: f.Current(),
	}
	if set != nil {
		set(&facts)
	}
	return policies.Decide(facts)
}

// TestInForce: created and revoked are decided by at once, an end by the clock.
func TestInForce(t *testing.T) {
	f := setup(t, database(t))
	f.reload()
	want := func(what string, outcome pratique.Outcome, until time.Time) {
		t.Helper()
		if v := f.decide(nil); v.Outcome != outcome || !v.Until.Equal(until) {
			t.Errorf("%s: %s until %s, want %s until %s", what, v.Outcome, v.Until, outcome, until)
		}
	}
	want("before", pratique.OutcomeDeny, time.Time{})
	x, err := f.Create(t.Context(), asked())
	if err != nil {
		t.Fatal(err)
	}
	want("created", pratique.OutcomeAllow, x.Expires)
	wantLift := []pratique.Lift{{Policy: "p", Rule: "any", Finding: "CVE-2024-1234", Package: "openssl", By: "exception " + x.ID, Why: "not reachable (ann)", Until: x.Expires}}
	if d := cmp.Diff(wantLift, f.decide(nil).Lifted); d != "" {
		t.Error(d)
	}
	f.restart()
	want("before the first reading of a new process", pratique.OutcomeDeny, time.Time{})
	f.reload()
	want("read by a new process", pratique.OutcomeAllow, x.Expires)
	f.clock.Add(x.Expires.Sub(start) - time.Second)
	want("in its last second", pratique.OutcomeAllow, x.Expires)
	f.clock.Add(time.Second)
	want("over", pratique.OutcomeDeny, time.Time{})

	again := asked()
	again.Expires = f.clock.Now().Add(time.Hour)
	if x, err = f.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	want("made anew", pratique.OutcomeAllow, x.Expires)
	if _, err := f.Revoke(t.Context(), x.ID, "ben", "wrong"); err != nil {
		t.Fatal(err)
	}
	want("revoked", pratique.OutcomeDeny, time.Time{})

	f.cfg.Files = []string{f.dir + "/a.yaml"}
	f.write("a.yaml", file("  - {finding: CVE-2024-1234, repository: docker.io/library/nginx, reason: r, author: a, created: 2026-12-10, expires: 2026-12-11}\n"))
	f.restart()
	f.reload()
	began, ended := time.Date(2026, 12, 10, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 12, 0, 0, 0, 0, time.UTC)
	want("that begins later", pratique.OutcomeDeny, began)
	f.clock.Add(began.Sub(f.clock.Now()))
	want("begun", pratique.OutcomeAllow, ended)
	f.clock.Add(ended.Sub(began))
	want("over at the end of its day", pratique.OutcomeDeny, time.Time{})
}

// TestLiftsNoMore: what somebody could hope to get past the gate with an exception
// about something else. Each is made in earnest: those that are refused are in
// TestCreateRefuses.
func TestLiftsNoMore(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*pratique.Exception)
		fact func(*policy.Facts)
		want pratique.Outcome
	}{
		{"as it is meant", nil, nil, pratique.OutcomeAllow},
		{"everything", func(x *pratique.Exception) { x.Repository = "**" }, nil, pratique.OutcomeAllow},
		{"one level of everything", func(x *pratique.Exception) { x.Repository = "*/*" }, nil, pratique.OutcomeDeny},
		{"another repository", func(x *pratique.Exception) { x.Repository = "docker.io/library/nginx-unprivileged" }, nil, pratique.OutcomeDeny},
		{"the beginning of its name", func(x *pratique.Exception) { x.Repository = "docker.io/library/ngin" }, nil, pratique.OutcomeDeny},
		{"its name under another upstream", func(x *pratique.Exception) { x.Repository = "ghcr.io/library/nginx" }, nil, pratique.OutcomeDeny},
		{"a name of which it is a part", nil, func(f *policy.Facts) { f.Ref.Repo = "library/nginx/evil" }, pratique.OutcomeDeny},
		{"another image", func(x *pratique.Exception) { x.Digest = digest.FromString("other") }, nil, pratique.OutcomeDeny},
		{"this image, another repository", func(x *pratique.Exception) {
			x.Digest, x.Repository = digest.FromString("nginx"), "lab/*"
		}, nil, pratique.OutcomeDeny},
		{"this image, any repository", func(x *pratique.Exception) { x.Digest, x.Repository = digest.FromString("nginx"), "" }, nil, pratique.OutcomeAllow},
		{"another finding", func(x *pratique.Exception) { x.Finding = "CVE-2024-12345" }, nil, pratique.OutcomeDeny},
		{"a pattern for a finding", func(x *pratique.Exception) { x.Finding = "CVE-*" }, nil, pratique.OutcomeDeny},
		{"this package", func(x *pratique.Exception) { x.Package = "openssl" }, nil, pratique.OutcomeAllow},
		{"another package", func(x *pratique.Exception) { x.Package = "openssl-dev" }, nil, pratique.OutcomeDeny},
		{"the package in capitals", func(x *pratique.Exception) { x.Package = "OpenSSL" }, nil, pratique.OutcomeDeny},
		{"a pattern for a package", func(x *pratique.Exception) { x.Package = "open*" }, nil, pratique.OutcomeDeny},
		{"a package that looks the same", func(x *pratique.Exception) { x.Package = "openssl" },
			func(f *policy.Facts) { f.Report.Findings[0].Package = "оpenssl" }, pratique.OutcomeDeny},
		{"the package's purl", func(x *pratique.Exception) { x.Package = "pkg:deb/debian/openssl@1" }, nil, pratique.OutcomeAllow},
		{"another version's purl", func(x *pratique.Exception) { x.Package = "pkg:deb/debian/openssl@2" }, nil, pratique.OutcomeDeny},
		{"another distribution's purl", func(x *pratique.Exception) { x.Package = "pkg:deb/ubuntu/openssl@1" }, nil, pratique.OutcomeDeny},
		{"another platform", func(x *pratique.Exception) {
			x.Platform = &pratique.Platform{OS: "linux", Architecture: "arm64"}
		}, nil, pratique.OutcomeDeny},
		{"a platform, of an image that claims none", func(x *pratique.Exception) {
			x.Platform = &pratique.Platform{OS: "linux", Architecture: "amd64"}
		}, func(f *policy.Facts) { f.Report.Config.Platform = pratique.Platform{} }, pratique.OutcomeDeny},
		{"the rule", func(x *pratique.Exception) { x.Finding, x.Rule = "", "p/any" }, nil, pratique.OutcomeAllow},
		{"the rule, while another one holds", func(x *pratique.Exception) { x.Finding, x.Rule = "", "p/any" },
			func(f *policy.Facts) { f.Report.EOL = true }, pratique.OutcomeDeny},
		{"another policy's rule", func(x *pratique.Exception) { x.Finding, x.Rule = "", "q/any" }, nil, pratique.OutcomeDeny},
		{"the rule in capitals", func(x *pratique.Exception) { x.Finding, x.Rule = "", "p/ANY" }, nil, pratique.OutcomeDeny},
		{"what was not scanned", func(x *pratique.Exception) { x.Repository = "**" },
			func(f *policy.Facts) { f.Report = pratique.Report{} }, pratique.OutcomeDeny},
		{"what was scanned in part", func(x *pratique.Exception) { x.Repository = "**" },
			func(f *policy.Facts) { f.Report.State = pratique.StateIncomplete }, pratique.OutcomeDeny},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := setup(t, &memory{})
			ask := asked()
			if tc.set != nil {
				tc.set(&ask)
			}
			if _, err := f.Create(t.Context(), ask); err != nil {
				t.Fatal(err)
			}
			if v := f.decide(tc.fact); v.Outcome != tc.want {
				t.Errorf("%s, want %s: %+v", v.Outcome, tc.want, v)
			}
		})
	}
}
