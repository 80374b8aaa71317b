package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"pratique"
)

// TestShippedPoliciesLoad: each with nothing but what its comments ask for, and
// not without that.
func TestShippedPoliciesLoad(t *testing.T) {
	needs := map[string]struct {
		give func(*Config)
		says []string // without it
	}{
		"default":    {},
		"audit":      {},
		"cis-docker": {},
		"strict":     {func(c *Config) { c.Exploits.KEV = "kev.json" }, []string{"exploits.kev"}},
		"supply-chain": {func(c *Config) {
			c.Trust.Identities = map[string]Identity{"example-release-key": {Key: "k.pem"}, "example-ci": {Key: "k.pem"}}
		}, []string{`"example-release-key", which is not in trust.identities`, `"example-ci", which is not in trust.identities`}},
	}
	paths, err := filepath.Glob("../../configs/policies/*.yaml")
	if err != nil || len(paths) != len(needs) {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		need, ok := needs[strings.TrimSuffix(filepath.Base(path), ".yaml")]
		if !ok {
			t.Errorf("%s: say what it needs", path)
		}
		c := Default()
		c.Policies = []string{path}
		_, err := c.LoadPolicies()
		if need.give == nil {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		for _, text := range need.says {
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %s", path, err, text)
			}
		}
		need.give(&c)
		if _, err := c.LoadPolicies(); err != nil {
			t.Errorf("with all of it: %v", err)
		}
	}
}
