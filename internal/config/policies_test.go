package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pratique"
)

func TestPoliciesCountOnWhatTheConfigurationNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	text := `
name: p
default: allow
rules:
  - {name: signed, action: deny, signature: {by: [relase-key]}}
  - {name: exploited, action: deny, vulnerability: {kev: true}}
  - {name: likely, action: deny, expression: 'findings.exists(f, f.epss > 0.5)'}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.Policies = []string{path}
	c.Trust.Identities = map[string]Identity{"release-key": {Key: "k.pem"}}
	_, err := c.LoadPolicies()
	if !errors.Is(err, pratique.ErrInvalid) {
		t.Fatalf("error %v, want one that is ErrInvalid", err)
	}
	for _, want := range []string{
		path + `:5:5: rule "p/signed" counts on the identity "relase-key", which is not in trust.identities; did you mean ` + "`release-key`?",
		path + `:6:5: rule "p/exploited" reads which vulnerabilities are exploited; say in exploits.kev`,
		path + `:7:5: rule "p/likely" reads how probably vulnerabilities will be exploited; say in exploits.epss`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}

	c.Exploits.KEV, c.Exploits.EPSS = "kev.json", "epss.csv.gz"
	c.Trust.Identities["relase-key"] = Identity{Key: "k.pem"}
	if _, err := c.LoadPolicies(); err != nil {
		t.Errorf("with all of it: %v", err)
	}
}
