package config

import (
	"fmt"

	"pratique/configs"
	"pratique/policy"
)

// EmbeddedPolicy is the name under which messages speak of the policy that
// applies when the configuration names none.
const EmbeddedPolicy = "policies/default.yaml (embedded)"

// LoadPolicies reads and compiles the policies in force: the files that the
// configuration names, or the embedded default.
func (c Config) LoadPolicies() (*policy.Set, error) {
	if len(c.Policies) == 0 {
		return policy.Load(policy.File{Name: EmbeddedPolicy, Data: configs.DefaultPolicy})
	}
	files := make([]policy.File, len(c.Policies))
	for i, name := range c.Policies {
		data, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		files[i] = policy.File{Name: name, Data: data}
	}
	return policy.Load(files...)
}
