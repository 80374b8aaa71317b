package config

import (
	"errors"
	"strings"
	"testing"

	"pratique"
)

// TestEvidenceMistakes: what rules read besides reports is checked before it is
// needed, and each mistake says what to do.
func TestEvidenceMistakes(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"watch too often":        {"watch: 10ms", "want at least 1s, or 0s"},
		"negative duration":      {"exceptions: {maxDuration: -1h}", "is negative"},
		"empty file":             {`exceptions: {files: [""]}`, "empty; want a file"},
		"same file twice":        {"vex: {files: [a, b, a]}", "vex.files[2]: a is there already"},
		"list over plain http":   {"exploits: {kev: http://lists.example/kev.json}", "want https://"},
		"list with a password":   {"exploits: {epss: https://u:p@lists.example/e.csv}", "holds a user"},
		"list without a host":    {"exploits: {epss: 'https:///e.csv'}", "want a file, or https://host/path"},
		"refresh too often":      {"exploits: {refresh: 1s}", "want at least 1m"},
		"retention too short":    {"history: {retention: 1m}", "want at least 1h"},
		"recheck too often":      {"trust: {recheck: 1s}", "want at least 1m"},
		"identity of nothing":    {"trust: {identities: {a: {}}}", "exactly one of key, sigstore and notation, not none"},
		"identity of two things": {"trust: {trustedRoot: r, identities: {a: {key: k, notation: {ca: [c]}}}}", "not key and notation"},
		"identity's name":        {`trust: {identities: {"a b": {key: k}}}`, "want a name"},
		"anybody of an issuer":   {"trust: {trustedRoot: r, identities: {a: {sigstore: {issuer: i, subject: '**'}}}}", "fits everybody"},
		"issuer alone":           {"trust: {trustedRoot: r, identities: {a: {sigstore: {issuer: i}}}}", "want both issuer and subject"},
		"keyless without a root": {"trust: {identities: {a: {sigstore: {issuer: i, subject: s}}}}", "need trust.trustedRoot"},
		"notation without a CA":  {"trust: {identities: {a: {notation: {subjects: [x]}}}}", "want ca"},
		"VEX of nobody":          {"vex: {signedBy: [relase]}\ntrust: {identities: {release: {key: k}}}", `did you mean`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(write(t, c.yaml), nil, nil)
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestEvidenceAccepted(t *testing.T) {
	_, err := Load(write(t, `
watch: 0s
exploits: {kev: /lists/kev.json, epss: "http://127.0.0.1:8080/epss.csv.gz"}
vex: {files: [vex], signedBy: [ci]}
trust:
  trustedRoot: root.json
  identities:
    release: {key: cosign.pub}
    ci: {sigstore: {issuer: https://token.actions.githubusercontent.com, subject: "https://github.com/acme/**"}}
    vendor: {notation: {ca: [ca.pem], subjects: ["x509.subject: C=US, ST=WA, O=acme"]}}
`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
}
