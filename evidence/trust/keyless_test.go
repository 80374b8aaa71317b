package trust_test

import (
	"crypto/elliptic"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"

	"pratique"
	"pratique/evidence/trust"
)

// keyless trusts workflows of acme's, signed for by the instance.
func keyless(i *instance) trust.Config {
	return trust.Config{TrustedRoot: i.trustedRoot(), Identities: map[string]trust.Identity{
		"ci": {Sigstore: trust.Sigstore{Issuer: github, Subject: "https://github.com/acme/*/.github/workflows/*"}},
	}}
}

func TestKeylessSigns(t *testing.T) {
	i := newInstance(t)
	s := newShelf()
	image := s.image(t, app, "app")
	k := i.key(ask{})
	want := func(at pratique.Ref) []pratique.Signature {
		return []pratique.Signature{{By: "ci", Kind: "sigstore", Identity: workflow, Issuer: github, Digest: at.Digest, At: k.at.UTC()}}
	}
	check := func(name string, at pratique.Ref) {
		t.Helper()
		got := verified(t, s, keyless(i), image)
		if diff := cmp.Diff(want(at), got.Signatures); diff != "" || len(got.Problems) > 0 {
			t.Errorf("%s: problems %q, signatures (-want +got):\n%s", name, got.Problems, diff)
		}
	}
	check("cosign's tag", s.attach(t, image, ".sig", i.keyless(k, payload(image))))

	s = newShelf()
	image = s.image(t, app, "app")
	at := s.push(t, image, "application/vnd.dev.cosign.artifact.sig.v1+json", "", &image, i.keyless(k, payload(image)))
	s.refer(image, at, "application/vnd.dev.cosign.artifact.sig.v1+json")
	check("a referrer of cosign's type", at)

	s = newShelf()
	image = s.image(t, app, "app")
	check("a bundle with a statement", s.attachBundle(t, image, i.attestation(k, statement(image, cosignSign, "{}"))))

	s = newShelf()
	image = s.image(t, app, "app")
	check("a bundle over the manifest", s.attachBundle(t, image, i.message(k, s.manifests[image.String()].raw)))

	s = newShelf()
	image = s.image(t, app, "app")
	at = s.attachBundle(t, image, i.attestation(k, statement(image, cosignSign, "{}")))
	s.referrers[image.String()][0].ArtifactType = "" // a registry that does not say
	check("a referrer without a type", at)
}

func TestKeylessDoesNotSign(t *testing.T) {
	i, foreign := newInstance(t), newInstance(t)
	image := newShelf().image(t, app, "app")
	another := newShelf().image(t, app, "another")
	content := payload(image)
	good := i.key(ask{})
	sig := signature(good, content)
	notes := func(edit func(map[string]string)) layer {
		n := i.notes(good, hashedRekord(good, sig, content), sig)
		edit(n)
		return layer{typeSimple, content, n}
	}
	stolen := i.notes(good, hashedRekord(good, sig, content), sig)
	other := sigkey{ecdsaKey(elliptic.P256()), good.cert, good.at}
	late := sigkey{good.PrivateKey, good.cert, good.at.Add(time.Hour)}
	own := foreign.key(ask{})
	for _, tc := range []struct {
		name  string
		layer layer
		why   string
	}{
		{"of another instance", foreign.keyless(own, content), "not enough verified log entries"},
		{"a certificate of another authority, logged here", i.keyless(foreign.key(ask{by: i}), content), "leaf certificate verification failed"},
		{"a certificate that no log holds", i.keyless(i.key(ask{noSCT: true}), content), "SCT"},
		{"a certificate that only another log holds", i.keyless(i.key(ask{by: foreign}), content), "SCT"},
		{"a signature that no log holds", notes(func(n map[string]string) { delete(n, "dev.sigstore.cosign/bundle") }), "log"},
		{"logged when the certificate was over", i.keyless(late, content), "outside certificate validity"},
		{"another's log entry", layer{typeSimple, content, func() map[string]string {
			n := i.notes(other, hashedRekord(other, signature(other, content), content), signature(other, content))
			n["dev.sigstore.cosign/bundle"] = stolen["dev.sigstore.cosign/bundle"]
			return n
		}()}, "signature does not match"},
		{"a log's promise that was changed", notes(func(n map[string]string) {
			n["dev.sigstore.cosign/bundle"] = strings.Replace(n["dev.sigstore.cosign/bundle"], `"logIndex":5`, `"logIndex":6`, 1)
		}), "not enough verified log entries"},
		{"two bodies", notes(func(n map[string]string) {
			n["dev.sigstore.cosign/bundle"] = strings.Replace(n["dev.sigstore.cosign/bundle"], `"body":`, `"body":"","body":`, 1)
		}), "comes twice"},
		{"no certificate in its annotation", notes(func(n map[string]string) { n["dev.sigstore.cosign/certificate"] = "x" }), "no certificate"},
		{"not signed by the certificate's key", i.keyless(other, content), "invalid signature"},
		{"over another image", i.keyless(good, payload(another)), "over another manifest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			s.attach(t, image, ".sig", tc.layer)
			got := verified(t, s, keyless(i), image)
			if len(got.Signatures) > 0 {
				t.Fatalf("it verified: %+v", got.Signatures)
			}
			if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], tc.why) {
				t.Errorf("problems %q; want one with %q", got.Problems, tc.why)
			}
		})
	}
}

func TestWhoIsTrusted(t *testing.T) {
	i := newInstance(t)
	for _, tc := range []struct {
		name     string
		issuer   string // trusted
		subject  string // trusted
		subjects []string
		by       string // issuer of the certificate
		want     bool
	}{
		{"the end of a glob fits everything", github, "https://github.com/acme/*/.github/workflows/*", []string{workflow}, github, true},
		{"the whole subject", github, workflow, []string{workflow}, github, true},
		{"an address", "https://accounts.google.com", "release@acme.com", []string{"release@acme.com"}, "https://accounts.google.com", true},
		{"any address of a domain", "https://accounts.google.com", "*@acme.com", []string{"release@acme.com"}, "https://accounts.google.com", true},
		{"two stars", github, "https://github.com/**/release.yml@refs/heads/main", []string{workflow}, github, true},
		{"question marks", github, "https://github.com/ac?e/app/**", []string{workflow}, github, true},

		{"the subject goes on", github, workflow, []string{workflow + "-evil"}, github, false},
		{"something before the subject", github, workflow, []string{"https://evil.com/" + workflow}, github, false},
		{"another domain that ends alike", "https://accounts.google.com", "*@acme.com", []string{"release@notacme.com"}, "https://accounts.google.com", false},
		{"a domain below", "https://accounts.google.com", "*@acme.com", []string{"release@acme.com.evil.com"}, "https://accounts.google.com", false},
		{"an organisation that begins alike", github, "https://github.com/acme/*", []string{"https://github.com/acme-evil/app"}, github, false},
		{"one star does not pass a slash", github, "https://github.com/*/app/**", []string{"https://github.com/evil/acme/app/x"}, github, false},
		{"a dot is a dot", github, "https://github.com/acme/**", []string{"https://githubXcom/acme/app"}, github, false},
		{"a question mark is no slash", github, "https://github.com?acme/**", []string{"https://github.com/acme/app"}, github, false},
		{"an issuer that goes on", github, "**", []string{workflow}, github + ".evil.com", false},
		{"an issuer that begins later", github, "**", []string{workflow}, "https://evil.com/?" + github, false},
		{"an issuer with a slash", github, "**", []string{workflow}, github + "/", false},
		{"an issuer in capitals", github, "**", []string{workflow}, strings.ToUpper(github), false},
		{"globs are for subjects", "https://*", "**", []string{workflow}, github, false},
		{"two identities, the first trusted", github, workflow, []string{workflow, "https://github.com/evil/app"}, github, false},
		{"two identities, the last trusted", github, workflow, []string{"https://github.com/evil/app", workflow}, github, false},
		{"a URI and an address", github, workflow, []string{workflow, "evil@evil.com"}, github, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newShelf()
			image := s.image(t, app, "app")
			k := i.key(ask{subjects: tc.subjects, issuer: tc.by})
			s.attach(t, image, ".sig", i.keyless(k, payload(image)))
			got := verified(t, s, trust.Config{TrustedRoot: i.trustedRoot(), Identities: map[string]trust.Identity{
				"ci": {Sigstore: trust.Sigstore{Issuer: tc.issuer, Subject: tc.subject}},
			}}, image)
			if verified := len(got.Signatures) == 1; verified != tc.want || verified == (len(got.Problems) > 0) {
				t.Errorf("signatures %+v, problems %q; want a signature: %t", got.Signatures, got.Problems, tc.want)
			}
		})
	}
}

func TestSeveralIdentitiesOfOneSignature(t *testing.T) {
	i := newInstance(t)
	s := newShelf()
	image := s.image(t, app, "app")
	s.attach(t, image, ".sig", i.keyless(i.key(ask{}), payload(image)))
	cfg := keyless(i)
	cfg.Identities["acme"] = trust.Identity{Sigstore: trust.Sigstore{Issuer: github, Subject: "https://github.com/acme/*"}}
	cfg.Identities["others"] = trust.Identity{Sigstore: trust.Sigstore{Issuer: github, Subject: "https://github.com/others/*"}}
	if diff := cmp.Diff([]string{"acme", "ci"}, by(verified(t, s, cfg, image))); diff != "" {
		t.Error(diff)
	}
}

func TestTrustedRoots(t *testing.T) {
	i := newInstance(t)
	id := map[string]trust.Identity{"ci": {Sigstore: trust.Sigstore{Issuer: github, Subject: "**"}}}
	for _, tc := range []struct {
		name string
		root []byte
		ids  map[string]trust.Identity
		want string
	}{
		{"none", nil, id, "need a trusted root"},
		{"no JSON", []byte("x"), id, "trusted root"},
		{"no authorities", i.trustedRoot(func(r *prototrustroot.TrustedRoot) { r.CertificateAuthorities = nil }), id, "no certificate authorities"},
		{"nothing that proves a time", i.trustedRoot(func(r *prototrustroot.TrustedRoot) { r.Tlogs = nil }), id, "neither transparency logs nor time stampers"},
		{"no issuer", i.trustedRoot(), map[string]trust.Identity{"ci": {Sigstore: trust.Sigstore{Subject: "**"}}}, "both issuer and subject"},
		{"no subject", i.trustedRoot(), map[string]trust.Identity{"ci": {Sigstore: trust.Sigstore{Issuer: github}}}, "both issuer and subject"},
		{"nothing at all", nil, map[string]trust.Identity{"ci": {}}, "exactly one"},
		{"key and certificate", i.trustedRoot(), map[string]trust.Identity{"ci": {Key: publicPEM(i.rekor), Sigstore: id["ci"].Sigstore}}, "exactly one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := trust.New(newShelf(), newMemory(), trust.Config{TrustedRoot: tc.root, Identities: tc.ids})
			if !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; want an invalid one that says %q", err, tc.want)
			}
		})
	}
	if _, err := trust.New(newShelf(), newMemory(), trust.Config{SignedBy: []string{"nobody"}}); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("VEX signed by nobody: %v", err)
	}
}

// A private instance without a log of certificates says so in its root.
func TestRootWithoutCertificateLog(t *testing.T) {
	i := newInstance(t)
	s := newShelf()
	image := s.image(t, app, "app")
	s.attach(t, image, ".sig", i.keyless(i.key(ask{noSCT: true}), payload(image)))
	cfg := keyless(i)
	cfg.TrustedRoot = i.trustedRoot(func(r *prototrustroot.TrustedRoot) { r.Ctlogs = nil })
	if got := verified(t, s, cfg, image); len(got.Signatures) != 1 {
		t.Errorf("problems %q", got.Problems)
	}
}
