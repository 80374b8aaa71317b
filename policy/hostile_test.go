package policy

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pratique"
)

// TestWhatAnybodyWroteStaysOneLine: texts that an image, an upstream, a document
// or a person wrote come out as one bounded line, wherever they do.
func TestWhatAnybodyWroteStaysOneLine(t *testing.T) {
	evil := "x\r\nX-Evil: 1\x1b[2J\u202e\xff" + strings.Repeat("é", 4000)
	f := scanned(
		pratique.Finding{Kind: pratique.KindVulnerability, ID: evil, Package: evil, Severity: pratique.Severity(evil), Status: evil, Ecosystem: evil, PURL: evil},
		pratique.Finding{Kind: pratique.KindVulnerability, ID: "CVE-1", Package: evil, Severity: pratique.SeverityHigh},
		pratique.Finding{Kind: pratique.KindVulnerability, ID: "CVE-2", Package: "p", Severity: pratique.SeverityHigh, PURL: "pkg:npm/p@1"},
	)
	f.Now = testNow
	f.Ref = pratique.Ref{Registry: evil, Repo: evil, Tag: evil}
	f.Image.ArtifactType = evil
	f.Report.OS = pratique.OS{Family: evil, Name: evil}
	f.Report.EOLAt = testNow
	f.Report.Config = pratique.ConfigFacts{Platform: pratique.Platform{OS: evil, Architecture: evil}, User: evil, Labels: map[string]string{evil: evil}}
	f.Report.Problems = []pratique.Problem{{Source: evil, Message: evil}}
	f.Lineage = pratique.Lineage{Current: []string{evil}, Moved: []pratique.TagMove{{Tag: evil, To: "sha256:x\n", At: testNow.Add(-time.Hour)}}}
	f.Attestations = pratique.Attestations{Image: imageDigest, CheckedAt: testNow, Problems: []string{evil}, Signatures: []pratique.Signature{{By: evil, Identity: evil}}}
	x, err := NewExceptions([]pratique.Exception{
		{ID: evil, Finding: "CVE-1", Digest: imageDigest, Reason: evil, Author: evil, Ticket: evil, Expires: testNow.AddDate(1, 0, 0)},
		{ID: evil, Rule: "p/all", Digest: imageDigest, Reason: evil, Author: evil, Expires: testNow.AddDate(1, 0, 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Exceptions = x
	f.Statements = NewStatements([]pratique.Statement{{Document: evil, Source: evil, IDs: []string{"CVE-2"}, Status: "not_affected", Justification: evil, Impact: evil, Products: []pratique.Product{{ID: "pkg:npm/p"}}}})
	set := load(t, `
name: p
rules:
  - {name: all, vulnerability: {}, action: deny}
  - {name: high, vulnerability: {severity: HIGH}, action: deny}
  - {name: here, always: {}, action: deny}
  - {name: eol, endOfLife: {}, action: deny}
  - {name: incomplete, incomplete: {}, action: deny}
  - {name: signed, signature: {by: [key]}, action: deny}
  - {name: moved, tagMoved: {}, action: deny}
  - {name: expression, expression: 'ref.tag != "y"', action: deny}
  - {name: tag, match: {tag: [x]}, always: {}, action: deny}`)
	for _, state := range []pratique.State{pratique.StateScanned, pratique.StateIncomplete, pratique.State(evil)} {
		f.Report.State = state
		v := set.Decide(f)
		var texts []string
		for _, r := range v.Reasons {
			texts = append(texts, r.Policy, r.Rule, r.Message)
		}
		if len(v.Lifted) < 2 {
			t.Errorf("%q: %+v", state, v.Lifted)
		}
		for _, l := range v.Lifted {
			texts = append(texts, l.By, l.Why)
		}
		for _, e := range set.Explain(f) {
			texts = append(texts, e.Facts, e.Message)
		}
		for _, text := range texts {
			if len(text) > 8*maxQuoted || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x1b\u202e") {
				t.Errorf("%d bytes: %q", len(text), text)
			}
		}
	}
}

func TestExceptionsThatCanLiftNothing(t *testing.T) {
	good := pratique.Exception{ID: "good", Finding: "CVE-1", Repository: "docker.io/**", Reason: "r", Author: "a", Expires: testNow.AddDate(1, 0, 0)}
	change := func(f func(*pratique.Exception)) pratique.Exception {
		e := good
		e.ID = "bad"
		f(&e)
		return e
	}
	for want, e := range map[string]pratique.Exception{
		"want a finding or a rule":   change(func(e *pratique.Exception) { e.Finding = "" }),
		"one of them":                change(func(e *pratique.Exception) { e.Rule = "p/r" }),
		"a repository or a digest":   change(func(e *pratique.Exception) { e.Repository = "" }),
		"classes and alternatives":   change(func(e *pratique.Exception) { e.Repository = "docker.io/[a-z]*" }),
		"never occurs there":         change(func(e *pratique.Exception) { e.Repository = "docker.io/a b" }),
		"at most 512":                change(func(e *pratique.Exception) { e.Repository = strings.Repeat("a", 600) }),
		"POLICY/RULE":                change(func(e *pratique.Exception) { e.Finding, e.Rule = "", "rule" }),
		"want POLICY/RULE":           change(func(e *pratique.Exception) { e.Finding, e.Rule = "", "p/r/s" }),
		"action exempt":              change(func(e *pratique.Exception) { e.Finding, e.Rule = "", "p/unscanned" }),
		`lifts "incomplete"`:         change(func(e *pratique.Exception) { e.Finding, e.Rule = "", "q/incomplete" }),
		`lifts "scanFailed"`:         change(func(e *pratique.Exception) { e.Finding, e.Rule = "", "p/scanFailed" }),
		"a rule has none":            change(func(e *pratique.Exception) { e.Finding, e.Rule, e.Package = "", "p/r", "x" }),
		"without qualifiers":         change(func(e *pratique.Exception) { e.Package = "pkg:deb/debian/a?arch=amd64" }),
		"package \"pkg:\": want":     change(func(e *pratique.Exception) { e.Package = "pkg:" }),
		"an upstream of odd letters": change(func(e *pratique.Exception) { e.Repository = "docker.io/ünix" }),
	} {
		x, err := NewExceptions([]pratique.Exception{e, good})
		if err == nil || want != "an upstream of odd letters" && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		f := scanned(pratique.Finding{Kind: pratique.KindVulnerability, ID: "CVE-1", Severity: pratique.SeverityHigh})
		f.Ref, f.Now, f.Exceptions = pratique.Ref{Registry: "docker.io", Repo: "a"}, testNow, x
		v := load(t, "name: p\ndefault: allow\nrules: [{name: r, vulnerability: {}, action: deny}]").Decide(f)
		if len(v.Lifted) != 1 || v.Lifted[0].By != "exception good" {
			t.Errorf("%s: the good one is gone: %+v", want, v)
		}
	}
}

func TestLiftedIsBounded(t *testing.T) {
	var fs []pratique.Finding
	var es []pratique.Exception
	for i := range 300 {
		id := "CVE-" + strings.Repeat("1", i+1)
		fs = append(fs, pratique.Finding{Kind: pratique.KindVulnerability, ID: id, Severity: pratique.SeverityHigh})
		es = append(es, pratique.Exception{ID: "ex", Finding: id, Digest: imageDigest, Expires: testNow.AddDate(1, 0, 0)})
	}
	f := scanned(fs...)
	f.Now = testNow
	var err error
	if f.Exceptions, err = NewExceptions(es); err != nil {
		t.Fatal(err)
	}
	v := load(t, "name: p\ndefault: allow\nrules: [{name: r, vulnerability: {}, action: deny}]").Decide(f)
	if v.Outcome != pratique.OutcomeAllow || len(v.Lifted) != maxLifted {
		t.Errorf("%s, %d lifted", v.Outcome, len(v.Lifted))
	}
}
