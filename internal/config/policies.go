package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"pratique"
	"pratique/configs"
	"pratique/internal/strictyaml"
	"pratique/policy"
)

// EmbeddedPolicy is the name under which messages speak of the policy that
// applies when the configuration names none.
const EmbeddedPolicy = "policies/default.yaml (embedded)"

// LoadPolicies reads and compiles the policies in force: the files that the
// configuration names, or the embedded default. A rule that counts on a trusted
// identity or a list which the configuration does not name is a mistake: it could
// only ever refuse. The error wraps pratique.ErrInvalid then.
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
	set, err := policy.Load(files...)
	if err == nil {
		err = c.Provides(set)
	}
	if err != nil {
		return nil, err
	}
	return set, nil
}

// Provides tells what the rules of a set count on and the configuration lacks. The
// error wraps pratique.ErrInvalid.
func (c Config) Provides(set *policy.Set) error {
	var errs []error
	known := slices.Sorted(maps.Keys(c.Trust.Identities))
	for _, r := range set.Reliances() {
		fail := func(format string, args ...any) {
			errs = append(errs, &strictyaml.Error{Pos: r.Pos, Message: fmt.Sprintf("rule %q "+format, append([]any{r.Rule}, args...)...)})
		}
		for _, name := range r.Identities {
			if !slices.Contains(known, name) {
				fail("counts on the identity %q, which is not in trust.identities%s", name, strictyaml.Suggest(name, known))
			}
		}
		if r.KEV && c.Exploits.KEV == "" {
			fail("reads which vulnerabilities are exploited; say in exploits.kev where the list is")
		}
		if r.EPSS && c.Exploits.EPSS == "" {
			fail("reads how probably vulnerabilities will be exploited; say in exploits.epss where the scores are")
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &lacking{errors.Join(errs...)}
}

// lacking marks mistakes as pratique.ErrInvalid without adding words.
type lacking struct{ error }

func (e *lacking) Unwrap() []error { return []error{pratique.ErrInvalid, e.error} }
