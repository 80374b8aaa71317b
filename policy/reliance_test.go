package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReliances(t *testing.T) {
	set, err := Load(File{Name: "p.yaml", Data: []byte(`
name: p
rules:
  - {name: signed, action: deny, signature: {by: [ci, release]}}
  - {name: built, action: deny, provenance: {by: [ci]}}
  - {name: anybody, action: deny, provenance: {builder: [b]}}
  - {name: kev, action: deny, vulnerability: {kev: true}}
  - {name: epss, action: deny, vulnerability: {epss: 0.5}}
  - {name: grace, action: deny, vulnerability: {severity: HIGH}, grace: {default: 14d, kev: 1d}}
  - {name: neither, action: deny, vulnerability: {severity: LOW}}
  - {name: expression, action: deny, expression: 'findings.exists(f, f.kev)'}
  - {name: probable, action: deny, expression: 'findings.map(f, f.epss).exists(p, p > 0.1)'}
  - {name: names, action: deny, expression: 'attestations.signatures.exists(s, s.by == "ci") && attestations.provenance.exists(p, p.by in ["a", "b"])'}
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := []Reliance{
		{Rule: "p/signed", Identities: []string{"ci", "release"}},
		{Rule: "p/built", Identities: []string{"ci"}},
		{Rule: "p/kev", KEV: true}, {Rule: "p/epss", EPSS: true}, {Rule: "p/grace", KEV: true},
		{Rule: "p/expression", KEV: true}, {Rule: "p/probable", EPSS: true},
		{Rule: "p/names", Identities: []string{"ci", "a", "b"}},
	}
	if diff := cmp.Diff(want, set.Reliances(), cmpopts.IgnoreFields(Reliance{}, "Pos")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if at := set.Reliances()[0].Pos.String(); at != "p.yaml:4:5" {
		t.Errorf("the first is at %s", at)
	}
	if got := (*Set)(nil).Reliances(); got != nil {
		t.Errorf("no set relies on %v", got)
	}
}
