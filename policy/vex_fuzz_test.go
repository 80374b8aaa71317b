package policy

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// FuzzStatement: an image writes the package URLs of its packages, and a document
// those of its products. Neither may end the process, and a statement about one
// image or repository never lifts in another.
func FuzzStatement(f *testing.F) {
	for _, text := range []string{"pkg:npm/a@1", "pkg:deb/debian/a@1?arch=amd64", "pkg:oci/b?repository_url=docker.io/a/b", "pkg:", "pkg:a/%zz@?#", "sha256:x"} {
		f.Add(text, text, "pkg:npm/c")
	}
	set, err := Load(File{Name: "p.yaml", Data: []byte("name: p\ndefault: allow\nrules: [{name: r, vulnerability: {}, action: deny}]")})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, of, product, component string) {
		facts := scanned(pratique.Finding{Kind: pratique.KindVulnerability, ID: "CVE-1", PURL: of})
		facts.Ref, facts.Now = pratique.Ref{Registry: "docker.io", Repo: "evil/b"}, testNow
		products := []pratique.Product{{ID: product}, {ID: product, Components: []string{component}}}
		facts.Statements = NewStatements([]pratique.Statement{{IDs: []string{"CVE-1"}, Status: "not_affected", Products: products}})
		v := set.Decide(facts)
		u, ok := parsePURL(product)
		if v.Outcome == pratique.OutcomeAllow && (!ok || u.kind == kindImage && u.qualifiers["repository_url"] == "") {
			t.Fatalf("%q lifts a vulnerability of %q", product, of)
		}
		elsewhere := []pratique.Statement{{IDs: []string{"CVE-1"}, Status: "not_affected", Products: products, Image: digest.FromString("other")}}
		facts.Statements, facts.Attestations = NewStatements(elsewhere), pratique.Attestations{Image: imageDigest, CheckedAt: testNow, Statements: elsewhere}
		if v := set.Decide(facts); v.Outcome != pratique.OutcomeDeny {
			t.Fatal("a statement about another image lifts")
		}
	})
}
