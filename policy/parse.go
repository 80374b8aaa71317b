package policy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"pratique"
	"pratique/internal/strictyaml"
)

// document is a policy file as written.
type document struct {
	Pos     strictyaml.Pos
	Name    string            `yaml:"name"`
	Default *pratique.Outcome `yaml:"default"` // if missing, deny
	Rules   []ruleDocument    `yaml:"rules"`
}

type ruleDocument struct {
	Pos     strictyaml.Pos
	Name    string            `yaml:"name"`
	Match   *matchDocument    `yaml:"match"`  // if missing, every reference
	Except  *matchDocument    `yaml:"except"` // if missing, none
	Action  *pratique.Outcome `yaml:"action"`
	Message string            `yaml:"message"` // if empty, one is made

	Vulnerability *vulnerabilityDocument `yaml:"vulnerability"`
	Secret        *secretDocument        `yaml:"secret"`
	EndOfLife     *emptyDocument         `yaml:"endOfLife"`
	Unscanned     *emptyDocument         `yaml:"unscanned"`
	Incomplete    *emptyDocument         `yaml:"incomplete"`
	ScanFailed    *emptyDocument         `yaml:"scanFailed"`
	Unsupported   *emptyDocument         `yaml:"unsupported"`
}

type matchDocument struct {
	Pos        strictyaml.Pos
	Upstream   []string `yaml:"upstream"`
	Repository []string `yaml:"repository"`
	Tag        []string `yaml:"tag"`
}

type vulnerabilityDocument struct {
	Severity severityWord `yaml:"severity"` // at least; if missing, any
	Fixable  *bool        `yaml:"fixable"`  // only with a fix; if missing, with or without
}

type secretDocument struct {
	Severity severityWord `yaml:"severity"` // at least; if missing, any
}

type emptyDocument struct{}

// severityWord is a severity spelt exactly as the scanner spells it.
type severityWord pratique.Severity

// UnmarshalText accepts the five words only.
func (s *severityWord) UnmarshalText(b []byte) error {
	words := make([]string, ranks)
	for i, known := range severities {
		if string(b) == string(known) {
			*s = severityWord(known)
			return nil
		}
		words[i] = string(known)
	}
	hint := ""
	if up := strings.ToUpper(string(b)); slices.Contains(words, up) {
		hint = "; did you mean `" + up + "`?"
	}
	return fmt.Errorf("severity %q: want %s%s", b, strictyaml.List(words, "or"), hint)
}

// namePattern keeps names fit for one line of text, a URL and a metric.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// maxMessage bounds a rule's message, in bytes: a refusal is one line of which
// the first 300 characters must suffice.
const maxMessage = 300

// compiler gathers the mistakes of one file.
type compiler struct {
	doc       document
	positions strictyaml.Positions
	errs      []error
}

func (c *compiler) fail(pos strictyaml.Pos, format string, args ...any) {
	c.errs = append(c.errs, &strictyaml.Error{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

// at is the place of a key's value, or of the thing that lacks the key.
func (c *compiler) at(path string, otherwise strictyaml.Pos) strictyaml.Pos {
	if p, ok := c.positions[path]; ok {
		return p
	}
	return otherwise
}

// compile reads one file. The position is that of its name.
func compile(f File) (policy, strictyaml.Pos, error) {
	c := &compiler{doc: document{Pos: strictyaml.Pos{File: f.Name}}}
	var err error
	if c.positions, err = strictyaml.Decode(f.Name, f.Data, &c.doc); err != nil {
		return policy{}, c.doc.Pos, err
	}
	pos := c.at("name", c.doc.Pos)
	p := policy{name: c.doc.Name}
	c.checkName(c.doc.Name, "the policy", pos)
	if c.doc.Default != nil {
		if p.standard = *c.doc.Default; p.standard == pratique.OutcomeWarn {
			c.fail(c.at("default", pos), "default: want deny or allow; to warn, write a rule")
		}
	}
	if len(c.doc.Rules) == 0 {
		c.fail(c.at("rules", c.doc.Pos), "no rules: write at least one")
	}
	names, twins := make(map[string]strictyaml.Pos), make(map[string]string)
	for i := range c.doc.Rules {
		d := &c.doc.Rules[i]
		c.checkName(d.Name, "the rule", c.at(fmt.Sprintf("rules[%d].name", i), d.Pos))
		if first, ok := names[d.Name]; ok && d.Name != "" {
			c.fail(d.Pos, "rule %q is already defined at %s", d.Name, first)
		}
		names[d.Name] = d.Pos
		about := subject(*d)
		if twin, ok := twins[about]; ok {
			c.fail(d.Pos, "rule %q has the same condition, match and except as rule %q: one of them is never needed", d.Name, twin)
		}
		twins[about] = d.Name
		p.rules = append(p.rules, c.rule(i, d))
	}
	slices.SortStableFunc(c.errs, byPosition)
	return p, pos, errors.Join(c.errs...)
}

func byPosition(a, b error) int {
	var x, y *strictyaml.Error
	if !errors.As(a, &x) || !errors.As(b, &y) {
		return 0
	}
	return cmp.Or(cmp.Compare(x.Pos.Line, y.Pos.Line), cmp.Compare(x.Pos.Column, y.Pos.Column))
}

func (c *compiler) checkName(name, what string, pos strictyaml.Pos) {
	switch {
	case name == "":
		c.fail(pos, "%s has no name", what)
	case !namePattern.MatchString(name):
		c.fail(pos, "name %q: want at most 63 letters, digits, dots, dashes and underscores, a letter or digit first", name)
	}
}

// subject writes what a rule is about, so that rules which differ in name,
// action and message only are alike.
func subject(d ruleDocument) string {
	d.Pos, d.Name, d.Action, d.Message = strictyaml.Pos{}, "", nil, ""
	for _, m := range []**matchDocument{&d.Match, &d.Except} {
		if *m != nil {
			clean := **m
			clean.Pos = strictyaml.Pos{}
			*m = &clean
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		panic(fmt.Sprintf("a rule does not marshal: %v", err)) // words, lists and switches always do
	}
	return string(b)
}

func (c *compiler) rule(i int, d *ruleDocument) rule {
	path := fmt.Sprintf("rules[%d]", i)
	r := rule{name: d.Name, message: d.Message}
	if d.Action == nil {
		c.fail(d.Pos, "rule %q has no action: want deny, warn or allow", d.Name)
	} else {
		r.action = *d.Action
	}
	if len(d.Message) > maxMessage || strings.ContainsFunc(d.Message, unicode.IsControl) {
		c.fail(c.at(path+".message", d.Pos), "message: want one line of at most %d bytes", maxMessage)
	}
	c.condition(&r, path, d)
	r.words = r.wordings()
	r.match = c.selector(d.Match, path+".match")
	r.except = c.selector(d.Except, path+".except")
	return r
}

// condition takes the one condition of a rule.
func (c *compiler) condition(r *rule, path string, d *ruleDocument) {
	conditions := []struct {
		kind kind
		set  bool
	}{
		{kindVulnerability, d.Vulnerability != nil},
		{kindSecret, d.Secret != nil},
		{kindEndOfLife, d.EndOfLife != nil},
		{kindUnscanned, d.Unscanned != nil},
		{kindIncomplete, d.Incomplete != nil},
		{kindScanFailed, d.ScanFailed != nil},
		{kindUnsupported, d.Unsupported != nil},
	}
	var all, set []string
	for _, k := range conditions {
		all = append(all, string(k.kind))
		if k.set {
			set = append(set, string(k.kind))
			r.kind = k.kind
		}
	}
	switch len(set) {
	case 0:
		c.fail(d.Pos, "rule %q has no condition: want one of %s", d.Name, strictyaml.List(all, "or"))
	case 1:
	default:
		c.fail(d.Pos, "rule %q has the conditions %s: write a rule for each", d.Name, strictyaml.List(set, "and"))
	}
	if v := d.Vulnerability; v != nil {
		r.minRank = pratique.Severity(v.Severity).Rank()
		if v.Fixable != nil {
			if r.fixable = *v.Fixable; !r.fixable {
				c.fail(c.at(path+".vulnerability.fixable", d.Pos), "fixable: false is ambiguous; leave it out to mean findings with and without a fix")
			}
		}
	}
	if s := d.Secret; s != nil {
		r.minRank = pratique.Severity(s.Severity).Rank()
	}
}

func (c *compiler) selector(d *matchDocument, path string) *selector {
	if d == nil {
		return nil
	}
	var s selector
	lists := []struct {
		key   string
		in    []string
		out   *globs
		chars string
	}{
		{"upstream", d.Upstream, &s.upstream, keyChars},
		{"repository", d.Repository, &s.repository, repoChars},
		{"tag", d.Tag, &s.tag, tagChars},
	}
	empty := true
	for _, l := range lists {
		at := path + "." + l.key
		pos, given := c.positions[at]
		if !given {
			continue
		}
		empty = false
		if len(l.in) == 0 {
			c.fail(pos, "%s: an empty list fits nothing", l.key)
		}
		for i, pattern := range l.in {
			pos := c.at(fmt.Sprintf("%s[%d]", at, i), pos)
			g, err := glob(pattern)
			if err == nil {
				err = reachable(pattern, l.chars)
			}
			if err != nil {
				c.fail(pos, "%s: %s", l.key, err)
				continue
			}
			*l.out = append(*l.out, g)
		}
	}
	if empty {
		c.fail(d.Pos, "%s names nothing: want upstream, repository or tag", path[strings.LastIndexByte(path, '.')+1:])
	}
	return &s
}
