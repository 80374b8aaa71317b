package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const housePolicy = `name: house
default: allow
rules:
  - {name: high, vulnerability: {severity: HIGH}, action: deny}
`

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicyTest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "house.yaml", housePolicy)
	path := write(t, dir, "cases/house.txtar", `-- house.yaml --
@../house.yaml
-- clean --
state: scanned
---
allow
-- high --
state: scanned
findings: [vulnerability CVE-1 HIGH a 1 2]
---
deny
deny house/high: no reason CVE-1
`)
	got := runCommand(t, "", "policy", "test", dir)
	want := "ok   " + path + ": clean\nFAIL " + path + `: high (- wanted, + got)
      deny
     -deny house/high: no reason CVE-1
     +deny house/high: 1 vulnerability of severity HIGH or above CVE-1
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != 1 || !strings.Contains(got.errout, "1 of 2 cases failed") {
		t.Errorf("exit %d, %s\n%s", got.code, got.errout, diff)
	}
	if got := runCommand(t, "", "policy", "test", "--update", path); got.code != 0 || !strings.Contains(got.out, "new  "+path+": high") {
		t.Errorf("--update: exit %d\n%s%s", got.code, got.out, got.errout)
	}
	if got := runCommand(t, "", "policy", "test", dir); got.code != 0 || !strings.HasSuffix(got.out, "OK: 2 cases\n") {
		t.Errorf("after --update: exit %d\n%s%s", got.code, got.out, got.errout)
	}
}

func TestPolicyTestThatCannotRun(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ text, want string }{
		"broken.txtar": {"-- p.yaml --\nname: p\nrules: [{name: a}]\n-- a --\nstate: scanned\n---\nallow\n", "p.yaml:2:9: rule \"a\" has no action"},
		"gone.txtar":   {"-- p.yaml --\n@nowhere.yaml\n-- a --\nstate: scanned\n---\nallow\n", "nowhere.yaml: no such file"},
		"facts.txtar":  {"-- p.yaml --\n@default\n-- a --\nstat: scanned\n---\nallow\n", "did you mean `state`?"},
		"none.txtar":   {"-- p.yaml --\n@default\n", "no cases in it"},
	} {
		path := write(t, dir, name, tc.text)
		if got := runCommand(t, "", "policy", "test", path); got.code != 1 || !strings.Contains(got.out, tc.want) || !strings.Contains(got.errout, "1 of 1 case failed") {
			t.Errorf("%s: exit %d\n%s%s", name, got.code, got.out, got.errout)
		}
	}
	for _, args := range [][]string{{}, {filepath.Join(dir, "nowhere")}, {t.TempDir()}} {
		if got := runCommand(t, "", append([]string{"policy", "test"}, args...)...); got.code != 1 {
			t.Errorf("%v: exit %d", args, got.code)
		}
	}
}

func TestShippedPoliciesHold(t *testing.T) {
	got := runCommand(t, "", "policy", "test", "../../configs/policies")
	if got.code != 0 {
		t.Errorf("exit %d\n%s%s", got.code, got.out, got.errout)
	}
}

func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	good := write(t, dir, "good/good.yaml", housePolicy)
	idle := write(t, dir, "idle/p.yaml", "name: p\ndefault: allow\nrules: [{name: a, secret: {}, action: allow}]\n")
	bad := write(t, dir, "bad/p.yaml", "name: p\nrules:\n  - {name: a, secret: {}, action: refuse}\n")
	kev := write(t, dir, "kev/p.yaml", "name: p\ndefault: allow\nrules: [{name: a, vulnerability: {kev: true}, action: deny}]\n")
	cfg := write(t, dir, "pratique.yaml", "policies: ["+good+"]\n")
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{good}, 0, "OK: " + good + ", 1 rule, version "},
		{[]string{filepath.Dir(good)}, 0, "OK: " + good},
		{[]string{idle}, 0, "warning: " + idle + ":3:9: rule \"a\" allows what the policy's default allows"},
		{[]string{"--strict", idle}, 1, "1 warning, and --strict"},
		{[]string{bad}, 1, bad + `:3:35: rules[0].action: action "refuse": want deny, warn, allow or exempt`},
		{[]string{good, good}, 1, `policy "house" is already defined at`},
		{[]string{kev}, 0, "OK: "},
		{[]string{"--config", cfg, kev}, 1, "say in exploits.kev"},
		{[]string{"--config", cfg}, 0, "OK: " + good},
		{[]string{}, 1, "policy check needs FILE, or --config"},
		{[]string{filepath.Join(dir, "nowhere.yaml")}, 1, "nowhere.yaml"},
		{[]string{"/dev/zero"}, 1, "want a text of at most"},
	} {
		got := runCommand(t, "", append([]string{"policy", "check"}, tc.args...)...)
		if got.code != tc.code || !strings.Contains(got.out+got.errout, tc.want) {
			t.Errorf("%v: exit %d, want %d with %q\n%s%s", tc.args, got.code, tc.code, tc.want, got.out, got.errout)
		}
	}
}
