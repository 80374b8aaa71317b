package proxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

func vulnerability(id, name, installed, fixed string) pratique.Finding {
	return pratique.Finding{ID: id, Kind: pratique.KindVulnerability, Package: name, Installed: installed, Fixed: fixed, Severity: pratique.SeverityCritical}
}

func decision(reasons ...pratique.Reason) pratique.Decision {
	return pratique.Decision{
		Ref:     pratique.Ref{Registry: "docker.io", Repo: "library/app", Tag: "1.4", Digest: hexDigest},
		Image:   pratique.Image{Digest: hexDigest},
		Verdict: pratique.Verdict{ID: "3fa9c1d2e4b0", Reasons: reasons},
	}
}

// The canonical refusal, as a client gets it.
func TestRefusalGolden(t *testing.T) {
	d := decision(
		pratique.Reason{Policy: "default", Rule: "fixable-critical", Message: "5 fixable vulnerabilities of severity CRITICAL", Findings: []pratique.Finding{
			vulnerability("CVE-2024-3094", "liblzma5", "5.6.0-0.2", "5.6.1+really5.4.5-1"),
			vulnerability("CVE-2022-0778", "libssl3", "3.0.1-1", "3.0.2-0ubuntu1.2"),
			vulnerability("GHSA-jfh8-c2jp-5v3q", "org.apache.logging.log4j:log4j-core", "2.14.1", "2.15.0"),
			vulnerability("CVE-2021-44906", "minimist", "1.2.5", "1.2.6"),
			vulnerability("CVE-2023-45853", "zlib1g", "1:1.2.13.dfsg-1", ""),
		}},
		pratique.Reason{Policy: "default", Rule: "secrets", Action: pratique.OutcomeWarn, Message: "1 secret"},
		pratique.Reason{Policy: "strict", Rule: "end-of-life", Message: "debian 10 is past its end of life"},
	)
	d.Advice = &pratique.Newer{Tag: "1.4.9", Level: pratique.LevelPatch, Compliant: true}
	body, err := encode(errorBody(refused(d, "")))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"errors":[{"code":"DENIED","message":"refused by rule default/fixable-critical: ` +
		`CVE-2024-3094 liblzma5 5.6.0-0.2 -> 5.6.1+really5.4.5-1, CVE-2022-0778 libssl3 3.0.1-1 -> 3.0.2-0ubuntu1.2, ` +
		`GHSA-jfh8-c2jp-5v3q org.apache.logging.log4j:log4j-core 2.14.1 -> 2.15.0 and 2 more; verdict 3fa9c1d2e4b0. ` +
		`Newest version that may be pulled: docker.io/library/app:1.4.9 . ` +
		`To except CVE-2024-3094: pratique exception create --finding CVE-2024-3094 --repository docker.io/library/app --expires 14d --reason \"...\" . ` +
		`5 fixable vulnerabilities of severity CRITICAL. Also rule strict/end-of-life: debian 10 is past its end of life. ` +
		`Details: pratique check --verdict 3fa9c1d2e4b0 . ` + defaultHelp + `","detail":`
	if !strings.HasPrefix(string(body), want) {
		t.Errorf("body (-want +got):\n%s", cmp.Diff(want, string(body)))
	}
	var doc struct {
		Errors []struct {
			Detail struct {
				Ref     string
				Digest  string
				Verdict struct {
					ID, Outcome string
					Reasons     []map[string]any
				}
				Findings  []pratique.Finding
				Advice    pratique.Newer
				Exception string
			}
		}
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	got := doc.Errors[0].Detail
	if got.Verdict.Outcome != "deny" || got.Verdict.ID != "3fa9c1d2e4b0" || len(got.Verdict.Reasons) != 2 || len(got.Findings) != 5 || got.Digest != hexDigest ||
		got.Advice.Tag != "1.4.9" || !strings.HasPrefix(got.Exception, "pratique exception create --finding CVE-2024-3094 ") {
		t.Errorf("detail = %+v", got)
	}
}

// The command is pasted into a shell: it is there whole, of plain words, and
// only where it helps.
func TestRefusalException(t *testing.T) {
	finding := func(id string) pratique.Reason {
		return pratique.Reason{Policy: "p", Rule: "r", Message: "m", Findings: []pratique.Finding{{ID: id, Kind: pratique.KindLicense, Package: "x"}}}
	}
	const repo = " --repository docker.io/library/app --expires 14d --reason \"...\""
	tests := []struct {
		name   string
		repo   string
		reason pratique.Reason
		want   string
	}{
		{"a finding", "", finding("CVE-2024-3094"), "pratique exception create --finding CVE-2024-3094" + repo},
		{"a rule", "", pratique.Reason{Policy: "p", Rule: "end-of-life", Message: "m"}, "pratique exception create --rule p/end-of-life" + repo},
		{"a shell's own characters", "", finding("GPL-3.0$(rm -rf ~)"), ""},
		{"a quote", "", finding("x';reboot"), ""},
		{"a flag", "", finding("--digest"), ""},
		{"a line", "", finding("CVE-1\nreboot"), ""},
		{"nothing", "", finding(""), ""},
		{"the gate's own", "", pratique.Reason{Policy: "gate", Rule: "foreign-layer", Message: "m"}, ""},
		{"a policy of the gate's name", "", pratique.Reason{Policy: "gate", Rule: "old", Message: "m"}, "pratique exception create --rule gate/old" + repo},
		{"no policy", "", pratique.Reason{Rule: "default", Message: "m"}, ""},
		{"the default", "", pratique.Reason{Policy: "p", Rule: "default", Message: "m"}, "pratique exception create --rule p/default" + repo},
		{"not scanned", "", pratique.Reason{Policy: "p", Rule: "unscanned", Message: "m"}, ""},
		{"scan failed, by a rule of another name", "", pratique.Reason{Policy: "p", Rule: "mine", State: pratique.StateFailed, Message: "m"}, ""},
		{"a name without room", strings.Repeat("a/", 120) + "x", finding("CVE-1"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := decision(tt.reason)
			if tt.repo != "" {
				d.Ref.Repo = tt.repo
			}
			text := refusalText(d, "")
			if tt.want == "" && strings.Contains(text, "pratique exception") || !strings.Contains(text, tt.want) {
				t.Errorf("%q does not say %q", text, tt.want)
			}
		})
	}
}

func TestRefusalAdvice(t *testing.T) {
	d := decision(pratique.Reason{Policy: "p", Rule: "r", Message: "m"})
	for _, tt := range []struct {
		advice *pratique.Newer
		want   string
	}{
		{nil, "; verdict 3fa9c1d2e4b0. To except"},
		{&pratique.Newer{Tag: "1.5"}, "; verdict 3fa9c1d2e4b0. Newest version that may be pulled: docker.io/library/app:1.5 . "},
		{&pratique.Newer{Digest: hexDigest}, "; verdict 3fa9c1d2e4b0. Newest version that may be pulled: docker.io/library/app@" + hexDigest + " . "},
		{&pratique.Newer{Tag: "1.5 ; reboot"}, "; verdict 3fa9c1d2e4b0. To except"},
	} {
		d.Advice = tt.advice
		if text := refusalText(d, ""); !strings.Contains(text, tt.want) {
			t.Errorf("%+v: %q", tt.advice, text)
		}
	}
}

// What people need is in the first 300 bytes, whatever names an image chose,
// and the whole fits beside a client's own words into 1,024.
func TestRefusalTextBounds(t *testing.T) {
	long := strings.Repeat("x", 500)
	many := make([]pratique.Finding, 1000)
	for i := range many {
		many[i] = vulnerability(fmt.Sprintf("CVE-2024-%05d", i), long, long, long)
	}
	secret := pratique.Finding{ID: "aws-key", Kind: pratique.KindSecret, Path: "/root/.aws/credentials"}
	var rules []pratique.Reason
	for i := range 60 {
		rules = append(rules, pratique.Reason{Policy: long, Rule: fmt.Sprint("r", i), Message: long, Findings: many})
	}
	tests := []struct {
		name string
		d    pratique.Decision
		help string
		want []string // in the first 300 bytes
	}{
		{"long names", decision(pratique.Reason{Policy: "p", Rule: "r", Findings: many}), "", []string{"p/r", "CVE-2024-00000", "more; verdict 3fa9c1d2e4b0"}},
		{"many long rules", decision(rules...), "", []string{"CVE-2024-00000", "verdict 3fa9c1d2e4b0"}},
		{"a long message", decision(pratique.Reason{Policy: "p", Rule: "r", Message: long}), "", []string{"p/r", "verdict 3fa9c1d2e4b0"}},
		{"a long help", decision(pratique.Reason{Policy: "p", Rule: "r", Message: "m"}), long + long, []string{"p/r: m; verdict 3fa9c1d2e4b0"}},
		{"one finding", decision(pratique.Reason{Policy: "p", Rule: "r", Findings: many[:1]}), "", []string{"CVE-2024-00000"}},
		{"a secret", decision(pratique.Reason{Policy: "p", Rule: "r", Findings: []pratique.Finding{secret}}), "", []string{"aws-key in /root/.aws/credentials; verdict"}},
		{"no fix", decision(pratique.Reason{Policy: "p", Rule: "r", Findings: []pratique.Finding{vulnerability("CVE-1", "a", "1", "")}}), "", []string{"CVE-1 a 1 (no fix); verdict"}},
		{"no reason", decision(), "", []string{"verdict 3fa9c1d2e4b0"}},
		{"control characters", decision(pratique.Reason{Policy: "p", Rule: "r", Findings: []pratique.Finding{vulnerability("CVE-1", "a\x1b[2J\r\nb\u202e", "1", "2")}}), "", []string{"a [2J  b "}},
		{"bytes that are no text", decision(pratique.Reason{Policy: "p", Rule: "r", Message: "a\xff" + strings.Repeat("é", 400)}), "", []string{"verdict 3fa9c1d2e4b0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := refusalText(tt.d, tt.help)
			if len(text) > messageLength || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x1b") {
				t.Errorf("%d bytes: %q", len(text), text)
			}
			vital := text[:min(len(text), vitalLength+4)]
			for _, want := range tt.want {
				if !strings.Contains(vital, want) {
					t.Errorf("%q is not in %q", want, vital)
				}
			}
			body, err := encode(errorBody(refused(tt.d, tt.help)))
			if err != nil || len(body) > 256<<10 {
				t.Errorf("the document has %d bytes, %v", len(body), err)
			}
		})
	}
}

func TestUndecidedEvidence(t *testing.T) {
	d := decision()
	d.Report.State = pratique.StateScanned
	index := pratique.Decision{Ref: d.Ref, Children: []pratique.Decision{d, d}}
	mixed := pratique.Decision{Ref: d.Ref, Children: []pratique.Decision{d, decision()}}
	for _, tt := range []struct {
		d    pratique.Decision
		want string
	}{{d, "verdict pending: "}, {index, "verdict pending: "}, {mixed, "scan pending: "}} {
		if e := undecided(tt.d, time.Second, pratique.ErrPending); !strings.HasPrefix(e.Message, tt.want) {
			t.Errorf("%q, want %q", e.Message, tt.want)
		}
	}
}

func TestUndecided(t *testing.T) {
	e := undecided(decision(), 5*time.Second, pratique.ErrPending)
	if code(e) != pendingCode || !e.Bare || e.RetryAfter != 5*time.Second || !strings.HasPrefix(e.Message, "scan pending: docker.io/library/app:1.4@"+hexDigest) {
		t.Errorf("%+v", e)
	}
}

func TestWarningTexts(t *testing.T) {
	v := pratique.Verdict{Outcome: pratique.OutcomeWarn, Reasons: []pratique.Reason{
		{Policy: "p", Rule: "secrets", Action: pratique.OutcomeWarn, Message: "1 secret", Findings: []pratique.Finding{{ID: "key", Kind: pratique.KindSecret, Path: "/a"}}},
		{Policy: "p", Rule: "other", Action: pratique.OutcomeAllow, Message: "m"},
	}}
	v.Reasons = append(v.Reasons, pratique.Reason{
		Policy: "p", Rule: "old", Action: pratique.OutcomeWarn, Message: "1 vulnerability", GraceEnds: time.Date(2026, 12, 7, 1, 0, 0, 0, time.FixedZone("", 3600)),
		Findings: []pratique.Finding{vulnerability("CVE-1", "a", "1", "2")},
	})
	if diff := cmp.Diff([]string{"rule p/secrets: 1 secret: key in /a", "rule p/old: refused from 2026-12-07 00:00 UTC on: 1 vulnerability: CVE-1 a 1 -> 2"}, warningTexts(v)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	v.Outcome = pratique.OutcomeAllow
	if got := warningTexts(v); got != nil {
		t.Errorf("an allowed image warns: %q", got)
	}
}

// A detail is bounded however large findings are: the digest of the document
// is remembered, and clients print it.
func TestDetailIsBounded(t *testing.T) {
	fs := make([]pratique.Finding, 5000)
	d := detail(decision(pratique.Reason{Rule: "r", Findings: fs}, pratique.Reason{Rule: "s", Findings: fs}))
	if len(d.Findings) != detailFindings || len(d.Verdict.Reasons) != 2 || d.Verdict.Reasons[0].Findings != nil {
		t.Errorf("%d findings, reasons %v", len(d.Findings), d.Verdict.Reasons)
	}
	if d.Digest != digest.Digest(hexDigest) {
		t.Errorf("digest = %s", d.Digest)
	}
}

func TestFixesAreCutBetweenVersions(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"5.6.1+really5.4.5-1":                 "5.6.1+really5.4.5-1",
		"6.2.20, 7.2.11":                      "6.2.20, 7.2.11",
		"6.2.20, 7.2.11, 7.4.6, 80":           "6.2.20, 7.2.11, 7.4.6, 80",
		"6.2.20, 7.2.11, 7.4.6, 8.0.4, 8.2.2": "6.2.20, 7.2.11, 7.4.6, ...",
		"1.0.0-a-version-longer-than-the-limit-is": "1.0.0-a-version-longer-than...",
	} {
		if got := fixes(in, 30); got != want {
			t.Errorf("fixes(%q) = %q, want %q", in, got, want)
		}
	}
}
