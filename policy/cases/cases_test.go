package cases_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"pratique/policy/cases"
)

const rules = `-- p.yaml --
name: p
default: allow
rules:
  - {name: high, vulnerability: {severity: HIGH}, action: deny, message: too bad}
`

func run(t *testing.T, text string, cfg cases.Config) ([]cases.Result, *txtar.Archive) {
	t.Helper()
	archive := txtar.Parse([]byte(text))
	results, err := cases.Run(archive, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return results, archive
}

func TestRun(t *testing.T) {
	text := rules + `-- whole --
state: scanned
findings: [vulnerability CVE-1 HIGH a 1 2]
---
deny
deny p/high: too bad CVE-1
-- outcome alone --
state: scanned
findings: [vulnerability CVE-1 HIGH a 1 2]
---
deny
-- another outcome --
state: scanned
---
deny
-- other findings --
state: scanned
findings: [vulnerability CVE-1 HIGH a 1 2]
---
deny
deny p/high: too bad CVE-2
lifted by magic
`
	got, _ := run(t, text, cases.Config{})
	want := []cases.Result{
		{Name: "whole"},
		{Name: "outcome alone"},
		{Name: "another outcome", Diff: "-deny\n+allow\n+allow p/default: no rule matched; the policy's default is allow\n"},
		{Name: "other findings", Diff: " deny\n-deny p/high: too bad CVE-2\n-lifted by magic\n+deny p/high: too bad CVE-1\n"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, held := range []bool{true, true, false, false} {
		if got[i].Held() != held {
			t.Errorf("%s: held %v", got[i].Name, got[i].Held())
		}
	}
}

func TestUpdate(t *testing.T) {
	text := "# Said first.\n" + rules + "-- a --\nstate: scanned\n---\ndeny\nfor another reason\n-- begun --\nstate: scanned\nfindings: [vulnerability CVE-1 HIGH a 1]\n-- outcome alone --\nstate: scanned\n---\nallow\n"
	got, archive := run(t, text, cases.Config{Update: true})
	if !got[0].Updated || !got[1].Updated || got[2].Updated || got[2].Diff != "" {
		t.Errorf("%+v", got)
	}
	want := "# Said first.\n" + rules + "-- a --\nstate: scanned\n---\nallow\nallow p/default: no rule matched; the policy's default is allow\n" +
		"-- begun --\nstate: scanned\nfindings: [vulnerability CVE-1 HIGH a 1]\n---\ndeny\ndeny p/high: too bad CVE-1\n-- outcome alone --\nstate: scanned\n---\nallow\n"
	if diff := cmp.Diff(want, string(txtar.Format(archive))); diff != "" {
		t.Error(diff)
	}
	if again, _ := run(t, want, cases.Config{}); !again[0].Held() || !again[1].Held() {
		t.Errorf("what was written does not hold: %+v", again)
	}
}

func TestNamedPolicies(t *testing.T) {
	text := "-- p.yaml --\n@house.yaml\n-- a --\nstate: scanned\n---\nallow\n"
	read := func(name string) ([]byte, error) {
		if name != "house.yaml" {
			return nil, errors.New("no such file " + name)
		}
		return []byte(strings.TrimPrefix(rules, "-- p.yaml --\n")), nil
	}
	if got, _ := run(t, text, cases.Config{Read: read}); !got[0].Held() {
		t.Errorf("%+v", got)
	}
	for name, cfg := range map[string]cases.Config{
		"nobody reads": {}, "no such file": {Read: func(string) ([]byte, error) { return nil, errors.New("gone") }},
		"not a policy": {Read: func(string) ([]byte, error) { return []byte("name: p"), nil }},
	} {
		if _, err := cases.Run(txtar.Parse([]byte(text)), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestImageIsAWord(t *testing.T) {
	if got := cases.Digest("image"); got != cases.Image {
		t.Errorf("image stands for %s", got)
	}
}

func TestNothingAsked(t *testing.T) {
	if _, err := cases.Run(txtar.Parse([]byte(rules)), cases.Config{}); !errors.Is(err, cases.ErrEmpty) {
		t.Error(err)
	}
}

// TestMistakesInFacts: facts that cannot be understood are never other facts.
func TestMistakesInFacts(t *testing.T) {
	for text, want := range map[string]string{
		"stat: scanned\n":                   `unknown key "stat"; did you mean`,
		"state: clean\n":                    "want unknown, pending, scanned",
		"now: yesterday\n":                  "want 2026-11-01",
		"ref: nginx\n":                      "ref",
		"client: here\n":                    "want an IP address",
		"kind: index\n":                     "want image or artifact",
		"platform: amd64\n":                 "platform",
		"findings: [bug CVE-1 HIGH]\n":      "want a kind first",
		"findings: [vulnerability CVE-1]\n": "want 3 to 6 words",
		"findings: [vulnerability CVE-1 HIGH a 1 2 3]\n":             "want 3 to 6 words",
		"findings: [vulnerability CVE-1 HIGH a 1 score=3]\n":         "unknown key score",
		"findings: [vulnerability CVE-1 HIGH a 1 cvss=high]\n":       "cvss is a number",
		"findings: [vulnerability CVE-1 HIGH a 1 seen=2026-13-01]\n": "want 2026-11-01",
		"findings: [vulnerability CVE-1 HIGH a 1 worse=x]\n":         "want 2026-11-01",
		"moved: [v1]\n":                           "want 2 to 3 words",
		"newer: [v1 patch soon]\n":                "want 2026-11-01",
		"base: docker.io/library/debian:12\n":     "want 3 to 5 words",
		"kev: {CVE-1: soon}\n":                    "want 2026-11-01",
		"exceptions: [{id: x, finding: CVE-1}]\n": "a repository or a digest",
	} {
		got, _ := run(t, rules+"-- a --\n"+text+"---\nallow\n", cases.Config{Update: true})
		if err := got[0].Err; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"state: scanned\n", "state: scanned ---\nallow\n"} {
		if got, _ := run(t, rules+"-- a --\n"+text, cases.Config{}); got[0].Err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
