package trust_test

import (
	"crypto"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"pratique"
	"pratique/evidence/trust"
)

const (
	cosignSign = "https://sigstore.dev/cosign/sign/v1"
	slsa02     = "https://slsa.dev/provenance/v0.2"
	slsa1      = "https://slsa.dev/provenance/v1"
	openVEX    = "https://openvex.dev/ns/v0.2.0"
)

// statement is an in-toto statement about an image.
func statement(image pratique.Ref, predicateType, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":%s}`,
		image.Digest.Encoded(), predicateType, predicate)
}

func TestProvenance(t *testing.T) {
	const builder = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/container.yml@refs/tags/v2.0.0"
	for _, tc := range []struct {
		name, typ, predicate string
		want                 pratique.Provenance
	}{
		{"SLSA v0.2", slsa02, `{"builder":{"id":"` + builder + `"},"buildType":"https://example.com/build","invocation":{"configSource":{"uri":"git+https://github.com/acme/app@refs/heads/main","digest":{"sha1":"c0ffee"}}},"materials":[{"uri":"git+https://github.com/other/lib","digest":{"sha1":"bad"}}]}`,
			pratique.Provenance{Builder: builder, BuildType: "https://example.com/build", Source: "git+https://github.com/acme/app@refs/heads/main", Revision: "sha1:c0ffee"}},
		{"SLSA v0.2 with materials only", slsa02, `{"builder":{"id":"b"},"buildType":"t","materials":[{"uri":"git+https://github.com/acme/app","digest":{"sha1":"c0ffee"}}]}`,
			pratique.Provenance{Builder: "b", BuildType: "t", Source: "git+https://github.com/acme/app", Revision: "sha1:c0ffee"}},
		{"SLSA v1 of a GitHub workflow", slsa1, `{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1","externalParameters":{"workflow":{"ref":"refs/heads/main","repository":"https://github.com/acme/app","path":".github/workflows/release.yml"}},"resolvedDependencies":[{"uri":"git+https://github.com/acme/app@refs/heads/main","digest":{"gitCommit":"c0ffee"}}]},"runDetails":{"builder":{"id":"https://github.com/actions/runner/github-hosted"}}}`,
			pratique.Provenance{Builder: "https://github.com/actions/runner/github-hosted", BuildType: "https://actions.github.io/buildtypes/workflow/v1", Source: "https://github.com/acme/app", Revision: "sha1:c0ffee"}},
		{"SLSA v1 of BuildKit", slsa1, `{"buildDefinition":{"buildType":"https://mobyproject.org/buildkit@v1","externalParameters":{"configSource":{"uri":"https://github.com/acme/app.git#refs/heads/main","digest":{"sha1":"c0ffee"},"path":"Dockerfile"}},"resolvedDependencies":[]},"runDetails":{"builder":{"id":"b"}}}`,
			pratique.Provenance{Builder: "b", BuildType: "https://mobyproject.org/buildkit@v1", Source: "https://github.com/acme/app.git#refs/heads/main", Revision: "sha1:c0ffee"}},
		{"SLSA v1 whose source is a text", slsa1, `{"buildDefinition":{"buildType":"t","externalParameters":{"source":"git+https://github.com/acme/app"}},"runDetails":{"builder":{"id":"b"}}}`,
			pratique.Provenance{Builder: "b", BuildType: "t", Source: "git+https://github.com/acme/app"}},
		{"SLSA v1 with dependencies only", slsa1, `{"buildDefinition":{"buildType":"t","externalParameters":{},"resolvedDependencies":[{"uri":"git+ssh://git@acme.com/app.git","digest":{"gitCommit":"c0ffee"}}]},"runDetails":{"builder":{"id":"b"}}}`,
			pratique.Provenance{Builder: "b", BuildType: "t", Source: "git+ssh://git@acme.com/app.git", Revision: "sha1:c0ffee"}},
		{"SLSA v1 that says nothing", slsa1, `{}`, pratique.Provenance{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			i := newInstance(t)
			s := newShelf()
			image := s.image(t, app, "app")
			at := s.attachBundle(t, image, i.attestation(i.key(ask{}), statement(image, tc.typ, tc.predicate)))
			tc.want.By, tc.want.Type, tc.want.Digest = "ci", tc.typ, at.Digest
			got := verified(t, s, keyless(i), image)
			if diff := cmp.Diff([]pratique.Provenance{tc.want}, got.Provenance); diff != "" || len(got.Problems) > 0 {
				t.Errorf("problems %q, provenance (-want +got):\n%s", got.Problems, diff)
			}
			if len(got.Signatures) > 0 {
				t.Errorf("a provenance is no signature: %+v", got.Signatures)
			}
		})
	}
}

// attested are the three ways in which a statement is kept.
func attested(t *testing.T, i *instance, k crypto.Signer, statement []byte) map[string]func(s *shelf, image pratique.Ref) {
	return map[string]func(s *shelf, image pratique.Ref){
		"bundle": func(s *shelf, image pratique.Ref) { s.attachBundle(t, image, i.attestation(i.key(ask{}), statement)) },
		"bundle by a key": func(s *shelf, image pratique.Ref) {
			s.attachBundle(t, image, keyBundle(k, statement))
		},
		"cosign's tag, by a key": func(s *shelf, image pratique.Ref) {
			s.attach(t, image, ".att", layer{typeDSSE, envelope(statement, signature(k, dsse.PAE(inToto, statement))), nil})
		},
		"cosign's tag, keyless": func(s *shelf, image pratique.Ref) {
			c := i.key(ask{})
			sig := signature(c, dsse.PAE(inToto, statement))
			s.attach(t, image, ".att", layer{typeDSSE, envelope(statement, sig), i.notes(c, dsseRekord(c, sig, statement), sig)})
		},
	}
}

func TestStatements(t *testing.T) {
	i := newInstance(t)
	k := ecdsaKey(elliptic.P256())
	image, another := newShelf().image(t, app, "app"), newShelf().image(t, app, "another")
	good := statement(image, slsa1, `{"runDetails":{"builder":{"id":"b"}}}`)
	many := strings.Repeat(`{"digest":{"sha256":"00"}},`, 1024)
	for _, tc := range []struct {
		name      string
		statement []byte
		why       string // empty: it verifies
	}{
		{"good", good, ""},
		{"one of several subjects", replace(good, `"subject":[`, `"subject":[{"digest":{"sha256":"00"}},`), ""},
		{"about another image", statement(another, slsa1, `{}`), "about something else"},
		{"about nothing", replace(good, `"sha256"`, `"sha512"`), "about something else"},
		{"two digests of one subject", replace(good, `"digest":{`, `"digest":{"sha256":"00",`), "twice"},
		{"two lists of subjects", replace(good, `"subject":`, `"subject":[],"subject":`), "twice"},
		{"two builders", replace(good, `"builder":`, `"builder":{"id":"evil"},"builder":`), "twice"},
		{"two predicates", replace(good, `"predicate":`, `"predicate":{},"predicate":`), "twice"},
		{"another type of statement", replace(good, "in-toto.io/Statement/v1", "example.com"), "statement of type"},
		{"too many subjects", replace(good, `"subject":[`, `"subject":[`+many), "more than 1024 subjects"},
		{"a builder without end", replace(good, `"id":"b"`, `"id":"`+strings.Repeat("b", 5000)+`"`), "longer than"},
		{"too many keys", replace(good, `"digest":{`, `"digest":{`+keysOf(5000)), "more than 4096 keys"},
		{"no JSON", []byte("x"), "statement"},
	} {
		for way, attach := range attested(t, i, k, tc.statement) {
			t.Run(tc.name+"/"+way, func(t *testing.T) {
				s := newShelf()
				image := s.image(t, app, "app")
				attach(s, image)
				cfg := keyless(i)
				cfg.Identities["key"] = trust.Identity{Key: publicPEM(k)}
				got := verified(t, s, cfg, image)
				switch {
				case tc.why == "" && (len(got.Provenance) != 1 || len(got.Problems) > 0 || got.Provenance[0].Builder != "b"):
					t.Errorf("provenance %+v, problems %q", got.Provenance, got.Problems)
				case tc.why != "" && (len(got.Provenance) > 0 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why)):
					t.Errorf("provenance %+v, problems %q; want a problem with %q", got.Provenance, got.Problems, tc.why)
				}
			})
		}
	}
}

// keysOf are members of an object.
func keysOf(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%d":"",`, i)
	}
	return b.String()
}

func TestEnvelopesThatDoNotVerify(t *testing.T) {
	i := newInstance(t)
	k, other := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	image := newShelf().image(t, app, "app")
	st := statement(image, cosignSign, `{}`)
	sig := signature(k, dsse.PAE(inToto, st))
	good := envelope(st, sig)
	var sigs []any
	for range 17 {
		sigs = append(sigs, map[string]any{"sig": sig})
	}
	for _, tc := range []struct {
		name     string
		envelope []byte
		why      string
	}{
		{"another key", envelope(st, signature(other, dsse.PAE(inToto, st))), "none of the keys"},
		{"signed without what it is", envelope(st, signature(k, st)), "none of the keys"},
		{"nobody", must(json.Marshal(map[string]any{"payloadType": inToto, "payload": st, "signatures": []any{}})), "nobody signed"},
		{"too many", must(json.Marshal(map[string]any{"payloadType": inToto, "payload": st, "signatures": sigs})), "more than 16 signatures"},
		{"another type", must(json.Marshal(map[string]any{"payloadType": "text/plain", "payload": st, "signatures": sigs[:1]})), "payload of type"},
		{"two payloads", replace(good, `"payload":`, `"payload":"","payload":`), "twice"},
		{"not base64", replace(good, `"payload":"`, `"payload":"%`), "payload"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			s.attach(t, image, ".att", layer{typeDSSE, tc.envelope, nil})
			got := verified(t, s, keys(map[string]crypto.Signer{"key": k}), image)
			if len(got.Signatures) > 0 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why) {
				t.Errorf("signatures %+v, problems %q; want a problem with %q", got.Signatures, got.Problems, tc.why)
			}
		})
	}
	for _, tc := range []struct {
		name   string
		bundle []byte
		why    string
	}{
		{"no JSON", []byte("x"), "bundle"},
		{"an unknown field", replace(keyBundle(k, st), `{`, `{"more":1,`), "bundle"},
		{"two envelopes", replace(keyBundle(k, st), `"dsseEnvelope"`, `"dsseEnvelope":{},"dsseEnvelope"`), "bundle"},
		{"another key", keyBundle(other, st), "none of the keys"},
		{"a certificate, but no keyless identity", i.attestation(i.key(ask{}), st), "no keyless identity"},
		{"nothing signed", []byte(`{"mediaType":"` + typeBundle + `","verificationMaterial":{"publicKey":{"hint":"x"}}}`), "bundle"},
	} {
		t.Run("bundle: "+tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			s.attachBundle(t, image, tc.bundle)
			got := verified(t, s, keys(map[string]crypto.Signer{"key": k}), image)
			if len(got.Signatures) > 0 || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why) {
				t.Errorf("signatures %+v, problems %q; want a problem with %q", got.Signatures, got.Problems, tc.why)
			}
		})
	}
}

func TestVEX(t *testing.T) {
	ci, other := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	parse := func(predicate []byte) ([]pratique.Statement, error) {
		switch {
		case strings.Contains(string(predicate), "panic"):
			panic("it cannot be")
		case strings.Contains(string(predicate), "error"):
			return nil, errors.New("no such status")
		case strings.Contains(string(predicate), "many"):
			return make([]pratique.Statement, 1001), nil
		}
		return []pratique.Statement{{Document: "doc", IDs: []string{"CVE-2024-1"}, Status: "not_affected"}}, nil
	}
	for _, tc := range []struct {
		name      string
		predicate string
		key       crypto.Signer
		signedBy  []string
		why       string
	}{
		{"signed by who may", `{"ok":1}`, ci, []string{"ci"}, ""},
		{"signed by somebody else", `{"ok":1}`, other, []string{"ci"}, "signed by other, whose documents do not count"},
		{"nobody may", `{"ok":1}`, ci, nil, "do not count"},
		{"signed by nobody known", `{"ok":1}`, ecdsaKey(elliptic.P256()), []string{"ci"}, "none of the keys"},
		{"duplicate keys", `{"statements":[],"statements":[]}`, ci, []string{"ci"}, "twice"},
		{"does not parse", `{"error":1}`, ci, []string{"ci"}, "no such status"},
		{"the parser panics", `{"panic":1}`, ci, []string{"ci"}, "cannot be read"},
		{"too many", `{"many":1}`, ci, []string{"ci"}, "more than 1000"},
		{"too large", `{"big":"` + strings.Repeat("x", 1<<20) + `"}`, ci, []string{"ci"}, "at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			at := s.attachBundle(t, image, keyBundle(tc.key, statement(image, openVEX, tc.predicate)))
			cfg := keys(map[string]crypto.Signer{"ci": ci, "other": other})
			cfg.SignedBy, cfg.ParseVEX = tc.signedBy, parse
			got := verified(t, s, cfg, image)
			var want []pratique.Statement
			if tc.why == "" {
				want = []pratique.Statement{{Document: "doc", Source: "referrer:" + at.Digest.String(), By: "ci", IDs: []string{"CVE-2024-1"}, Status: "not_affected", Image: image.Digest}}
			}
			if diff := cmp.Diff(want, got.Statements); diff != "" {
				t.Errorf("statements (-want +got):\n%s", diff)
			}
			if (tc.why == "") != (len(got.Problems) == 0) || tc.why != "" && !strings.Contains(got.Problems[0], tc.why) {
				t.Errorf("problems %q; want one with %q", got.Problems, tc.why)
			}
		})
	}
}
