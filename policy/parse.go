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
	Mode    modeWord          `yaml:"mode"`    // if missing, enforce
	Default *pratique.Outcome `yaml:"default"` // if missing, deny
	Rules   []ruleDocument    `yaml:"rules"`
}

// ruleDocument is a rule as written. The conditions among its fields are the
// table of conditions: to add one, write its document and its condition in a
// file of their own, and a line here.
type ruleDocument struct {
	Pos     strictyaml.Pos
	Name    string         `yaml:"name"`
	Match   *matchDocument `yaml:"match"`  // if missing, every reference
	Except  *matchDocument `yaml:"except"` // if missing, none
	Action  actionWord     `yaml:"action"`
	Lifts   []string       `yaml:"lifts"`
	Message string         `yaml:"message"` // if empty, one is made
	Grace   any            `yaml:"grace"`   // a duration, or durations by severity

	Always           *alwaysDocument           `yaml:"always"`
	Vulnerability    *vulnerabilityDocument    `yaml:"vulnerability"`
	Secret           *secretDocument           `yaml:"secret"`
	Misconfiguration *misconfigurationDocument `yaml:"misconfiguration"`
	License          *licenseDocument          `yaml:"license"`
	EndOfLife        *endOfLifeDocument        `yaml:"endOfLife"`
	ImageAge         *imageAgeDocument         `yaml:"imageAge"`
	Cooldown         *cooldownDocument         `yaml:"cooldown"`
	TagMoved         *tagMovedDocument         `yaml:"tagMoved"`
	Outdated         *outdatedDocument         `yaml:"outdated"`
	BaseOutdated     *baseOutdatedDocument     `yaml:"baseOutdated"`
	ScanAge          *scanAgeDocument          `yaml:"scanAge"`
	DatabaseAge      *databaseAgeDocument      `yaml:"databaseAge"`
	UnusedFor        *unusedForDocument        `yaml:"unusedFor"`
	Signature        *signatureDocument        `yaml:"signature"`
	Provenance       *provenanceDocument       `yaml:"provenance"`
	Expression       *expressionDocument       `yaml:"expression"`
	Unscanned        *unscannedDocument        `yaml:"unscanned"`
	Incomplete       *incompleteDocument       `yaml:"incomplete"`
	ScanFailed       *scanFailedDocument       `yaml:"scanFailed"`
	Unsupported      *unsupportedDocument      `yaml:"unsupported"`
}

// modeWord is whether a policy is enforced.
type modeWord string

// UnmarshalText accepts the two words only.
func (m *modeWord) UnmarshalText(b []byte) error {
	if s := string(b); s != "enforce" && s != "warn" {
		return fmt.Errorf("mode %q: want enforce or warn%s", b, didYouMean(s, "enforce", "warn"))
	}
	*m = modeWord(b)
	return nil
}

// actionWord is what a rule does.
type actionWord string

// actionExempt is the action that is no outcome: the rule lifts others.
const actionExempt actionWord = "exempt"

// UnmarshalText accepts the four words only.
func (a *actionWord) UnmarshalText(b []byte) error {
	switch s := string(b); s {
	case "deny", "warn", "allow", "exempt":
		*a = actionWord(s)
		return nil
	default:
		return fmt.Errorf("action %q: want deny, warn, allow or exempt%s", b, didYouMean(s, "deny", "warn", "allow", "exempt"))
	}
}

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

// didYouMean is "; did you mean …?" when the word is close to a known one.
func didYouMean(word string, known ...string) string {
	if hint := strictyaml.Suggest(word, known); strings.Contains(hint, "did you mean") {
		return hint
	}
	return ""
}

// namePattern keeps names fit for one line of text, a URL and a metric.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// maxMessage bounds a rule's message, in bytes: a refusal is one line of which
// the first 300 characters must suffice.
const maxMessage = 300

// compiler gathers the mistakes of one file.
type compiler struct {
	doc       document
	source    []byte // of the file
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

// failAt notes a mistake in the value of a key below p.
func (c *compiler) failAt(p place, key, format string, args ...any) {
	c.fail(c.at(p.path+"."+key, p.pos), format, args...)
}

// has reports whether the key below p is written.
func (c *compiler) has(p place, key string) bool {
	_, ok := c.positions[p.path+"."+key]
	return ok
}

// compile reads one file.
func compile(f File) (*policy, error) {
	c := &compiler{source: f.Data, doc: document{Pos: strictyaml.Pos{File: f.Name}}}
	var err error
	if c.positions, err = strictyaml.Decode(f.Name, f.Data, &c.doc); err != nil {
		return nil, err
	}
	p := &policy{name: c.doc.Name, pos: c.at("name", c.doc.Pos), warnOnly: c.doc.Mode == "warn"}
	c.checkName(c.doc.Name, "the policy", p.pos)
	if c.doc.Default != nil {
		if p.standard = *c.doc.Default; p.standard == pratique.OutcomeWarn {
			c.fail(c.at("default", p.pos), "default: want deny or allow; to warn, write a rule")
		}
	}
	if len(c.doc.Rules) == 0 {
		c.fail(c.at("rules", c.doc.Pos), "no rules: write at least one")
	}
	names := make(map[string]strictyaml.Pos)
	for i := range c.doc.Rules {
		d := &c.doc.Rules[i]
		c.checkName(d.Name, "the rule", c.at(fmt.Sprintf("rules[%d].name", i), d.Pos))
		if first, ok := names[d.Name]; ok && d.Name != "" {
			c.fail(d.Pos, "rule %q is already defined at %s", d.Name, first)
		}
		names[d.Name] = d.Pos
		p.rules = append(p.rules, c.rule(i, d, p))
	}
	c.twins()
	if len(c.errs) > 0 {
		slices.SortStableFunc(c.errs, byPosition)
		return nil, errors.Join(c.errs...)
	}
	return p, nil
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

// twins refuses rules that are about the same thing.
func (c *compiler) twins() {
	seen := make(map[string]string)
	for i := range c.doc.Rules {
		d := &c.doc.Rules[i]
		if d.Action == actionExempt {
			continue
		}
		about := subject(*d)
		if twin, ok := seen[about]; ok {
			c.fail(d.Pos, "rule %q has the same condition, match and except as rule %q: one of them is never needed", d.Name, twin)
		}
		seen[about] = d.Name
	}
}

// subject writes what a rule is about, so that rules which differ in name,
// action and message only are alike.
func subject(d ruleDocument) string {
	d.Pos, d.Name, d.Action, d.Message, d.Grace, d.Lifts = strictyaml.Pos{}, "", "", "", nil, nil
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

func (c *compiler) rule(i int, d *ruleDocument, p *policy) rule {
	at := place{fmt.Sprintf("rules[%d]", i), d.Pos}
	r := rule{policy: p.name, name: d.Name, message: d.Message, exempts: d.Action == actionExempt, pos: d.Pos, doc: d}
	switch d.Action {
	case "":
		c.fail(d.Pos, "rule %q has no action: want deny, warn, allow or exempt", d.Name)
	case "deny":
		if r.action = pratique.OutcomeDeny; p.warnOnly {
			r.action = pratique.OutcomeWarn
		}
	case actionExempt:
		r.action = pratique.OutcomeAllow
	default:
		r.action = pratique.Outcome(d.Action)
	}
	if len(d.Message) > maxMessage || strings.ContainsFunc(d.Message, unicode.IsControl) {
		c.failAt(at, "message", "message: want one line of at most %d bytes", maxMessage)
	}
	r.match = c.selector(d.Match, at.path+".match")
	r.except = c.selector(d.Except, at.path+".except")
	c.condition(&r, at, d)
	c.exemption(&r, at, d)
	c.grace(&r, at, d)
	return r
}

// condition takes the one condition of a rule.
func (c *compiler) condition(r *rule, at place, d *ruleDocument) {
	there, keys := d.conditions()
	for _, w := range there {
		r.kind = w.kind
		path := at.path + "." + string(w.kind)
		r.condition = w.document.compile(c, place{path, c.at(path, at.pos)})
	}
	switch {
	case len(there) > 1:
		var set []string
		for _, w := range there {
			set = append(set, string(w.kind))
		}
		c.fail(d.Pos, "rule %q has the conditions %s: write a rule for each", d.Name, strictyaml.List(set, "and"))
	case len(there) == 0 && r.exempts:
		r.kind, r.condition = kindAlways, always{}
	case len(there) == 0:
		c.fail(d.Pos, "rule %q has no condition: want one of %s", d.Name, strictyaml.List(keys, "or"))
	}
}
